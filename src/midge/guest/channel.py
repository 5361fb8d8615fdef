"""The worker's end of the guest channel.

```
connect ──► SHIM_STATE ──► hello() ──► start() ──► exec · stats · ps · signal · quiesce … ──► wait_exit()
               │                                                                                 ▲
               └── exit and end as far as the shim has seen them ────────────────────────────────┘
```

Any number of tasks may use one channel. Frames are handled in the event loop as they arrive; nothing here owns a
task, so cancelling a caller only gives up its wait.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from midge.errors import DeadlineExceeded
from midge.guest import messages as m
from midge.guest import protocol as p
from midge.guest.collect import EXEC_OUTPUT_BYTES_MAX, run_exec
from midge.guest.errors import ChannelLost, ProtocolError
from midge.guest.exec import ExecResult, ExecSession
from midge.guest.files import GuestFile, file_frames
from midge.guest.phases import EXEC, MOUNTS, Mark, StartPhases, ignore
from midge.guest.protocol import FrameType
from midge.guest.replies import Reply, answer
from midge.guest.session import Session

CONNECT_TIMEOUT_S = 5.0  # until the shim's first frame; it listens before it spawns
REPLY_TIMEOUT_S = 10.0  # one answer of a running guest, on a loaded host
HELLO_TIMEOUT_S = 60.0  # first answer of a guest that boots, under emulation
START_TIMEOUT_S = 60.0  # mounts, swap and files of a start

# By the name of a wait in `start`: the phase its answer ends.
_PHASES = {"configure": MOUNTS, "run": EXEC}


class GuestChannel:
    """A machine's init, through its shim. Made by `connect`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._session = Session()

    @classmethod
    async def connect(cls, path: Path, *, timeout_s: float = CONNECT_TIMEOUT_S) -> Self:
        """Attaches to the shim that listens at `path`; whoever was attached before is cut off.

        Raises:
            ChannelLost: nobody listens there.
            DeadlineExceeded: the shim does not answer.
        """
        channel = cls(path)
        session = channel._session
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout_s):
                await loop.create_unix_connection(lambda: session.connection, str(path))
                await session.until(lambda: session.shim)
        except TimeoutError as error:
            await channel.aclose()
            raise DeadlineExceeded(f"shim at {path} did not answer within {timeout_s:g} s") from error
        except OSError as error:
            raise ChannelLost(f"no shim listens at {path}", hint="its machine has ended") from error
        except BaseException:
            await channel.aclose()
            raise
        return channel

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Detaches. The machine and its shim go on. Repeatable."""
        await self._session.connection.aclose()

    @property
    def shim(self) -> m.ShimState:
        """What the shim said first."""
        if self._session.shim is None:
            raise ProtocolError("shim has not said anything yet")
        return self._session.shim

    @property
    def guest(self) -> m.HelloAck | None:
        """What the guest said to HELLO; None without a session."""
        return self._session.guest

    @property
    def exit(self) -> m.GuestExit | None:
        """How the main process ended, if it is known already."""
        return self._session.exit

    @property
    def is_open(self) -> bool:
        return self._session.connection.is_open

    async def hello(self, *, resume: bool = False, timeout_s: float = HELLO_TIMEOUT_S) -> m.HelloAck:
        """Opens a session; execs of an earlier one are killed by the guest.

        Args:
            resume: `resume()` follows, and until then what `quiesce` froze is to stand still.

        Raises:
            DeadlineExceeded: the guest has not answered; it may still boot, and calling again is allowed.
            GuestRefused: no common version.
            ChannelLost: the connection ended.
        """
        data, reply = self._session.hello(resume=resume)
        try:
            self._session.send(data)
            await answer(reply, "hello", timeout_s)
        finally:
            _forget(reply)  # of a connection that is lost already, and is told so once more
        return self._greeted()

    async def start(
        self,
        configure: m.Configure,
        files: Sequence[GuestFile] = (),
        *,
        timeout_s: float = START_TIMEOUT_S,
        mark: Mark = ignore,
    ) -> m.Running:
        """Configures the guest, writes files and runs the main process, all in one write and one wait.

        Opens the session first if there is none yet. `mark` is told of ``handshake``, ``mounts`` and ``exec`` when
        their answers come; of ``guest`` alone if all come together and the guest does not say how long each took.

        Raises:
            GuestRefused: the first step the guest could not do; it has refused the rest as well.
        """
        data: list[bytes] = []
        waits: list[tuple[str, Reply]] = []
        if self._session.guest is None:
            greeting, reply = self._session.hello()
            data.append(greeting)
            waits.append(("hello", reply))
        data.append(p.encode_message(FrameType.CONFIGURE, 0, m.encode(configure)))
        waits.append(("configure", self._session.expect(FrameType.CONFIGURE)))
        for file in files:
            stream = self._session.new_stream()
            data.append(b"".join(file_frames(stream, file)))
            waits.append((f"file {file.path}", self._session.expect(FrameType.FILE, stream)))
        data.append(p.encode_message(FrameType.RUN, 0, m.encode(m.Empty())))
        waits.append(("run", self._session.expect(FrameType.RUN)))
        payload = b""
        try:
            self._session.send(b"".join(data))
            async with asyncio.timeout(timeout_s):
                phases = StartPhases(mark)
                for index, (what, reply) in enumerate(waits):
                    payload = await answer(reply, what, timeout_s)
                    alone = not any(next.done() for _, next in waits[index + 1 : index + 2])
                    if what == "hello":
                        self._greeted()
                        phases.greeted(alone=alone)
                    elif what in _PHASES:
                        phases.answered(_PHASES[what], payload, alone=alone)
        except TimeoutError as error:
            raise DeadlineExceeded(f"guest did not start within {timeout_s:g} s") from error
        finally:
            for _, reply in waits:
                _forget(reply)
        return m.decode(m.Running, payload, what="running")

    async def signal(self, number: int) -> None:
        """A signal for the main process; not answered."""
        self._send(FrameType.SIGNAL, m.Signal(signal=number))

    async def shutdown(self) -> None:
        """Unmounts and powers off, without an exit report."""
        self._send(FrameType.SHUTDOWN, m.Empty())

    def exec(self, request: m.ExecRequest) -> ExecSession:
        """A further process, as a context manager that starts it.

        Raises:
            GuestRefused: too many at the same time.
        """
        return self._session.new_exec(request)

    async def run_exec(
        self,
        request: m.ExecRequest,
        stdin: bytes = b"",
        *,
        timeout_s: float,
        output_max_bytes: int = EXEC_OUTPUT_BYTES_MAX,
    ) -> ExecResult:
        """Runs a process to its end and collects what it writes; see `midge.guest.collect`."""
        return await run_exec(self, request, stdin, timeout_s=timeout_s, output_max_bytes=output_max_bytes)

    async def stats(self, *, timeout_s: float = REPLY_TIMEOUT_S) -> m.Stats:
        return m.decode(m.Stats, await self._ask_on_stream(FrameType.STATS, timeout_s), what="stats_reply")

    async def ps(self, *, timeout_s: float = REPLY_TIMEOUT_S) -> tuple[m.Process, ...]:
        reply = await self._ask_on_stream(FrameType.PS, timeout_s)
        return m.decode(m.PsReply, reply, what="ps_reply").processes

    async def quiesce(self, *, freeze: bool = False, timeout_s: float = REPLY_TIMEOUT_S) -> None:
        """After this the guest writes nothing until the next HELLO, so that it can be saved.

        With `freeze` its processes stand still until `resume`, or a `hello` that announces none.
        """
        await self._ask(FrameType.QUIESCE, m.Quiesce(freeze=freeze), timeout_s)
        # Whoever waits for a command is told now, not when the machine is resumed.
        self._session.end(ChannelLost("the guest is quiet, as for a suspend"))

    async def resume(self, resume: m.Resume, *, timeout_s: float = REPLY_TIMEOUT_S) -> None:
        """After a resume or in a fork: steps the clock, reseeds, renames."""
        await self._ask(FrameType.RESUME, resume, timeout_s)

    async def warm(self, warm: m.Warm | None = None, *, timeout_s: float = START_TIMEOUT_S) -> None:
        """Lets a waiting guest walk the path of a start once."""
        await self._ask(FrameType.WARM, warm or m.Warm(), timeout_s)

    async def write_file(self, file: GuestFile, *, timeout_s: float = REPLY_TIMEOUT_S) -> None:
        """Writes one file, whole or not at all."""
        stream = self._session.new_stream()
        reply = self._session.expect(FrameType.FILE, stream)
        header, *frames = file_frames(stream, file)
        try:
            self._session.send(header)
            for frame in frames:
                self._session.send(frame)
                await self._session.drain()
            await answer(reply, f"file {file.path}", timeout_s)
        finally:
            _forget(reply)

    async def wait_exit(self) -> m.GuestExit:
        """How the main process ended. On disk by then.

        Raises:
            ChannelLost: the machine ended without saying, or the connection did: look at the shim's files.
        """
        return await self._session.until(lambda: self._session.exit, unless_ended=True)

    async def wait_ended(self) -> m.Ended:
        """How the VMM or the container ended.

        Raises:
            ChannelLost: the connection ended before.
        """
        return await self._session.until(lambda: self._session.ended)

    async def kill(self) -> None:
        """Ends the VMM or container at once."""
        self._session.send(p.encode_frame(FrameType.SHIM_KILL))

    def set_log(self, path: Path) -> None:
        """Has the shim write the machine's output there from now on; before the guest runs anything."""
        self._session.send(p.encode_frame(FrameType.SHIM_LOG, payload=bytes(path)))

    async def quit(self) -> None:
        """Lets a shim go whose machine has ended; nothing if it has gone already."""
        with contextlib.suppress(ChannelLost):
            self._session.send(p.encode_frame(FrameType.SHIM_QUIT))

    def _send(self, type_: FrameType, message: m.Message, stream: int = 0) -> None:
        self._session.send(p.encode_message(type_, stream, m.encode(message)))

    async def _ask(self, request: FrameType, message: m.Message, timeout_s: float, stream: int = 0) -> bytes:
        reply = self._session.expect(request, stream)
        try:
            self._send(request, message, stream)
            return await answer(reply, p.type_name(request), timeout_s)
        finally:
            _forget(reply)

    async def _ask_on_stream(self, request: FrameType, timeout_s: float) -> bytes:
        return await self._ask(request, m.Empty(), timeout_s, self._session.new_stream())

    def _greeted(self) -> m.HelloAck:
        if self._session.guest is None:
            raise ChannelLost("the session with the guest was opened anew")
        return self._session.guest


def _forget(reply: Reply) -> None:
    """Nobody waits for this any more; its place in the queue stays until the answer comes."""
    if not reply.cancel() and not reply.cancelled():
        reply.exception()
