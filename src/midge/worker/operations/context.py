"""What the steps of a run know: the machine, the run, and what the worker's tasks share."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from midge.drivers.base import Handle
from midge.machine.spec import ExitStatus, MachineSpec
from midge.operations.model import Run
from midge.worker.operations.journal import Input
from midge.worker.parts import Parts
from midge.worker.record import ImageResult, Machine
from midge.worker.spec_builder import build_spec
from midge.worker.trace import PhaseTrace

In = TypeVar("In", bound=Input)
T = TypeVar("T")


@dataclass(slots=True)
class Context(Generic[In]):
    """One run of a verb.

    Attributes:
        machine: as it was when the run began; never changed here.
        exit: the driver's report, when the process had ended before the run came to look.
        kept: what runs after a suspend that failed; None if nothing does.
    """

    parts: Parts
    machine: Machine
    run: Run
    trace: PhaseTrace
    exit: ExitStatus | None = None
    kept: Handle | None = None

    def spec(self, machine: Machine | None = None) -> MachineSpec:
        target = machine or self.machine
        return build_spec(target, self.run.id, self.parts.log_file(target.id))

    @property
    def input(self) -> In:
        given: In = self.run.input
        return given

    def output(self, step: str, form: type[T]) -> T | None:
        """What an earlier step has put out; None: nothing, or it has not run."""
        found = self.run.outputs.get(step)
        assert found is None or isinstance(found, form), f"{step} put out a {type(found).__name__}"
        return found


def with_image(context: Context[Any], machine: Machine) -> Machine:
    """The machine with what the step `image` learned."""
    result = context.output("image", ImageResult)
    if result is None:
        return machine
    copied = copy.copy(machine)
    copied.image_ref = result.ref
    copied.image_process = result.process
    return copied
