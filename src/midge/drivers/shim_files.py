"""What a machine's shim keeps on disk, for a worker that comes back.

The run directory of a machine:

    guest.sock   the shim listens here while the machine runs
    shim.json    who shim and main process are
    exit.json    how the main process ended, as soon as the guest has said so
    ended.json   how the VMM or container ended, as soon as it has
    vmm.log      what the VMM or launcher itself has written, the last 256 KiB with vmm.log.1
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from midge.errors import DriverError
from midge.guest.messages import Ended, GuestExit

_T = TypeVar("_T")

SOCKET_NAME = "guest.sock"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process that cannot be taken for a later one with the same number.

    start_time: field 22 of /proc/pid/stat, clock ticks since boot (proc(5)).
    """

    pid: int
    start_time: int
    boot_id: str

    def is_alive(self) -> bool:
        """Whether this very process runs; one that waits to be reaped does not."""
        if self.pid <= 0 or _BOOT_ID.read_text().strip() != self.boot_id:
            return False
        stat = _process_stat(self.pid)
        return stat is not None and stat == (True, self.start_time)

    def kill(self) -> bool:
        """SIGKILL; False if it has ended already. Safe against reuse of the number."""
        if self.pid <= 0:
            return False
        try:
            pidfd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return False
        try:
            # Asked after the descriptor was opened: if it is this process now, the descriptor is its own.
            if not self.is_alive():
                return False
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        except ProcessLookupError:
            return False
        finally:
            os.close(pidfd)
        return True


class ShimRecord(msgspec.Struct, frozen=True, kw_only=True):
    """shim.json; `child_pid` is 0 while a launcher runs."""

    shim_pid: int
    shim_start_time: int
    child_pid: int
    child_start_time: int
    boot_id: str
    log: str = ""

    @property
    def shim(self) -> ProcessIdentity:
        return ProcessIdentity(self.shim_pid, self.shim_start_time, self.boot_id)

    @property
    def child(self) -> ProcessIdentity:
        return ProcessIdentity(self.child_pid, self.child_start_time, self.boot_id)


@dataclass(frozen=True, slots=True)
class ShimState:
    """What a run directory says.

    shim_alive: attaching works, and tells the rest.
    child_alive: the main process runs; without `shim_alive` it has lost its shim and has to be killed.
    """

    record: ShimRecord | None
    exit: GuestExit | None
    ended: Ended | None
    shim_alive: bool
    child_alive: bool


def read_state(rundir: Path) -> ShimState:
    """Reads the files of a run directory; members are None where a file is not there.

    Raises:
        DriverError: a file is not what a shim writes.
    """
    record = _read(rundir / "shim.json", ShimRecord)
    # Liveness first: a shim that ends between the two looks has its files ready for the second.
    shim_alive = record is not None and record.shim.is_alive()
    child_alive = record is not None and record.child.is_alive()
    return ShimState(
        record=record,
        exit=_read(rundir / "exit.json", GuestExit),
        ended=_read(rundir / "ended.json", Ended),
        shim_alive=shim_alive,
        child_alive=child_alive,
    )


def _read(path: Path, kind: type[_T]) -> _T | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise DriverError(f"{path} is damaged") from error


def _process_stat(pid: int) -> tuple[bool, int] | None:
    """Whether a process runs, and its start time; None if there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name, in parentheses, may hold anything, parentheses included.
    fields = text[text.rindex(b")") + 1 :].split()
    return fields[0] not in (b"Z", b"X"), int(fields[19])
