"""Stopping a guest with its devices' state on file, and having one go on that stands still."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

from midge.drivers.configure import ENTROPY_BYTES
from midge.drivers.instance import Instance
from midge.drivers.qemu import boot
from midge.drivers.qemu.launch import QMP_SOCKET
from midge.drivers.qemu.qmp import Qmp
from midge.errors import DriverError, MidgeError
from midge.guest import messages as m
from midge.guest.channel import GuestChannel

LOOK_S = 0.002  # between two looks whether QEMU is done with a migration
_ENDED = frozenset({"none", "completed", "failed", "cancelled"})  # states of a migration that moves no more
RUN_ON_TIMEOUT_S = 10.0  # for a guest whose save failed to run again; the caller waits, maybe to shut down
WAKE_TIMEOUT_S = (
    30.0  # for one answer of a guest that has just been restored, on a loaded host under emulation
)
ENDED_TIMEOUT_S = 10.0  # from the kill of a saved VMM until it is gone


async def save(instance: Instance, path: Path) -> None:
    """Stops the guest and writes its device state to a new file. Its memory and disk change no more from then on.

    Raises:
        DriverError: the guest runs on as if nothing had been asked; so it does when this is cancelled.
    """
    state = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    qmp = None
    try:
        await instance.channel.quiesce(freeze=True)
        qmp = await Qmp.connect(instance.rundir / QMP_SOCKET, state_fd=state)
        await boot.save_state(qmp)
        await _standing(qmp)
    except BaseException:
        await _undo(instance, qmp)
        raise
    finally:
        os.close(state)
        if qmp is not None:
            qmp.close()


async def _standing(qmp: Qmp) -> bool:
    """Waits until a migration has come to its end; says whether the guest stands still then.

    QEMU tells of the end before it has got there, and refuses to let the guest go on in between. It is never told to
    cancel: one that comes just before the end has QEMU 7.2 run the guest on disks it has let go of, and abort at the
    next write. There is no memory in what is saved, so the end is milliseconds away.
    """
    while True:
        migration = (await qmp.execute("query-migrate")).get("status", "none")
        found = await qmp.execute("query-status")
        if migration in _ENDED and found["status"] != "finish-migrate":
            return not found["running"]
        await asyncio.sleep(LOOK_S)


async def _undo(instance: Instance, qmp: Qmp | None) -> None:
    """The guest may stand still by now, or be about to, and it is quiet until a HELLO."""
    with contextlib.suppress(MidgeError, TimeoutError):
        async with asyncio.timeout(RUN_ON_TIMEOUT_S):
            if qmp is not None and await _standing(qmp):
                await qmp.execute("cont")
            await wake(instance.channel)


async def wake(channel: GuestChannel, *, timeout_s: float = WAKE_TIMEOUT_S) -> None:
    """After the guest stood still: new session, right clock, fresh entropy; only then its processes go on.

    Name and addresses are its own already. A guest that runs no machine yet has no processes and no clock to care for.

    Raises:
        DeadlineExceeded, ChannelLost, GuestRefused.
    """
    guest = await channel.hello(resume=True, timeout_s=timeout_s)
    if guest.state == "running":
        message = m.Resume(wall_clock_ns=time.time_ns(), entropy=os.urandom(ENTROPY_BYTES))
        await channel.resume(message)


@contextlib.asynccontextmanager
async def standing(rundir: Path) -> AsyncIterator[Qmp]:
    """The monitor of a VMM whose guest stands still since it was saved. Raises: DriverError: it does not."""
    qmp = await Qmp.connect(rundir / QMP_SOCKET)
    try:
        status = (await qmp.execute("query-status"))["status"]
        if status != "postmigrate":
            raise DriverError(f"the guest of {rundir.name} does not stand still: {status}")
        yield qmp
    finally:
        qmp.close()


async def run_on(rundir: Path) -> bool:
    """Has a guest go on that stands still since it was saved. Nothing for one that runs.

    Returns:
        False for a VMM that was not restored: its worker died before it had the order. No guest will ever answer there.
    """
    with contextlib.suppress(MidgeError, TimeoutError):
        async with asyncio.timeout(RUN_ON_TIMEOUT_S):
            qmp = await Qmp.connect(rundir / QMP_SOCKET)
            try:
                if (await qmp.execute("query-status"))["status"] == "inmigrate":
                    return False
                if await _standing(qmp):
                    await qmp.execute("cont")
            finally:
                qmp.close()
    return True


async def end_vmm(instance: Instance) -> None:
    """Ends a VMM whose guest is saved; its shim stays."""
    await instance.kill()
    with contextlib.suppress(MidgeError, TimeoutError):
        async with asyncio.timeout(ENDED_TIMEOUT_S):
            await instance.channel.wait_ended()
