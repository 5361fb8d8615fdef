"""What the steps of a run know: the machine, the run, and what the worker's tasks share."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import msgspec

from midge.drivers.base import Handle
from midge.machine.spec import ExitStatus, MachineSpec
from midge.operations.model import Run
from midge.worker.parts import ImageResult, Parts
from midge.worker.record import Machine
from midge.worker.spec_builder import build_spec
from midge.worker.trace import PhaseTrace


@dataclass(slots=True)
class Context:
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
        start_id = self.run.input.get("start_id", self.run.id)
        return build_spec(target, start_id, self.parts.log_file(target.id))

    def output(self, step: str) -> Any:
        return self.run.outputs.get(step)


def with_image(context: Context, machine: Machine) -> Machine:
    """The machine with what the step `image` learned."""
    data = context.output("image")
    if data is None:
        return machine
    result = msgspec.convert(data, ImageResult)
    copied = copy.copy(machine)
    copied.image_ref = result.ref
    copied.image_process = result.process
    return copied
