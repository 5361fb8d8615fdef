"""Firecracker's API: requests as `bodies` has them, refusals as errors.

::

               BootSource …, InstanceStart       Vm(Paused)          SnapshotCreateParams
    Not started ─────────────────────► Running ─────────► Paused ─────────────────────► Paused
         │                                ▲  ◄─────────────  │
         └────── SnapshotLoadParams ──────┘    Vm(Resumed)   └──► the process is ended
"""

from __future__ import annotations

import asyncio
import socket
from types import TracebackType
from typing import Self

import msgspec

from midge.drivers.firecracker import bodies as b
from midge.drivers.firecracker.http import Answer, Connection, HttpError
from midge.errors import DriverError, OutOfSpace

REQUEST_TIMEOUT_S = 10.0  # a request that moves no memory; milliseconds on an idle host
LOAD_TIMEOUT_S = 30.0  # maps the memory and restores devices; milliseconds, if the disk is not busy
CREATE_TIMEOUT_S = 30.0  # writing a snapshot, and besides:
CREATE_MIB_PER_S = 40  # at least this much memory a second, on a slow disk
_FAULT_CHARS_MAX = 600  # of a refusal, in our message


class Refused(DriverError):
    """Firecracker answered a request with an error."""

    code = "firecracker_refused"

    def __init__(self, request: str, status: int, fault: str) -> None:
        super().__init__(f"firecracker refused {request} ({status}): {fault}", fault=fault)
        self.fault = fault


class Api:
    """A conversation with one Firecracker. ``async with Api(connected socket) as api``."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._connection: Connection | None = None

    async def __aenter__(self) -> Self:
        self._connection = await Connection.over(self._socket)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._connection is not None:
            self._connection.close()

    async def describe(self) -> b.InstanceInfo:
        answer = await self._ask("GET", "/", None, REQUEST_TIMEOUT_S)
        try:
            return msgspec.json.decode(answer.body, type=b.InstanceInfo)
        except msgspec.MsgspecError as error:
            raise DriverError("firecracker describes itself in a way that is not known") from error

    async def send(self, body: b.Body) -> None:
        """Any request that moves no memory. Raises: Refused, DriverError."""
        await self._ask(body.METHOD, body.path, body, REQUEST_TIMEOUT_S)

    async def create_snapshot(self, body: b.SnapshotCreateParams, *, memory_mb: int) -> None:
        """Writes a paused guest of `memory_mb` MiB to the two files. Raises: OutOfSpace, Refused, DriverError."""
        timeout_s = CREATE_TIMEOUT_S + memory_mb / CREATE_MIB_PER_S
        await self._ask(body.METHOD, body.path, body, timeout_s)

    async def load_snapshot(self, body: b.SnapshotLoadParams) -> None:
        """On a fresh process only. The memory file is mapped privately: it must stay, and is not changed.

        Raises: Refused, DriverError.
        """
        await self._ask(body.METHOD, body.path, body, LOAD_TIMEOUT_S)

    async def _ask(self, method: str, path: str, body: b.Body | None, timeout_s: float) -> Answer:
        request = f"{method} {path}"
        assert self._connection is not None, "enter the context first"
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self._connection.ask(
                    method, path, None if body is None else msgspec.json.encode(body)
                )
        except TimeoutError as error:
            raise DriverError(f"firecracker did not answer {request} within {timeout_s:g} s") from error
        except HttpError as error:
            raise DriverError(f"firecracker did not answer {request}") from error
        if answer.status >= 300:
            raise _refusal(request, answer)
        return answer


def _refusal(request: str, answer: Answer) -> DriverError | OutOfSpace:
    try:
        fault = msgspec.json.decode(answer.body, type=b.Fault).fault_message
    except msgspec.MsgspecError:
        fault = answer.body.decode(errors="replace")
    fault = " ".join(fault.split())[:_FAULT_CHARS_MAX] or "no reason given"
    # strerror(ENOSPC) and its number, as Rust prints it within a longer sentence.
    if "No space left on device" in fault or "os error 28" in fault:
        return OutOfSpace(f"firecracker could not write ({request}): {fault}", hint="free disk space")
    return Refused(request, answer.status, fault)
