"""`make bench`: everything `midge bench` can measure here, kept in bench/results and shown in docs/performance.md."""
