"""What a check of the host is, for the parts that bring one. `midge doctor` runs them."""
