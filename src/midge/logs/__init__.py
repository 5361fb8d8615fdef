"""Machine logs: one record a line, in the format container runtimes use (CRI); written by `midge-shim`."""
