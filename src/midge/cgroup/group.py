"""One control group: what it used, and stopping, killing and removing it.

Under v1 a group is one directory in each controller's hierarchy; under v2 a single one.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from midge.cgroup.files import write_control
from midge.cgroup.limits import Controller
from midge.errors import DeadlineExceeded, NotSupported

# Seconds between looks where the kernel sends no notice; doubled each time up to the maximum.
_POLL_S, _POLL_MAX_S = 0.001, 0.02
_NO_LIMIT_V1 = 1 << 62
# Rounds of reading and killing; a group that forks faster than this is not out-run but frozen first, or has pids_max.
_KILL_ROUNDS_MAX = 100


@dataclass(frozen=True, slots=True)
class Cgroup:
    """Handle on one group; holds no resources, so it can be made again from the name at any time.

    Attributes:
        name: of the group within its tree.
        version: 2 for the unified hierarchy, else 1.
        directories: where each controller has its files; under v2 all are the same.
    """

    name: str
    version: int
    directories: dict[Controller, Path]

    @property
    def paths(self) -> list[Path]:
        """Its distinct directories."""
        return list(dict.fromkeys(self.directories.values()))

    def exists(self) -> bool:
        return any(path.is_dir() for path in self.paths)

    def procs_files(self) -> list[Path]:
        """Where a launcher writes its pid to enter the group: every one of these files."""
        return [path / "cgroup.procs" for path in self.paths]

    def enter(self, pid: int) -> None:
        """Moves a process in. Raises: OSError."""
        for file in self.procs_files():
            write_control(file, str(pid))

    def pids(self) -> set[int]:
        """The processes in the group and in groups below it."""
        return {pid for path in self.paths for directory in _below(path) for pid in _read_pids(directory)}

    def oom_kills(self) -> int:
        """How many processes of the group the kernel killed for want of memory; 0 if it does not count."""
        name = "memory.events" if self.version == 2 else "memory.oom_control"
        return self._keyed("memory", name, "oom_kill")

    def memory_usage(self) -> int:
        """Bytes in use, page cache included. Raises: NotSupported, OSError."""
        name = "memory.current" if self.version == 2 else "memory.usage_in_bytes"
        return int((self._directory("memory") / name).read_text())

    def memory_limit(self) -> int | None:
        """Bytes the group may use; None without limit. Raises: NotSupported, OSError."""
        name = "memory.max" if self.version == 2 else "memory.limit_in_bytes"
        text = (self._directory("memory") / name).read_text().strip()
        # v1 has no word for "no limit": it shows the largest multiple of a page that fits.
        return None if text == "max" or int(text) >= _NO_LIMIT_V1 else int(text)

    def cpu_usage_ns(self) -> int:
        """Processor time used so far. Raises: NotSupported, OSError."""
        if self.version == 2:
            return self._keyed("cpuacct", "cpu.stat", "usage_usec") * 1000
        return int((self._directory("cpuacct") / "cpuacct.usage").read_text())

    async def freeze(self, timeout_s: float = 5.0) -> None:
        """Stops all processes where they are. Raises: DeadlineExceeded, and lets them run again; NotSupported."""
        directory = self._directory("freezer")
        if self.version == 2:
            write_control(directory / "cgroup.freeze", "1")
            done = await asyncio.to_thread(_wait_for_event, directory, "frozen", 1, timeout_s)
        else:
            write_control(directory / "freezer.state", "FROZEN")
            done = await _poll(
                lambda: (directory / "freezer.state").read_text().strip() == "FROZEN", timeout_s
            )
        if not done:
            self.thaw()
            raise DeadlineExceeded(f"cgroup {self.name} did not freeze within {timeout_s} s")

    def thaw(self) -> None:
        """Lets a frozen group run again. Raises: NotSupported, OSError."""
        directory = self._directory("freezer")
        if self.version == 2:
            write_control(directory / "cgroup.freeze", "0")
        else:
            write_control(directory / "freezer.state", "THAWED")

    async def kill_all(self, timeout_s: float = 5.0) -> None:
        """Kills every process of the group and waits until none is left. Raises: DeadlineExceeded, OSError."""
        if self.version != 2 or not self._kill_at_once():
            await self._kill_each(timeout_s)
        if not await _poll(lambda: not self.pids(), timeout_s):
            raise DeadlineExceeded(
                f"cgroup {self.name} still has processes {timeout_s} s after SIGKILL",
                hint=f"a process in uninterruptible sleep cannot be killed: cat {self.paths[0]}/cgroup.procs",
            )

    async def remove(self, timeout_s: float = 5.0) -> None:
        """Removes the group and those below it. Idempotent. Raises: DeadlineExceeded while processes are in it."""
        if not await _poll(self._remove_once, timeout_s):
            raise DeadlineExceeded(
                f"cgroup {self.name} is busy", hint="kill_all first", pids=sorted(self.pids())
            )

    def _remove_once(self) -> bool:
        empty = True
        for path in self.paths:
            for directory in _below(path):
                try:
                    directory.rmdir()
                except FileNotFoundError:
                    continue
                except OSError as error:
                    # EBUSY: a process has been reaped but has not left yet, or is alive.
                    if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                        raise
                    empty = False
        return empty

    def _kill_at_once(self) -> bool:
        try:
            write_control(self.paths[0] / "cgroup.kill", "1")
        except FileNotFoundError:
            return not self.paths[0].exists()  # the file exists since Linux 5.14
        return True

    async def _kill_each(self, timeout_s: float) -> None:
        rounds = 0

        def killed() -> bool:
            nonlocal rounds
            rounds += 1
            alive = self.pids()
            self._signal(alive, signal.SIGKILL)
            if alive and "freezer" in self.directories:
                with suppress(FileNotFoundError):
                    self.thaw()  # a frozen process dies when it runs again
            return not alive or rounds >= _KILL_ROUNDS_MAX

        await _poll(killed, timeout_s)

    def _signal(self, pids: set[int], number: int) -> None:
        """Signals processes through handles that are opened before a second look at who is in the group.

        So a number that ended and was given to a stranger in between is never signalled.
        """
        handles: dict[int, int] = {}
        try:
            for pid in pids:
                with suppress(ProcessLookupError):
                    handles[pid] = os.pidfd_open(pid)
            for pid in self.pids() & handles.keys():
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(handles[pid], number)
        finally:
            for handle in handles.values():
                os.close(handle)

    def _keyed(self, controller: Controller, name: str, key: str) -> int:
        for line in (self._directory(controller) / name).read_text().splitlines():
            found, _, value = line.partition(" ")
            if found == key:
                return int(value)
        return 0

    def _directory(self, controller: Controller) -> Path:
        try:
            return self.directories[controller]
        except KeyError as error:
            raise NotSupported(
                f"this host has no cgroup controller {controller}", hint="boot a kernel that has it enabled"
            ) from error


def _below(path: Path) -> Iterator[Path]:
    """The group's directory and those of all groups in it, deepest first."""
    try:
        children = [entry for entry in path.iterdir() if entry.is_dir()]
    except FileNotFoundError:
        return
    for child in children:
        yield from _below(child)
    yield path


def _read_pids(directory: Path) -> list[int]:
    try:
        return [int(line) for line in (directory / "cgroup.procs").read_text().split()]
    except FileNotFoundError:
        return []
    except OSError as error:
        if error.errno == errno.ENODEV:  # removed between open and read
            return []
        raise


def _wait_for_event(directory: Path, key: str, wanted: int, timeout_s: float) -> bool:
    """Blocks until `cgroup.events` says so; the kernel announces each change by POLLPRI."""
    with (directory / "cgroup.events").open() as events:
        poller = select.poll()
        poller.register(events, select.POLLPRI)
        for _ in range(2):
            events.seek(0)
            if f"{key} {wanted}" in events.read().splitlines():
                return True
            poller.poll(timeout_s * 1000)
        events.seek(0)
        return f"{key} {wanted}" in events.read().splitlines()


async def _poll(done: Callable[[], bool], timeout_s: float) -> bool:
    """Looks until `done`, at least once; whether it was within the time."""
    pause_s = _POLL_S
    deadline = asyncio.get_running_loop().time() + timeout_s
    while not done():
        if asyncio.get_running_loop().time() >= deadline:
            return False
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, _POLL_MAX_S)
    return True
