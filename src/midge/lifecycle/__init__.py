"""The life of a machine, as a pure function: no I/O, no clock, no await.

```
             create            start                      suspend
   (api) ──► creating ──► created ──► starting ──► started ──► suspending ──► suspended
                │                        ▲  │        │  ▲ │                       │
                ▼ failed                 │  ▼ failed │  │ └─► restarting ──┐      │ start: resume,
          launch_failed                  │ failed    │  └─────────────────┘      │ or cold
                │                        │           ▼ stop, exit                 │
                ▼                        └─ stopped ◄── stopping ◄────────────────┘ stop: drop snapshot
            destroyed ◄── destroying ◄── (any, by destroy; not forced: from a resting state)
                               update: (any resting state or started) ──► replacing ──► starting | stopped | created
```

Who may do what: each state that ends in -ing has exactly one operation running (see `midge.operations`); the
states between are at rest. Requests come from the api or the proxy, `op_done` and `op_failed` from the operation,
`exited` from the driver. `table.TABLE` is all there is to know; a pair that is not in it is a bug and raises
`IllegalTransition` with the machine's recent history.
"""
