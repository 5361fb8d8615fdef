"""The JSON payloads of the guest protocol. Field by field as docs/guest-protocol.md has them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import msgspec

from midge.guest.errors import ProtocolError

_T = TypeVar("_T")

# What a guest says is bounded here once, so that nobody who stores or shows it has to.
_Text = Annotated[str, msgspec.Meta(max_length=4096)]
_Word = Annotated[str, msgspec.Meta(max_length=128)]
_Pid = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
_ExitCode = Annotated[int, msgspec.Meta(ge=0, le=255)]
_Signal = Annotated[int, msgspec.Meta(ge=1, le=64)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]

# STATS_REPLY, member by member as the protocol has it.
Stats = dict[str, Any]

GuestState = Literal["waiting", "configured", "running", "exited"]


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all payloads; unknown members are ignored."""


class Hello(Message, frozen=True, kw_only=True):
    """`resume`: a RESUME follows; what QUIESCE froze stays so until then."""

    version: int
    nonce: str
    resume: bool = False


class HelloAck(Message, frozen=True, kw_only=True):
    version: Annotated[int, msgspec.Meta(ge=1, le=255)]
    nonce: _Word
    init_version: _Word
    state: GuestState
    boot_id: _Word = ""


class Root(Message, frozen=True, kw_only=True):
    lower: str
    upper: str | None = None
    persist: bool = False


class Mount(Message, frozen=True, kw_only=True):
    device: str
    path: str
    fstype: str = "ext4"


class Net(Message, frozen=True, kw_only=True):
    """Addresses carry their prefix length: ``10.61.0.5/32``."""

    mac: str
    addresses: tuple[str, ...]
    gateway: str
    mtu: int = 1500
    interface: str = "eth0"
    gateway6: str | None = None


class Host(Message, frozen=True, kw_only=True):
    """One line of /etc/hosts."""

    ip: str
    names: tuple[str, ...]


class Resolv(Message, frozen=True, kw_only=True):
    """/etc/resolv.conf."""

    nameservers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


class Limits(Message, frozen=True, kw_only=True):
    nofile: int = 65536


class Configure(Message, frozen=True, kw_only=True):
    """Everything a machine is told at its start. `env` holds secrets, so its repr does not show it."""

    start_id: str
    mode: Literal["vm", "container"]
    wall_clock_ns: int
    entropy: bytes
    hostname: str
    machine_id: str
    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    root: Root | None = None
    mounts: tuple[Mount, ...] = ()
    swap_mb: int = 0
    net: Net | None = None
    hosts: tuple[Host, ...] = ()
    resolv: Resolv | None = None
    image_user: str | None = None
    user: str | None = None
    cwd: str = "/"
    tty: bool = False
    limits: Limits = Limits()

    def __repr__(self) -> str:
        return f"Configure(start_id={self.start_id!r}, mode={self.mode!r}, hostname={self.hostname!r})"


class Empty(Message, frozen=True, kw_only=True):
    """RUN, STATS, PS and the answers that say nothing but yes."""


class Running(Message, frozen=True, kw_only=True):
    pid: _Pid


class Signal(Message, frozen=True, kw_only=True):
    signal: int


class ExecRequest(Message, frozen=True, kw_only=True):
    """A further process in the machine. `env` adds to the machine's; the guest keeps `timeout_ms`."""

    argv: tuple[str, ...]
    env: dict[str, str] = {}
    user: str | None = None
    cwd: str | None = None
    tty: bool = False
    rows: int = 24
    cols: int = 80
    stdin: bool = False
    timeout_ms: int | None = None

    def __repr__(self) -> str:
        return f"ExecRequest(argv={self.argv!r}, tty={self.tty})"


class ExecStarted(Message, frozen=True, kw_only=True):
    pid: _Pid


class ExecExit(Message, frozen=True, kw_only=True):
    """Exactly one of `exit_code` and `signal` is set by a guest that behaves."""

    exit_code: _ExitCode | None = None
    signal: _Signal | None = None
    timed_out: bool = False
    oom_killed: bool = False


class Resize(Message, frozen=True, kw_only=True):
    rows: int
    cols: int


class FileHeader(Message, frozen=True, kw_only=True):
    path: str
    mode: int
    size: int
    uid: int | None = None
    gid: int | None = None


class Quiesce(Message, frozen=True, kw_only=True):
    """`freeze`: the machine's processes stand still until RESUME, or until a HELLO that announces none."""

    freeze: bool = False


class Resume(Message, frozen=True, kw_only=True):
    """`identity` members override what the guest had before the snapshot, where they are given."""

    wall_clock_ns: int
    entropy: bytes
    hostname: str | None = None
    machine_id: str | None = None
    net: Net | None = None


class Program(Message, frozen=True, kw_only=True):
    """A program as an image's configuration has it. Nothing of a machine's: slots are an image's."""

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    user: str | None = None
    cwd: str = "/"


class Warm(Message, frozen=True, kw_only=True):
    """`read`: files of the image to have in memory. `keep`: the disks are the machine's own and stay mounted.

    `net`: configured for practice and taken away again. `rehearse`: programs that are run up to their first act.
    """

    argv: tuple[str, ...] = ()
    read: tuple[str, ...] = ()
    net: Net | None = None
    keep: bool = False
    rehearse: tuple[Program, ...] = ()


class GuestExit(Message, frozen=True, kw_only=True):
    """How the main process of a machine ended.

    exit_code: 125, 126, 127 with `error` when it could not be started.
    exited_at_ns: by the guest's clock, which is not to be trusted.
    received_at_ns: by the host's, in the shim's record of it.
    """

    exit_code: _ExitCode | None = None
    signal: _Signal | None = None
    oom_killed: bool = False
    error: _Text | None = None
    exited_at_ns: _Count = 0
    received_at_ns: _Count = 0


class Ended(Message, frozen=True, kw_only=True):
    """How the VMM or the container ended. `error` says why it never began, with the end of its stderr."""

    exit_code: int | None = None
    signal: int | None = None
    error: str | None = None
    ended_at_ns: int = 0


class ShimState(Message, frozen=True, kw_only=True):
    """First frame on each connection to a shim.

    child_pid: 0 while a launcher still runs.
    child_start_time: field 22 of /proc/pid/stat, in clock ticks since boot.
    channel: ``closed`` before the guest is there and after it has gone, ``broken`` for good.
    """

    shim_pid: int
    child_pid: int
    child_start_time: int
    exit: GuestExit | None = None
    ended: Ended | None = None
    log_bytes: int = 0
    log_lost_bytes: int = 0
    channel: Literal["open", "closed", "broken"] = "open"


class ErrorReply(Message, frozen=True, kw_only=True):
    """`during` is the lower-case name of the frame type that was refused."""

    code: _Word
    message: _Text = ""
    during: _Word = ""


class ListenSocket(Message, frozen=True, kw_only=True):
    proto: _Word
    address: _Word


class Process(Message, frozen=True, kw_only=True):
    """cpu and times in milliseconds, rss in bytes."""

    pid: _Pid
    stime: _Count = 0
    rtime: _Count = 0
    command: _Text = ""
    directory: _Text = ""
    cpu: _Count = 0
    rss: _Count = 0
    listen_sockets: tuple[ListenSocket, ...] = ()


class PsReply(Message, frozen=True, kw_only=True):
    processes: tuple[Process, ...] = ()


_decoders: dict[type[Any], msgspec.json.Decoder[Any]] = {}


def decode(kind: type[_T], payload: bytes, *, what: str = "") -> _T:
    """A payload as `kind`.

    Raises:
        ProtocolError: it is not UTF-8 JSON of that shape.
    """
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.json.Decoder(kind)
    try:
        message: _T = decoder.decode(payload)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ProtocolError(f"malformed {what or kind.__name__} from the guest") from error
    return message


def encode(message: Message) -> bytes:
    """A payload as JSON."""
    return msgspec.json.encode(message)
