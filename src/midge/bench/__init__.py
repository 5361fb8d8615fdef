"""Benchmarks of a host, from the side of a client: `midge bench` and `python -m bench`.

```
 runner ─► target (own `midge serve`, or --url) ─► suite/<name>.py ─► recorder ─► report · JSON · docs/performance.md
                                                      └► floor/: the same work without Midge, in turns with it
```

A benchmark is one file in `midge.bench.suite`; what it promises is one line in `midge.bench.goals`.
"""
