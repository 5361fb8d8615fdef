"""The steps that several operations have. Each finds what it did the first time, where it is run again."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import structlog

from midge.drivers.base import Handle
from midge.errors import DriverError, NotRunning, SnapshotUnusable, chain
from midge.machine.normalise import stop_timeout_s
from midge.machine.spec import ExitStatus, MachineSpec
from midge.operations.model import Step
from midge.worker.operations.context import Context, with_image
from midge.worker.operations.journal import Halted, HaltInput, Input, Launched
from midge.worker.record import ImageResult

KILL_TIMEOUT_S = 10.0  # from SIGKILL of a VMM or container until it must be gone
STOP_SIGNAL_DEFAULT = "SIGINT"

_log = structlog.get_logger("midge.worker")


async def halt(context: Context[HaltInput]) -> Halted:
    """Asks the process to end, then makes it. Returns its exit; none when nothing ran."""
    machine, driver = context.machine, context.parts.driver
    if machine.snapshot is not None:
        await driver.discard_snapshot(machine.id, machine.snapshot)
    if machine.handle is None:
        return Halted()
    if context.exit is None:
        try:
            context.exit = await _signal_and_wait(context, machine.handle)
        except NotRunning:  # an operation before this one got as far as `cleanup`, and then failed
            return Halted()
    context.trace.mark("exit")
    return Halted(exit=context.exit)


async def _signal_and_wait(context: Context[HaltInput], handle: Handle) -> ExitStatus:
    driver, config, given = context.parts.driver, context.machine.config, context.input
    stop = config.stop_config
    name = given.signal or (stop.signal if stop else None) or STOP_SIGNAL_DEFAULT
    timeout_s = 0.0 if given.force else given.timeout_s or stop_timeout_s(config)
    try:
        async with asyncio.timeout(timeout_s):
            await driver.signal(handle, signal.Signals[name])
            return await driver.wait(handle)
    except TimeoutError:
        pass
    context.trace.mark("grace")
    return await kill_and_wait(context, handle)


async def kill_and_wait(context: Context[Any], handle: Handle) -> ExitStatus:
    driver = context.parts.driver
    await driver.kill(handle)
    try:
        async with asyncio.timeout(KILL_TIMEOUT_S):
            return await driver.wait(handle)
    except TimeoutError as error:
        raise DriverError(f"machine {handle.machine_id} was killed and is still there") from error


async def cleanup(context: Context[Any]) -> None:
    await context.parts.driver.cleanup(context.machine.id, context.machine.handle)
    context.trace.mark("cleanup")


async def fetch_image(context: Context[Any]) -> ImageResult:
    """Brings the image here; its digest was fixed when the request came."""
    result = await context.parts.images.fetch(context.machine.image_ref)
    context.trace.mark("image")
    return result


async def prepare(context: Context[Any]) -> None:
    """Makes everything a start takes for granted: the image's root filesystem, the log's folder."""
    context.parts.log_path(context.machine.id).parent.mkdir(parents=True, exist_ok=True)
    await context.parts.driver.prepare(context.spec(with_image(context, context.machine)))
    context.trace.mark("prepare")


async def launch(context: Context[Any]) -> Launched:
    """Starts the machine cold, or resumes it where it has a snapshot. Returns handle and how."""
    parts = context.parts
    machine = with_image(context, context.machine)
    spec = context.spec(machine)
    note = ""
    # A step that is tried again has spent the time since on its first try, and on the pause.
    context.trace.mark("retry" if context.trace.has("journal") else "journal")
    # A run that halted the machine first has dropped its snapshot.
    snapshot = machine.snapshot if context.output("halt", Halted) is None else None
    try:
        handle = await _go_on(context, spec) if _was_being_suspended(context) else None
        if snapshot is not None:
            handle = await parts.driver.resume(spec, snapshot, context.trace)
        if handle is not None:
            return Launched(handle=handle, resumed=True)
    except SnapshotUnusable as error:
        note = f"cold start: {chain(error)}"
        _log.warning("snapshot unusable", machine=machine.id, error=chain(error))
        await parts.driver.discard_snapshot(machine.id, snapshot or {})
        await parts.driver.cleanup(machine.id, None)
    handle = await parts.driver.start(spec, context.trace)
    return Launched(handle=handle, note=note)


def _was_being_suspended(context: Context[Input]) -> bool:
    return context.input.superseded == "suspend"


async def _go_on(context: Context[Input], spec: MachineSpec) -> Handle | None:
    """A start that came during a suspend keeps the machine where it is."""
    if context.machine.handle is None:
        return None
    return await context.parts.driver.go_on(spec, context.machine.handle, context.trace)


async def undo_launch(context: Context[Any], error: BaseException | None) -> None:
    """After a start that did not come up nothing of it may be left."""
    if error is not None:
        await context.parts.driver.cleanup(context.machine.id, context.machine.handle)


HALT = Step("halt", halt)
CLEANUP = Step("cleanup", cleanup)
IMAGE = Step("image", fetch_image, attempts=3)
PREPARE = Step("prepare", prepare, attempts=2)
LAUNCH = Step("launch", launch, attempts=2)
