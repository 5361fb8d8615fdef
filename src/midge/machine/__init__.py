"""What a machine is: its configuration as the API spells it, its record, its events."""
