"""`midge machine`: one module a verb."""
