"""`midge serve`: one process with the api and the worker of this host, over one data directory."""
