"""The central store: what the api, and nobody else, writes."""
