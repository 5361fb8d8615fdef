"""One module a noun or a verb; imported only when called."""
