"""What can happen to a machine, one verb a file: its steps, and what the machine looks like afterwards.

Each module offers a `Verb`: an `Operation` whose steps do the work through the driver, and a pure `finish` that turns
the run's outcome into the machine's next resting state, its events, and the request that follows by itself, if any.
"""

from __future__ import annotations

from typing import Final

from midge.lifecycle.states import OperationKind
from midge.worker.verbs import create, destroy, restart, settle, start, stop, suspend, update
from midge.worker.verbs.base import Verb

VERBS: Final[dict[OperationKind, Verb]] = {
    "create": create.VERB,
    "start": start.VERB,
    "stop": stop.VERB,
    "settle": settle.VERB,
    "suspend": suspend.VERB,
    "restart": restart.VERB,
    "update": update.VERB,
    "destroy": destroy.VERB,
}
