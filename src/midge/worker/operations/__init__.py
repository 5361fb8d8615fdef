"""What can happen to a machine, one operation a file: its steps, and what the machine looks like afterwards.

```
 context   what the steps know      steps    those that several operations have
 finish    how a run ends           registry all operations by kind
```

Each module offers a `MachineOperation`: an `Operation` whose steps do the work through the driver, and a pure `finish`
that turns the run's outcome into the machine's next resting state, its events, and the request that follows by itself.
What runs the steps, and knows nothing of machines, is `midge.operations`.
"""
