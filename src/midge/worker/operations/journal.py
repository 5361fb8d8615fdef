"""What the journal holds of an operation: its input, and what its steps found out. JSON on disk, typed in memory.

What is written here outlives the worker that wrote it: the next version takes up what this one began. So a member may
be added, with a default that means what its absence meant; members that nobody reads any more are passed over. Rows of
this version and of the one before are in `tests/vectors/journal`.
"""

from __future__ import annotations

import base64
from typing import Any, Final, Literal

import msgspec

from midge.drivers.base import Handle
from midge.lifecycle.states import OperationKind, State
from midge.machine.spec import ExitStatus
from midge.operations.model import Run
from midge.worker.host import ImageRefView
from midge.worker.record import ImageProcess, ImageResult, Machine


class Input(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """What every operation is given.

    Attributes:
        source: who wanted it: ``user``, ``proxy`` or ``flyd`` (the worker itself).
        superseded: the operation that this one put an end to; it begins with what that one left.
    """

    source: str = "user"
    superseded: OperationKind | Literal[""] = ""


class HaltInput(Input, kw_only=True, frozen=True, omit_defaults=True):
    """How a process is ended that may still run.

    Attributes:
        signal: by name; None: the machine's configuration decides, as with `timeout_s`.
        force: it is killed without being asked.
    """

    signal: str | None = None
    timeout_s: float | None = None
    force: bool = False


class CreateInput(Input, kw_only=True, frozen=True, omit_defaults=True):
    skip_launch: bool = False


class StartInput(Input, kw_only=True, frozen=True, omit_defaults=True):
    pass


class StopInput(HaltInput, kw_only=True, frozen=True, omit_defaults=True):
    pass


class SettleInput(Input, kw_only=True, frozen=True, omit_defaults=True):
    pass


class SuspendInput(Input, kw_only=True, frozen=True, omit_defaults=True):
    pass


class RestartInput(HaltInput, kw_only=True, frozen=True, omit_defaults=True):
    """`policy`: the machine's restart policy wants it, after `delay_s`; its exit is recorded already."""

    policy: bool = False
    delay_s: float = 0.0


class DestroyInput(Input, kw_only=True, frozen=True, omit_defaults=True):
    """`launch_failed`: what a create that failed has left; `exited`: the exit that led here is recorded already."""

    launch_failed: bool = False
    exited: bool = False


class OldVersion(msgspec.Struct, kw_only=True, frozen=True):
    """What an update must know of the version it replaces, to go back to it."""

    state: State
    version: str
    config: msgspec.Raw  # the configuration; an earlier Midge wrote a string: the same in base64
    image_ref: ImageRefView
    image_process: ImageProcess

    @classmethod
    def of(cls, machine: Machine) -> OldVersion:
        return cls(
            state=machine.state,
            version=machine.version,
            config=msgspec.Raw(machine.config_json),
            image_ref=machine.image_ref,
            image_process=machine.image_process,
        )

    @property
    def config_json(self) -> bytes:
        found = bytes(self.config)
        return base64.b64decode(msgspec.json.decode(found, type=str)) if found.startswith(b'"') else found


class UpdateInput(HaltInput, kw_only=True, frozen=True, omit_defaults=True):
    """`metadata`: the new version's when the update began; None in the journals of an earlier Midge."""

    old: OldVersion
    metadata: dict[str, str] | None = None
    skip_launch: bool = False


class Halted(msgspec.Struct, kw_only=True, frozen=True):
    """Output of `halt`: the exit that it saw; none where nothing ran."""

    exit: ExitStatus | None = None


class Launched(msgspec.Struct, kw_only=True, frozen=True):
    """Output of `launch`: what runs now. `note` says why it came up in another way than it should have."""

    handle: Handle
    resumed: bool = False
    note: str = ""


class Ready(msgspec.Struct, kw_only=True, frozen=True):
    """Output of an update's `prepare_done`: the old version is being taken down from here on."""

    ready: bool = True


INPUTS: Final[dict[OperationKind, type[Input]]] = {
    "create": CreateInput,
    "start": StartInput,
    "stop": StopInput,
    "settle": SettleInput,
    "suspend": SuspendInput,
    "restart": RestartInput,
    "update": UpdateInput,
    "destroy": DestroyInput,
}

# By the step's name, which means the same in every operation; other steps put out nothing, or the driver's own record.
OUTPUTS: Final[dict[str, Any]] = {
    "image": ImageResult,
    "halt": Halted,
    "launch": Launched | None,
    "prepare_done": Ready,
    "save": dict[str, Any],
}

_input_decoders = {kind: msgspec.json.Decoder(form) for kind, form in INPUTS.items()}
_outputs_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_output_decoders = {step: msgspec.json.Decoder(form) for step, form in OUTPUTS.items()}
_other_decoder = msgspec.json.Decoder()


def decode_input(kind: str, data: str | bytes) -> Input:
    """Raises msgspec.DecodeError: no version of Midge has written this."""
    return _input_decoders[kind].decode(data)  # type: ignore[index]  # journalled kinds are OperationKind


def decode_outputs(data: str | bytes) -> dict[str, Any]:
    """The outputs of steps by name. Raises msgspec.DecodeError: as above."""
    raw = _outputs_decoder.decode(data)
    return {step: _output_decoders.get(step, _other_decoder).decode(found) for step, found in raw.items()}


def was_resumed(run: Run) -> bool:
    """The run brought the machine back from its snapshot."""
    launched = run.outputs.get("launch")
    return isinstance(launched, Launched) and launched.resumed
