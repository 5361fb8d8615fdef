"""What this host can do: named checks. Their names and states are API; `registry.CHECKS` is the list."""
