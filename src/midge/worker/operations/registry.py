"""All operations on machines, by kind."""

from __future__ import annotations

from typing import Final

from midge.lifecycle.states import OperationKind
from midge.worker.operations import create, destroy, restart, settle, start, stop, suspend, update
from midge.worker.operations.finish import MachineOperation

OPERATIONS: Final[dict[OperationKind, MachineOperation]] = {
    operation.kind: operation
    for operation in (
        create.OPERATION,
        start.OPERATION,
        stop.OPERATION,
        settle.OPERATION,
        suspend.OPERATION,
        restart.OPERATION,
        update.OPERATION,
        destroy.OPERATION,
    )
}
