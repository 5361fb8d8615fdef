"""The same work without Midge, measured in turns with it: what no platform can go below on this host."""
