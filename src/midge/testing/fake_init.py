"""The guest's half of the guest protocol, without a machine and without I/O: frames in, bytes out.

Its execs know a few commands: ``echo WORDS``, ``cat``, ``warn WORDS`` (on stderr), ``yes BYTES``, ``exit CODE`` and
``hang`` (until it gets a signal). Everything else is refused as ``not_found``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from midge.guest import messages as m
from midge.guest import protocol as p
from midge.guest.files import GuestFile
from midge.guest.protocol import Flag, Frame, FrameType

MAIN_PID = 100
_EXEC_PID = 200


@dataclass(slots=True, kw_only=True)
class GuestScript:
    """What a fake guest does.

    refuse: error code per frame type that is to be refused.
    silent: frame types that are never answered.
    output: what the main process writes when it starts, by stream name.
    exit: how the main process ends right after its output; None: it runs until a signal.
    exit_on_signal: how it ends then; None: by that signal.
    took_us: how long it says that CONFIGURE and RUN took; an older init does not say.
    """

    refuse: Mapping[FrameType, str] = field(default_factory=dict)
    silent: frozenset[FrameType] = frozenset()
    output: tuple[tuple[str, bytes], ...] = ()
    exit: m.GuestExit | None = None
    exit_on_signal: m.GuestExit | None = None
    stats: dict[str, Any] = field(default_factory=dict)
    processes: tuple[m.Process, ...] = ()
    took_us: Mapping[FrameType, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Exec:
    argv: tuple[str, ...]
    window: int = p.WINDOW_BYTES
    output: deque[tuple[int, bytes]] = field(default_factory=deque)
    exit: m.ExecExit | None = None


class FakeInit:
    """An init that believes everything.

    Attributes:
        configure: what it was told.
        files: what was written, by path.
        received: every frame since the beginning.
        state: as HELLO_ACK says it.
    """

    def __init__(self, script: GuestScript | None = None) -> None:
        self.script = script or GuestScript()
        self.configure: m.Configure | None = None
        self.files: dict[str, GuestFile] = {}
        self.received: list[Frame] = []
        self.signals: list[int] = []
        self.state: m.GuestState = "waiting"
        self.exit_acked = False
        self._assembler = p.MessageAssembler()
        self._execs: dict[int, _Exec] = {}
        self._uploads: dict[int, tuple[m.FileHeader, bytearray]] = {}

    def on_frame(self, frame: Frame) -> bytes:
        """The guest's answer to a frame, possibly nothing."""
        self.received.append(frame)
        payload = frame.payload if frame.type in p.DATA_TYPES else self._assembler.add(frame)
        if payload is None or frame.type in self.script.silent:
            return b""
        code = self.script.refuse.get(FrameType(frame.type))
        if code is not None:
            return _error(frame.type, frame.stream, code, "refused by the script")
        match frame.type:
            case FrameType.STDIN | FrameType.WINDOW | FrameType.RESIZE | FrameType.EXEC_SIGNAL:
                return self._on_exec_frame(frame)
            case FrameType.EXEC:
                return self._on_exec(frame.stream, m.decode(m.ExecRequest, payload))
            case FrameType.FILE:
                self._uploads[frame.stream] = (m.decode(m.FileHeader, payload), bytearray())
                return b""
            case FrameType.FILE_DATA:
                return self._on_file_data(frame)
            case _:
                return self._on_machine_message(frame.type, frame.stream, payload)

    def exit_main(self, ended: m.GuestExit) -> bytes:
        """The main process ends."""
        self.state = "exited"
        return _json(FrameType.EXIT, 0, ended)

    def _on_machine_message(self, type_: int, stream: int, payload: bytes) -> bytes:
        match type_:
            case FrameType.HELLO:
                self._execs.clear()
                hello = m.decode(m.Hello, payload)
                ack = m.HelloAck(
                    version=1, nonce=hello.nonce, init_version="fake", state=self.state, boot_id="b"
                )
                return _json(FrameType.HELLO_ACK, 0, ack)
            case FrameType.CONFIGURE:
                self.configure = m.decode(m.Configure, payload)
                self.state = "configured"
                return self._done(FrameType.CONFIGURED, FrameType.CONFIGURE, {})
            case FrameType.RUN:
                return self._run()
            case FrameType.SIGNAL:
                number = m.decode(m.Signal, payload).signal
                self.signals.append(number)
                return self.exit_main(self.script.exit_on_signal or m.GuestExit(signal=number))
            case FrameType.STATS:
                return p.encode_message(FrameType.STATS_REPLY, stream, msgspec.json.encode(self.script.stats))
            case FrameType.PS:
                return _json(FrameType.PS_REPLY, stream, m.PsReply(processes=self.script.processes))
            case FrameType.QUIESCE:
                return _json(FrameType.QUIESCED, 0, m.Empty())
            case FrameType.RESUME:
                return _json(FrameType.RESUMED, 0, m.Empty())
            case FrameType.WARM:
                return _json(FrameType.WARMED, 0, m.Empty())
            case FrameType.EXIT_ACK:
                self.exit_acked = True
                return b""
            case _:
                return _error(type_, stream, "unknown_type", "not known")

    def _done(self, answer: FrameType, request: FrameType, members: dict[str, int]) -> bytes:
        if request in self.script.took_us:
            members = {**members, "took_us": self.script.took_us[request]}
        return p.encode_message(answer, 0, msgspec.json.encode(members))

    def _run(self) -> bytes:
        self.state = "running"
        parts = [self._done(FrameType.RUNNING, FrameType.RUN, {"pid": MAIN_PID})]
        for name, data in self.script.output:
            flags = Flag.STDERR if name == "stderr" else 0
            parts += [p.encode_frame(FrameType.OUTPUT, 0, piece, flags) for piece in p.split(data)]
        if self.script.exit is not None:
            parts.append(self.exit_main(self.script.exit))
        return b"".join(parts)

    def _on_file_data(self, frame: Frame) -> bytes:
        header, data = self._uploads[frame.stream]
        data += frame.payload
        if not frame.flags & Flag.EOF:
            return b""
        del self._uploads[frame.stream]
        if len(data) != header.size:
            return _error(FrameType.FILE, frame.stream, "bad_message", "size is wrong")
        self.files[header.path] = GuestFile(header.path, bytes(data), header.mode, header.uid, header.gid)
        return _json(FrameType.FILE_DONE, frame.stream, m.Empty())

    def _on_exec(self, stream: int, request: m.ExecRequest) -> bytes:
        run = _Exec(request.argv)
        words = " ".join(request.argv[1:]).encode()
        match request.argv[0]:
            case "echo":
                run.output.append((0, words + b"\n"))
                run.exit = m.ExecExit(exit_code=0)
            case "warn":
                run.output.append((Flag.STDERR, words + b"\n"))
                run.exit = m.ExecExit(exit_code=1)
            case "yes":
                run.output.extend((0, bytes(piece)) for piece in p.split(b"y" * int(words)))
                run.exit = m.ExecExit(exit_code=0)
            case "exit":
                run.exit = m.ExecExit(exit_code=int(words))
            case "cat" | "hang":
                pass
            case _:
                return _error(FrameType.EXEC, stream, "not_found", f"{request.argv[0]}: not found")
        self._execs[stream] = run
        return _json(FrameType.EXEC_STARTED, stream, m.ExecStarted(pid=_EXEC_PID + stream)) + self._pump(
            stream
        )

    def _on_exec_frame(self, frame: Frame) -> bytes:
        run = self._execs.get(frame.stream)
        if run is None:
            return b""
        credit = b""
        match frame.type:
            case FrameType.WINDOW:
                run.window += p.decode_window(frame)
            case FrameType.STDIN:
                if frame.payload:
                    run.output.append((0, frame.payload))
                    credit = p.encode_window(FrameType.STDIN_WINDOW, frame.stream, len(frame.payload))
                if frame.flags & Flag.EOF:
                    run.exit = m.ExecExit(exit_code=0)
            case FrameType.EXEC_SIGNAL:
                run.output.clear()
                run.exit = m.ExecExit(signal=m.decode(m.Signal, frame.payload).signal)
        return credit + self._pump(frame.stream)

    def _pump(self, stream: int) -> bytes:
        run = self._execs[stream]
        parts: list[bytes] = []
        while run.output and run.window:
            flags, data = run.output.popleft()
            now, later = data[: run.window], data[run.window :]
            run.window -= len(now)
            parts.append(p.encode_frame(FrameType.EXEC_OUTPUT, stream, now, flags))
            if later:
                run.output.appendleft((flags, later))
        if run.exit is not None and not run.output:
            parts.append(_json(FrameType.EXEC_EXIT, stream, run.exit))
            del self._execs[stream]
        return b"".join(parts)


def _json(type_: FrameType, stream: int, message: m.Message) -> bytes:
    return p.encode_message(type_, stream, m.encode(message))


def _error(during: int, stream: int, code: str, text: str) -> bytes:
    name = "file" if during == FrameType.FILE_DATA else p.type_name(during)
    return _json(FrameType.ERROR, stream, m.ErrorReply(code=code, message=text, during=name))
