"""Bare QEMU: spawn it with the machine's own command line, restore the driver's template, configure, run, first byte.

No shim, no worker, no journal, no network but an unconnected tap. Memory and disk of each round are copied from the
template before the clock starts; a second figure counts the copies, which the driver makes at every start, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import secrets
import signal
import socket
import struct
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from midge.bench.errors import CannotMeasure
from midge.bench.floor.base import FLOOR_TIMEOUT_S
from midge.bench.floor.scratch import scratch
from midge.bench.image import COMMAND
from midge.bench.target import Target
from midge.drivers import shim_files
from midge.drivers.configure import ENTROPY_BYTES
from midge.drivers.disks import copy_sparse
from midge.drivers.qemu.boot import CAPABILITIES
from midge.drivers.qemu.qmp import STATE, Qmp
from midge.drivers.seal import SEAL_NAME
from midge.guest import messages as m
from midge.guest import protocol as p

NAME = "floor: first byte"
NAME_WITH_COPIES = "floor: first byte, with copies of memory and disk"
READ_BYTES = 65_536
_SPARE_FD_MIN = 300  # above any number the command line names
_TUNSETIFF = 0x4004_54CA  # linux/if_tun.h
_TAP_FLAGS = 0x0002 | 0x1000 | 0x4000  # IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, as the shim opens it
_NUMBERS = {
    "memory": r"mem-path=/proc/self/fd/(\d+)",
    "qmp": r"socket,id=qmp,fd=(\d+)",
    "control": r"socket,id=control,fd=(\d+)",
    "lower": r"node-name=lower-file,filename=/proc/self/fd/(\d+)",
    "upper": r"node-name=upper-file,filename=/proc/self/fd/(\d+)",
    "tap": r"tap,id=net,fd=(\d+)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """What a running machine's QEMU was started with. `numbers`: of the descriptors it inherited."""

    words: tuple[str, ...]
    numbers: dict[str, int]
    lower: Path
    mac: str


def picture(words: Sequence[str]) -> tuple[dict[str, int], str]:
    """Descriptor numbers and MAC address of a command line.

    Raises:
        CannotMeasure: it is not what the driver writes today.
    """
    text = "\n".join(words)
    found = {name: re.search(pattern, text) for name, pattern in _NUMBERS.items()}
    missing = [name for name, match in found.items() if match is None]
    mac = re.search(r"mac=([0-9a-f:]{17})", text)
    if missing or mac is None or "-incoming" not in words:
        raise CannotMeasure(f"the VMM's command line is not known: {', '.join(missing) or 'no restore'}")
    return {name: int(match[1]) for name, match in found.items() if match is not None}, mac[1]


@asynccontextmanager
async def open_qemu_floor(target: Target, machine: str) -> AsyncIterator[QemuFloor]:
    own = target.own
    if own is None:
        raise CannotMeasure("only beside a server started for it")
    record = shim_files.read_state(own.run_dir / "m" / machine).record
    if record is None:
        raise CannotMeasure("the machine has no VMM")
    proc = Path(f"/proc/{record.child_pid}")
    words = tuple(word.decode() for word in (proc / "cmdline").read_bytes().split(b"\0")[:-1])
    numbers, mac = picture(words)
    # What the driver opened for the machine is still open in its VMM.
    lower = (proc / f"fd/{numbers['lower']}").readlink()
    template = template_of(own.data_dir / "templates", (proc / f"fd/{numbers['memory']}").stat().st_size)
    blank = blank_of(own.data_dir / "blanks", (proc / f"fd/{numbers['upper']}").stat().st_size)
    shown = Picture(words=words, numbers=numbers, lower=lower, mac=mac)
    memory_root = own.memory_dir.parent if own.memory_dir.parent.is_dir() else own.run_dir
    # The data directory may have a longer path than a socket's can be.
    with scratch(memory_root) as memory, scratch(own.data_dir) as folder, scratch(own.run_dir) as sockets:
        tap = _open_tap()
        try:
            yield QemuFloor(shown, template, blank, memory / "memory", folder, sockets, tap)
        finally:
            os.close(tap)


def template_of(templates: Path, memory_bytes: int) -> Path:
    """The template a guest with so much memory came from; of one server all have the same kernel and VMM.

    Raises:
        CannotMeasure: there is none, or more than one, as for shapes that differ in their processors only.
    """
    found = [
        seal.parent
        for seal in templates.glob(f"[!.]*/{SEAL_NAME}")
        if (seal.parent / "memory").stat().st_size == memory_bytes
    ]
    if len(found) != 1:
        raise CannotMeasure(f"{len(found)} templates of {memory_bytes >> 20} MiB in {templates}, not one")
    return found[0]


def blank_of(blanks: Path, size_bytes: int) -> Path:
    """The empty disk of that size; of several, which differ in how they were formatted, the newest.

    Raises:
        CannotMeasure: there is none.
    """
    found = [blank for blank in blanks.glob("*.ext4") if blank.stat().st_size == size_bytes]
    if not found:
        raise CannotMeasure(f"no blank disk of {size_bytes >> 20} MiB in {blanks}")
    return max(found, key=lambda blank: blank.stat().st_mtime_ns)


class QemuFloor:
    def __init__(
        self,
        shown: Picture,
        template: Path,
        blank: Path,
        memory: Path,
        folder: Path,
        sockets: Path,
        tap: int,
    ) -> None:
        self._shown = shown
        self._template = template
        self._blank = blank
        self._memory = memory
        self._folder = folder
        self._sockets = sockets
        self._tap = tap

    async def once(self) -> dict[str, float]:
        upper = self._folder / "upper.ext4"
        begun = perf_counter()
        _copy(self._template / "memory", self._memory)
        _copy(self._blank, upper)
        copies_ms = (perf_counter() - begun) * 1000
        try:
            async with asyncio.timeout(FLOOR_TIMEOUT_S):
                elapsed = await self._start(upper)
        except TimeoutError as error:
            raise CannotMeasure(f"bare QEMU printed nothing in {FLOOR_TIMEOUT_S:g} s") from error
        finally:
            self._memory.unlink(missing_ok=True)
            upper.unlink(missing_ok=True)
        return {NAME: elapsed, NAME_WITH_COPIES: elapsed + copies_ms}

    async def _start(self, upper: Path) -> float:
        monitor = self._sockets / "qmp.sock"
        monitor.unlink(missing_ok=True)
        with contextlib.ExitStack() as stack:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            stack.callback(ours.close)
            ours.setblocking(False)
            listener = stack.enter_context(contextlib.closing(socket.socket(socket.AF_UNIX)))
            listener.bind(str(monitor))
            listener.listen(1)
            state = _opened(stack, self._template / "state", os.O_RDONLY)
            sources = {
                "memory": _opened(stack, self._memory, os.O_RDWR),
                "lower": _opened(stack, self._shown.lower, os.O_RDONLY),
                "upper": _opened(stack, upper, os.O_RDWR),
                "qmp": listener.fileno(),
                "control": theirs.fileno(),
                "tap": self._tap,
            }
            greeting = _greeting(self._shown.mac)
            begun = perf_counter()
            pid = _spawn(self._shown, sources)
            try:
                theirs.close()
                qmp = await Qmp.connect(monitor, state_fd=state)
                qmp.post("migrate-set-capabilities", capabilities=CAPABILITIES)
                qmp.post("migrate-incoming", uri=f"fd:{STATE}")
                try:
                    await asyncio.get_running_loop().sock_sendall(ours, greeting)
                    await _first_output(ours)
                    return (perf_counter() - begun) * 1000
                finally:
                    qmp.close()
            finally:
                os.kill(pid, signal.SIGKILL)
                await asyncio.to_thread(os.waitpid, pid, 0)


def _spawn(shown: Picture, sources: dict[str, int]) -> int:
    """QEMU with the very numbers its command line names."""
    spare = {name: fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _SPARE_FD_MIN) for name, fd in sources.items()}
    try:
        actions = [(os.POSIX_SPAWN_DUP2, spare[name], number) for name, number in shown.numbers.items()]
        program = shown.words[0]
        return os.posix_spawnp(program, shown.words, {"PATH": os.defpath}, file_actions=actions)
    finally:
        for fd in spare.values():
            os.close(fd)


def _greeting(mac: str) -> bytes:
    """HELLO, CONFIGURE and RUN in one go, with what the driver says to a machine of the benchmark."""
    configure = m.Configure(
        start_id="floor",
        mode="vm",
        wall_clock_ns=time.time_ns(),
        entropy=os.urandom(ENTROPY_BYTES),
        hostname="floor",
        machine_id=secrets.token_hex(16),
        argv=COMMAND,
        env=(("PATH", "/usr/bin:/bin"),),
        root=m.Root(lower="/dev/vda", upper="/dev/vdb"),
        net=m.Net(mac=mac, addresses=("10.62.255.254/32",), gateway="10.62.255.253"),
        resolv=m.Resolv(),
    )
    hello = m.Hello(version=p.VERSION, nonce=secrets.token_hex(16))
    return b"".join(
        (
            p.encode_message(p.FrameType.HELLO, 0, m.encode(hello)),
            p.encode_message(p.FrameType.CONFIGURE, 0, m.encode(configure)),
            p.encode_message(p.FrameType.RUN, 0, m.encode(m.Empty())),
        )
    )


async def _first_output(connection: socket.socket) -> None:
    """Raises CannotMeasure: the guest refused, or QEMU has ended."""
    loop, decoder = asyncio.get_running_loop(), p.FrameDecoder()
    while data := await loop.sock_recv(connection, READ_BYTES):
        for frame in decoder.feed(data):
            if frame.type == p.FrameType.OUTPUT and frame.payload:
                return
            if frame.type in (p.FrameType.ERROR, p.FrameType.EXIT):
                text = frame.payload.decode(errors="replace")
                raise CannotMeasure(f"bare guest said {p.type_name(frame.type)}: {text}")
    raise CannotMeasure("bare QEMU ended before its guest printed anything")


def _open_tap() -> int:
    """A tap of no network; it goes when it is closed."""
    try:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", b"mdgbench%d", _TAP_FLAGS))
    except OSError as error:
        raise CannotMeasure(f"no tap device: {error.strerror}", hint="run it as root") from error
    return fd


def _opened(stack: contextlib.ExitStack, path: Path, flags: int) -> int:
    fd = os.open(path, flags | os.O_CLOEXEC)
    stack.callback(os.close, fd)
    return fd


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as read, target.open("wb") as write:
        copy_sparse(read.fileno(), write.fileno())
