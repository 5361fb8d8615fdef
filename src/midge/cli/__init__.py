"""The command line. `midge.cli.main` is where it starts; `midge.cli.tree` lists the commands."""
