"""Running one Firecracker, by the jailer, behind a shim.

::

    shim ── joins cgroup and network namespace ──► jailer ── jail, device nodes, user, pid namespace ──► firecracker
     │                                              └ ends, leaving the pid
     └── v.sock, port 10000 ◄──────────────────────────────────────────────────────────────────────► init

The shim and not the jailer joins the control groups: then they are the same as every driver's on every kind of
hierarchy, and the jailer's own work is accounted to the machine too. Firecracker logs to its standard output, which
the shim keeps within a fixed space, as it does with the guest's serial port.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
from dataclasses import dataclass
from pathlib import Path

from midge.cgroup import Cgroup
from midge.drivers import shim, shim_files
from midge.drivers.firecracker.api import Api
from midge.drivers.firecracker.appear import Appearance
from midge.drivers.firecracker.jail import API_SOCKET, Jail
from midge.drivers.firecracker.version import Programs
from midge.drivers.instance import kill_leftover
from midge.errors import DeadlineExceeded, DriverError
from midge.guest.errors import ChannelLost
from midge.machine.spec import MIB, Shape
from midge.net.slot import NetSlot

GUEST_PORT = 10_000  # where the guest's init listens on vsock (rust/init/src/find.rs)
GUEST_CID = 3  # the same in every guest: each has a vsock of its own
NOFILE = 1024
OOM_SCORE = 500  # the guest goes before the services of the host do
API_TIMEOUT_S = 10.0  # from the jailer's start until Firecracker listens, on a loaded host
FILE_SLACK_BYTES = 64 * MIB  # a snapshot's state, above the largest file a VMM may write
END_TIMEOUT_S = 5.0  # from SIGKILL until the shim has said that it ended
LAST_WORDS_CHARS = 600
# From bind to listen, in which connecting is refused: microseconds. Pauses in seconds.
_REFUSED_PAUSES_S = (0.001, 0.004, 0.016, 0.064, 0.256)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where one VMM runs and as whom."""

    rundir: Path
    log: Path
    jail: Jail
    slot: NetSlot
    cgroup: Cgroup | None


def command(programs: Programs, jail: Jail, *, file_bytes_max: int) -> tuple[str, ...]:
    """The words to execute: the jailer's, then Firecracker's. Its seccomp filters are on unless it is told otherwise.

    Args:
        file_bytes_max: of the largest file the VMM may write.
    """
    return (
        str(programs.jailer),
        *("--id", jail.id),
        *("--exec-file", str(programs.firecracker)),
        *("--uid", str(jail.uid), "--gid", str(jail.uid)),
        *("--chroot-base-dir", str(jail.base)),
        *("--resource-limit", f"no-file={NOFILE}"),
        *("--resource-limit", f"fsize={file_bytes_max}"),
        "--new-pid-ns",
        "--",
        *("--api-sock", f"/run/{API_SOCKET}"),
    )


def file_bytes_max(shape: Shape, rootfs_mb: int) -> int:
    """The writable disk, or a snapshot's memory, whichever is larger."""
    return max(shape.memory_mb, rootfs_mb) * MIB + FILE_SLACK_BYTES


async def launch(programs: Programs, place: Place, *, file_bytes_max: int) -> shim.ShimProcess:
    """Starts shim, jailer and Firecracker in a jail that is complete; returns when its API listens.

    Raises:
        DriverError: it did not come up; the message has the jailer's or Firecracker's last words.
    """
    jail = place.jail
    spec = shim.ShimSpec(
        rundir=place.rundir,
        program=command(programs, jail, file_bytes_max=file_bytes_max),
        log=place.log,
        channel=shim.VsockChannel(jail.vsock, GUEST_PORT),
        pid_file=jail.pid_file,
        netns=place.slot.netns_path,
        cgroups=tuple(place.cgroup.procs_files()) if place.cgroup else (),
        oom_score=OOM_SCORE,
        no_new_privs=True,
    )
    with Appearance(jail.api_socket) as appearance:
        process = await shim.launch(spec)
        try:
            await _wait_for_api(process, appearance)
        except BaseException:
            await end(process)
            raise
    return process


async def end(process: shim.ShimProcess) -> None:
    """Ends a Firecracker and its shim at once, the jailer too if it still runs. Repeatable."""
    with contextlib.suppress(ChannelLost, DeadlineExceeded, TimeoutError):
        async with asyncio.timeout(END_TIMEOUT_S), await process.attach() as channel:
            await channel.kill()
            await channel.wait_ended()
            await channel.quit()
    await asyncio.to_thread(kill_leftover, process.rundir)
    process.release()


async def _wait_for_api(process: shim.ShimProcess, appearance: Appearance) -> None:
    listening = asyncio.create_task(appearance.wait())
    ended = asyncio.create_task(process.wait())
    try:
        await asyncio.wait((listening, ended), timeout=API_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
        if listening.done():
            listening.result()
            return
        how = "ended at once" if ended.done() else f"did not listen within {API_TIMEOUT_S:g} s"
        raise DriverError(f"firecracker {how}: {last_words(process.rundir)}", hint=_hint(process.rundir))
    finally:
        for task in (listening, ended):
            task.cancel()
        await asyncio.gather(listening, ended, return_exceptions=True)


async def connect(jail: Jail) -> Api:
    """A conversation with the Firecracker of a jail. Raises: DriverError if nobody listens there."""
    for pause_s in (*_REFUSED_PAUSES_S, None):
        try:
            return Api(jail.connect())
        except OSError as error:
            if error.errno != errno.ECONNREFUSED or pause_s is None:
                raise DriverError(f"no firecracker listens in jail {jail.id}") from error
        await asyncio.sleep(pause_s)
    raise AssertionError("the last attempt raises")


def last_words(rundir: Path) -> str:
    """The end of what jailer, Firecracker and the guest's console have written, for an error message."""
    ended = shim_files.read_state(rundir).ended
    text = ended.error if ended is not None and ended.error else ""
    if not text:
        try:
            text = (rundir / "vmm.log").read_bytes()[-LAST_WORDS_CHARS:].decode(errors="replace")
        except OSError:
            text = ""
    return " ".join(text.split())[-LAST_WORDS_CHARS:] or "the VMM said nothing"


def _hint(rundir: Path) -> str:
    return f"see {rundir / 'vmm.log'}"
