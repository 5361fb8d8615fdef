"""What comes with a request to a machine, and the input of the operation that the request leads to. Pure."""

from __future__ import annotations

import msgspec

from midge.lifecycle.states import OperationKind
from midge.worker.host import ImageRefView
from midge.worker.operations import journal


class Asked(msgspec.Struct, kw_only=True, frozen=True):
    """With any request but an update; each operation takes what it knows. Members as in `journal.HaltInput`."""

    source: str = "user"
    signal: str | None = None
    timeout_s: float | None = None
    force: bool = False


class NewVersion(msgspec.Struct, kw_only=True, frozen=True):
    """With an update: the version to come.

    Attributes:
        current_version: the one it is meant to replace, "" for any.
        launch_memory_mb: what a launch of it needs at once, MiB; 0: it is not launched.
        lease_ttl_s: seconds of the lease that `owner` gets with it, if nobody holds one; 0 for none.
    """

    version: str
    config_json: bytes
    image_ref: ImageRefView
    metadata: dict[str, str]
    memory_mb: int
    skip_launch: bool = False
    current_version: str = ""
    lease_ttl_s: int = 0
    owner: str = ""
    source: str = "user"

    @property
    def launch_memory_mb(self) -> int:
        return 0 if self.skip_launch else self.memory_mb


Params = Asked | NewVersion


def input_of(kind: OperationKind, asked: Asked) -> journal.Input:
    """What an operation is given that a request began. An update is given more: `operations.update.begin`."""
    match kind:
        case "stop":
            return journal.StopInput(source=asked.source, signal=asked.signal, timeout_s=asked.timeout_s)
        case "restart":
            return journal.RestartInput(
                source=asked.source, signal=asked.signal, timeout_s=asked.timeout_s, force=asked.force
            )
        case _:
            return journal.INPUTS[kind](source=asked.source)
