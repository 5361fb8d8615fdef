"""Launching a machine's shim and attaching to it. What it leaves on disk: `midge.drivers.shim_files`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import msgspec

from midge import binaries
from midge.drivers.shim_files import SOCKET_NAME
from midge.errors import DriverError
from midge.guest.channel import CONNECT_TIMEOUT_S, GuestChannel

READY_TIMEOUT_S = 10.0  # spawn to exec of the program, on a loaded host
READY_BYTES_MAX = 4_096  # the shim's one line
_READY_FD_MIN = 3  # first number tried for the ready pipe in the shim
_OWN_DEVICE = "own device "  # how the shim's reasons begin that are about a program's device
OWN_DEVICE_HINT = (
    "run midge as root, with CAP_SYS_ADMIN and CAP_MKNOD, where the device may be used; "
    "for a container: --privileged, or --device with these capabilities"
)
_SOCKET_PATH_MAX = 107  # bytes of a unix socket's path, without the final zero


@dataclass(frozen=True, slots=True)
class VsockChannel:
    """Firecracker's unix socket, and the port the guest listens on."""

    path: Path
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShimSpec:
    """How to start one machine's program.

    channel: a descriptor number the program inherits, or Firecracker's vsock.
    pid_file: the program is a launcher that leaves the main process's pid there.
    tap: a tap device of the namespace, and the descriptor number the program inherits it under.
    own_device: a device of which the program gets a node of its own, in place of the host's; needs `uid`.
    pass_fds: open descriptors the program inherits under their own numbers.
    env: environment of shim and program.
    """

    rundir: Path
    program: tuple[str, ...]
    log: Path
    channel: int | VsockChannel
    netns: Path | None = None
    tap: tuple[str, int] | None = None
    cgroups: tuple[Path, ...] = ()
    uid: int | None = None
    gid: int | None = None
    own_device: Path | None = None
    groups: tuple[int, ...] = ()
    nofile: int | None = None
    oom_score: int | None = None
    no_new_privs: bool = False
    log_max_bytes: int = 10 * 1_048_576
    log_keep: int = 3
    pid_file: Path | None = None
    pass_fds: tuple[int, ...] = ()
    env: dict[str, str] = field(default_factory=lambda: {"PATH": os.defpath})

    def argv(self, binary: Path, ready_fd: int) -> list[str]:
        """The shim's command line."""
        argv = [str(binary), "--dir", str(self.rundir), "--ready-fd", str(ready_fd)]
        for flag, value in (
            ("--netns", self.netns),
            ("--tap", f"{self.tap[0]}:{self.tap[1]}" if self.tap else None),
            ("--uid", self.uid),
            ("--gid", self.gid),
            ("--own-device", self.own_device),
            ("--nofile", self.nofile),
            ("--oom-score", self.oom_score),
            ("--pid-file", self.pid_file),
        ):
            if value is not None:
                argv += [flag, str(value)]
        for flag, values in (
            ("--cgroup", self.cgroups),
            ("--group", self.groups),
            ("--pass-fd", self.pass_fds),
        ):
            for value in values:
                argv += [flag, str(value)]
        if self.no_new_privs:
            argv.append("--no-new-privs")
        argv += ["--log", str(self.log), "--log-max-bytes", str(self.log_max_bytes)]
        argv += ["--log-keep", str(self.log_keep)]
        if isinstance(self.channel, VsockChannel):
            argv += ["--channel-vsock", f"{self.channel.path}:{self.channel.port}"]
        else:
            argv += ["--channel-fd", str(self.channel)]
        return [*argv, "--", *self.program]


class DeviceRefused(DriverError):
    """The program could not get its device: a matter of rights on this host, not of the program."""


class _Ready(msgspec.Struct, frozen=True, kw_only=True):
    error: str | None = None


class ShimProcess:
    """A shim this process has started. Reaped by `wait`, which somebody has to run or `aclose` does."""

    def __init__(self, rundir: Path, pid: int) -> None:
        self.rundir = rundir
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)
        self._done = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._pidfd, self._on_end)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.release()

    async def wait(self) -> None:
        """Waits until the shim has ended: by then everything is in its files."""
        await self._done.wait()

    async def attach(self, *, timeout_s: float = CONNECT_TIMEOUT_S) -> GuestChannel:
        return await attach(self.rundir, timeout_s=timeout_s)

    def kill(self) -> None:
        """Ends shim and machine at once; nothing is recorded. `GuestChannel.kill` is the way that leaves a record."""
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):  # it has ended, and this process has not looked yet
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def release(self) -> None:
        """Lets go of a shim that goes on without this process. Repeatable."""
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def _on_end(self) -> None:
        with contextlib.suppress(ChildProcessError):  # reaped by somebody else
            os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
        self.release()
        self._done.set()


async def launch(spec: ShimSpec) -> ShimProcess:
    """Starts a shim; returns once the program executes and the socket is there.

    Raises:
        DeviceRefused: it cannot have a node of its own of the device.
        DriverError: it could not be started; the message has the shim's reason.
        BinaryMissing: there is no shim.
    """
    socket_path = str(spec.rundir / SOCKET_NAME)
    if len(os.fsencode(socket_path)) > _SOCKET_PATH_MAX:
        raise DriverError(f"path of socket {socket_path} is too long", hint="use a shorter state directory")
    binary = binaries.find("midge-shim")
    ready, ready_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        try:
            process = ShimProcess(spec.rundir, _spawn(spec, binary, ready_end))
        finally:
            os.close(ready_end)
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                line = await _read_line(ready)
        except BaseException as error:
            process.kill()
            await process.wait()
            if isinstance(error, TimeoutError):
                raise DriverError(f"shim was not ready within {READY_TIMEOUT_S:g} s") from error
            raise
    finally:
        os.close(ready)
    message = msgspec.json.decode(line, type=_Ready) if line else _Ready(error="it ended at once")
    if message.error is not None:
        await process.wait()
        raise _not_started(spec, message.error)
    return process


def _not_started(spec: ShimSpec, reason: str) -> DriverError:
    message = f"cannot start {spec.program[0]}: {reason}"
    if spec.own_device is not None and reason.startswith(_OWN_DEVICE):
        return DeviceRefused(message, hint=OWN_DEVICE_HINT, rundir=str(spec.rundir))
    return DriverError(message, rundir=str(spec.rundir))


async def attach(rundir: Path, *, timeout_s: float = CONNECT_TIMEOUT_S) -> GuestChannel:
    """A channel to the shim of a run directory; whoever was attached before is cut off.

    Raises:
        ChannelLost: the machine has ended; its files tell how.
    """
    return await GuestChannel.connect(rundir / SOCKET_NAME, timeout_s=timeout_s)


def _spawn(spec: ShimSpec, binary: Path, ready_end: int) -> int:
    """posix_spawn: vfork and exec, so its cost does not grow with this process, and no Python runs in between."""
    keep: list[tuple[int, int, int]] = [(os.POSIX_SPAWN_DUP2, fd, fd) for fd in spec.pass_fds]
    ready_fd = next(n for n in range(_READY_FD_MIN, 1024) if n not in _taken(spec))
    argv = spec.argv(binary, ready_fd)
    try:
        return os.posix_spawn(
            binary, argv, spec.env, file_actions=[*keep, (os.POSIX_SPAWN_DUP2, ready_end, ready_fd)]
        )
    except OSError as error:
        raise DriverError(f"cannot execute {binary}") from error


def _taken(spec: ShimSpec) -> set[int]:
    channel = {spec.channel} if isinstance(spec.channel, int) else set()
    return {*spec.pass_fds} | channel | ({spec.tap[1]} if spec.tap else set())


async def _read_line(fd: int) -> bytes:
    """What comes up to the end of the pipe: one line."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(fd, readable.set)
    data = b""
    try:
        while not data.endswith(b"\n") and len(data) < READY_BYTES_MAX:
            await readable.wait()
            readable.clear()
            try:
                piece = os.read(fd, READY_BYTES_MAX)
            except BlockingIOError:
                continue
            if not piece:
                break
            data += piece
    finally:
        loop.remove_reader(fd)
    return data
