"""Durable operations: linear lists of named, idempotent steps. Knows nothing of machines.

```
 begin ──► [step 1] ──► [step 2] ──► … ──► finalise ──► finish (done | failed)
   │           │ output written              always
   │           └─ intent written before the effect
   └─ one row, in the caller's own transaction
```

Before a step runs, its name is on disk; when it has run, its output is. After a crash the step whose name is there
is run again, so a step must be able to find what it did the first time. Each subject has at most one operation
under way. The class of an error decides (`MidgeError.retried`): one that says the same every time ends the operation,
any other is tried again with back-off until the step's `attempts` are used up. Cancellation writes nothing: the
operation goes on at the next start, unless its owner marks it superseded.
"""
