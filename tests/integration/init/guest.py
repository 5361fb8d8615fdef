"""The host's side of the protocol for tests: plain blocking sockets, everything received is kept."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from midge.guest import protocol as p
from midge.guest.protocol import Flag, Frame, FrameType
from tests.integration.init import rootfs

DEADLINE_S = 60.0  # for anything that is waited for: emulated guests on a busy host
NONCE = "00112233445566778899aabbccddeeff"


class Guest:
    """The host end of a control stream.

    Attributes:
        output: what the main process wrote, by "stdout" and "stderr".
        exec_output: the same per exec.
        messages: JSON messages received and not yet taken, in their order.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.output: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
        self.exec_output: dict[int, dict[str, bytearray]] = defaultdict(
            lambda: {"stdout": bytearray(), "stderr": bytearray()}
        )
        self.messages: list[tuple[FrameType, int, dict[str, Any]]] = []
        self.stdin_window: dict[int, int] = defaultdict(lambda: p.WINDOW_BYTES)
        self.grant_output = True
        self.frames = 0
        self._decoder = p.FrameDecoder()
        self._assembler = p.MessageAssembler()

    def send(self, type_: FrameType, message: dict[str, Any] | None = None, stream: int = 0) -> None:
        self.sock.sendall(p.encode_message(type_, stream, json.dumps(message or {}).encode()))

    def send_raw(self, type_: FrameType, stream: int, data: bytes = b"", flags: int = 0) -> None:
        self.sock.sendall(p.encode_frame(type_, stream, data, flags))

    def hello(self, nonce: str = NONCE) -> dict[str, Any]:
        self.send(FrameType.HELLO, {"version": 1, "nonce": nonce})
        return self.expect(FrameType.HELLO_ACK, lambda message: message["nonce"] == nonce)

    def configure(self, argv: list[str], **members: Any) -> None:
        message = {"start_id": "test", "mode": "container", "argv": argv, "cwd": "/", "env": [], **members}
        self.send(FrameType.CONFIGURE, message)

    def start(self, argv: list[str], **members: Any) -> int:
        """HELLO to RUNNING; gives the pid in the machine."""
        self.hello()
        self.configure(argv, **members)
        self.send(FrameType.RUN)
        self.expect(FrameType.CONFIGURED)
        pid: int = self.expect(FrameType.RUNNING)["pid"]
        return pid

    def put_file(self, stream: int, path: str, data: bytes, **members: Any) -> None:
        self.send(FrameType.FILE, {"path": path, "mode": 0o644, "size": len(data), **members}, stream)
        self.sock.sendall(p.encode_data(FrameType.FILE_DATA, stream, data, eof=True))

    def exec(self, stream: int, argv: list[str], **members: Any) -> int:
        self.send(FrameType.EXEC, {"argv": argv, **members}, stream)
        pid: int = self.expect(FrameType.EXEC_STARTED, stream=stream)["pid"]
        return pid

    def stdin(self, stream: int, data: bytes, *, eof: bool = False) -> None:
        """Sends input within the window, reading meanwhile."""
        for piece in p.split(data):
            size = len(piece)
            self.until(lambda size=size: self.stdin_window[stream] >= size, "window")  # type: ignore[misc]  # B023
            self.stdin_window[stream] -= size
            self.send_raw(FrameType.STDIN, stream, bytes(piece))
        if eof:
            self.send_raw(FrameType.STDIN, stream, b"", Flag.EOF)

    def exec_exit(self, stream: int) -> dict[str, Any]:
        return self.expect(FrameType.EXEC_EXIT, stream=stream)

    def commands(self) -> list[str]:
        """Command lines of the machine's processes; a zombie has its name in brackets."""
        self.send(FrameType.PS, stream=0xFFFF)
        return [item["command"] for item in self.expect(FrameType.PS_REPLY)["processes"]]

    def exit(self) -> dict[str, Any]:
        """EXIT, acknowledged."""
        report = self.expect(FrameType.EXIT)
        self.send_raw(FrameType.EXIT_ACK, 0)
        return report

    def expect(
        self,
        type_: FrameType,
        matches: Callable[[dict[str, Any]], bool] = lambda message: True,
        *,
        stream: int | None = None,
        deadline_s: float = DEADLINE_S,
    ) -> dict[str, Any]:
        """Takes the first such message out of what came, or waits for it."""
        taken: list[dict[str, Any]] = []

        def found() -> bool:
            for index, (kind, on, message) in enumerate(self.messages):
                if kind == type_ and stream in (None, on) and matches(message):
                    taken.append(message)
                    del self.messages[index]
                    return True
            return False

        self.until(found, type_.name, deadline_s)
        return taken[0]

    def until(self, condition: Callable[[], bool], what: str, deadline_s: float = DEADLINE_S) -> None:
        deadline = time.monotonic() + deadline_s
        while not condition():
            left = deadline - time.monotonic()
            if left <= 0:
                raise AssertionError(f"no {what} in {deadline_s} s; {self.output=} {self.messages=}")
            if not self.receive(left):
                raise AssertionError(f"stream ended before {what}; {self.output=} {self.messages=}")

    def eventually(self, condition: Callable[[], bool], what: str) -> None:
        """Asks again and again, for what the guest does not tell by itself."""
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline, f"no {what} in {DEADLINE_S} s"
            self.receive(0.02)

    def receive(self, timeout_s: float) -> bool:
        """Reads once; False at the end of the stream."""
        self.sock.settimeout(timeout_s)
        try:
            data = self.sock.recv(262_144)
        except TimeoutError:
            return True
        except ConnectionResetError:
            return False
        finally:
            self.sock.settimeout(DEADLINE_S)  # what is sent next may have to wait for the guest
        for frame in self._decoder.feed(data):
            self.frames += 1
            self._on_frame(frame)
        return bool(data)

    def _on_frame(self, frame: Frame) -> None:
        name = "stderr" if frame.flags & Flag.STDERR else "stdout"
        match frame.type:
            case FrameType.OUTPUT:
                self.output[name] += frame.payload
            case FrameType.EXEC_OUTPUT:
                self.exec_output[frame.stream][name] += frame.payload
                if self.grant_output and frame.payload:
                    size = len(frame.payload)
                    self.sock.sendall(p.encode_window(FrameType.WINDOW, frame.stream, size))
            case FrameType.STDIN_WINDOW:
                self.stdin_window[frame.stream] += p.decode_window(frame)
            case _:
                body = self._assembler.add(frame)
                if body is not None:
                    self.messages.append((FrameType(frame.type), frame.stream, json.loads(body)))


class ContainerGuest(Guest):
    """An init that runs in namespaces of its own under a busybox root.

    Attributes:
        root: the machine's root directory, as the host sees it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        host, machine = socket.socketpair()
        super().__init__(host)
        command = ["unshare", "--fork", "--kill-child", "--pid", "--mount", "--uts", "--ipc"]
        self.process = subprocess.Popen(
            [*command, "sh", "-c", rootfs.CONTAINER_SCRIPT, "sh", str(root)],
            pass_fds=[machine.fileno()],
            env={"PATH": os.environ["PATH"], "MIDGE_CONTROL_FD": str(machine.fileno())},
            stdin=subprocess.DEVNULL,
        )
        machine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sock.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def init_pid(self) -> int:
        """The init's pid outside."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return int(children.split()[0])

    def wait(self) -> int:
        """The exit code of the container."""
        return self.process.wait(DEADLINE_S)
