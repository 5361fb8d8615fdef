"""What a driver is: a few verbs, what it can do, and a handle that survives the worker.

The worker calls a driver's verbs for one machine strictly one after another (its owner task); for different
machines they run at the same time. Every verb is idempotent: after a crash the step that called it runs again.
A program is never run twice for one `start_id`.

    prepare ──► start ──► (stop | kill | the process ends) ──► wait returns ──► cleanup ──► start …
                  │                                                               │
                  └── suspend ──► resume …                                        └── destroy
                         └ cancelled ──► go_on

After a worker's death a new worker calls `recover(handle)` for each handle it finds in its database, then goes on
with `wait` as if nothing had happened.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, Protocol

import msgspec

from midge.errors import HandleUnknown
from midge.machine.spec import ExitStatus, MachineSpec

HANDLE_VERSION = 1  # of what drivers put into a handle and lay down beside it; the only one they read


class Capabilities(msgspec.Struct, kw_only=True, frozen=True):
    """What a driver can do. Whoever is about to ask for something looks here first: admission, exec, the host's status.

    `suspend` is ``memory`` (state on disk, memory freed), ``freeze`` (stopped in place, memory stays) or ``none``.
    `kernel`: flavour and version of what new guests boot, as of now.
    """

    suspend: Literal["memory", "freeze", "none"] = "none"
    exec: bool = True
    kernel: str = ""


class Handle(msgspec.Struct, kw_only=True, frozen=True, gc=False):
    """What is needed to find a running machine again. Opaque above the driver, stored in the database."""

    driver: str
    machine_id: str
    start_id: str
    version: int = HANDLE_VERSION
    data: dict[str, Any] = {}

    def check(self) -> None:
        """Raises: HandleUnknown: another version of Midge wrote it."""
        if self.version != HANDLE_VERSION:
            raise HandleUnknown(
                f"machine {self.machine_id} was started by another version of midge: its handle has version "
                f"{self.version}, and this midge reads {HANDLE_VERSION}",
                hint="start the midge that was here before; the machine runs on meanwhile",
            )


class Running(msgspec.Struct, kw_only=True, frozen=True):
    """`recover` found the machine running and has adopted it."""

    handle: Handle


class Exited(msgspec.Struct, kw_only=True, frozen=True):
    """`recover` found that the machine ended while no worker looked."""

    status: ExitStatus


class Lost(msgspec.Struct, kw_only=True, frozen=True):
    """`recover` found nothing of it: the host was restarted, or the run directory is gone."""

    reason: str


Recovered = Running | Exited | Lost


class ExecRequest(msgspec.Struct, kw_only=True, frozen=True):
    """A command to run in a running machine. `timeout_s` None: no limit; user None: the machine's."""

    argv: list[str]
    env: dict[str, str] = {}
    user: str | None = None
    cwd: str | None = None
    tty: bool = False
    rows: int = 24
    cols: int = 80
    stdin: bool = False
    timeout_s: float | None = None


class ExecExit(msgspec.Struct, kw_only=True, frozen=True):
    """How a command ended: `exit_code` 128+n when `signal` n ended it."""

    exit_code: int
    signal: int = 0
    timed_out: bool = False
    oom_killed: bool = False


class ExecSession(Protocol):
    """A command that runs. Iterate over its output; `exit` is there when the iteration has ended."""

    async def write_stdin(self, data: bytes) -> None: ...

    async def close_stdin(self) -> None: ...

    async def resize(self, rows: int, cols: int) -> None: ...

    async def signal(self, signum: int) -> None: ...

    def output(self) -> AsyncIterator[tuple[Literal["stdout", "stderr"], bytes]]: ...

    async def wait(self) -> ExecExit: ...


class Trace(Protocol):
    """Takes the moment at which a named phase of a start ended."""

    def mark(self, phase: str, ago_s: float = 0.0) -> None:
        """Args: ago_s: how long ago it ended, in seconds; not before the phase marked last."""


class Driver(Protocol):
    """How a host runs a machine.

    A handle names one run: a machine and a `start_id`. A verb never touches another run of the machine. Where the run
    of the handle has ended, was cleared away, or another start has taken its place, all drivers answer alike:

    * `wait` reports the run's exit for as long as it is recorded, that is until `cleanup`; NotRunning after that;
    * `signal` and `kill` do nothing: what they ask for is so already;
    * `exec`, `ps`, `stats` and `suspend` raise NotRunning.

    A handle of another version says nothing about its run, least of all that it is dead: every verb that reads a handle
    raises HandleUnknown and touches nothing.
    """

    name: str

    @property
    def capabilities(self) -> Capabilities:
        """Known after `open`."""
        ...

    async def open(self) -> None:
        """Checks the host, sweeps what nobody claims, starts background work.

        Raises:
            NotSupported: this host cannot run this driver; the hint says what is missing.
        """
        ...

    async def aclose(self) -> None:
        """Joins background work. Machines that run go on."""
        ...

    def statistics(self) -> dict[str, int]:
        """What it keeps ready, by name; may be empty. ``warm_slots``, ``parked_vms``, ``parked_memory_mb`` (MiB)."""
        ...

    async def prepare(self, spec: MachineSpec) -> None:
        """Makes a later start fast: root filesystem of the image, template of the shape. At create and update."""
        ...

    async def start(self, spec: MachineSpec, trace: Trace) -> Handle:
        """Runs the machine's process from a fresh root filesystem; returns when the process has been executed.

        A machine that this `spec.start_id` already started is adopted: one that runs, and one that has run and ended,
        whose handle is given back so that `wait` reports its exit. Leftovers of any other start are removed.
        A command that cannot be executed is no error of start: the process "ran" and ended with 126 or 127.

        Raises:
            NoCapacity, OutOfSpace, Unrecoverable(user): trying again cannot help.
            DriverError: it may.
        """
        ...

    async def wait(self, handle: Handle) -> ExitStatus:
        """Returns when the process has ended and its output is completely in the log. Safe to call repeatedly.

        Raises:
            NotRunning: there is nothing of it any more (`cleanup` has run).
        """
        ...

    async def signal(self, handle: Handle, signum: int) -> None:
        """Sends a signal to the main process. Nothing if this run has ended or is gone."""
        ...

    async def kill(self, handle: Handle) -> None:
        """Ends the machine at once; `wait` then reports signal 9. Nothing if this run has ended or is gone."""
        ...

    async def suspend(self, spec: MachineSpec, handle: Handle) -> dict[str, Any]:
        """Saves the machine's state, frees what its capability says, returns the snapshot's record.

        Raises:
            NotSupported: the driver cannot.
            NotRunning: this run has ended or is gone.
            OutOfSpace, DriverError: nothing has changed, the machine runs on.

        When it is cancelled, the machine runs on or is suspended; `go_on` makes it run either way.
        """
        ...

    async def resume(self, spec: MachineSpec, snapshot: dict[str, Any], trace: Trace) -> Handle:
        """Brings a suspended machine back where it was.

        Raises:
            SnapshotUnusable: missing, damaged, or from another kernel, VMM or CPU: a cold start is due.
        """
        ...

    async def go_on(self, spec: MachineSpec, handle: Handle, trace: Trace) -> Handle:
        """Takes back a suspend that was cancelled or has failed, however far it had come: the machine runs.

        Nothing for a machine that runs anyway. A handle other than the given one says that it was resumed.

        Raises:
            SnapshotUnusable: it does not run, and cannot be brought back: a cold start is due.
        """
        ...

    async def discard_snapshot(self, machine_id: str, snapshot: dict[str, Any]) -> None:
        """Removes a snapshot's files. No error if they are gone."""
        ...

    async def cleanup(self, machine_id: str, handle: Handle | None) -> None:
        """Gives back what a run used (namespace, cgroup, run directory), keeps what `prepare` made."""
        ...

    async def destroy(self, machine_id: str) -> None:
        """Removes everything the driver has of the machine, running or not."""
        ...

    async def recover(self, handle: Handle) -> Recovered:
        """Finds a machine that a worker before us started."""
        ...

    async def sweep(self, known: set[str]) -> list[str]:
        """Removes leftovers of machines not in `known`; returns what it removed, for the log."""
        ...

    def exec(self, handle: Handle, request: ExecRequest) -> AbstractAsyncContextManager[ExecSession]:
        """Runs a command inside. Leaving the context kills it if it still runs. Raises: NotRunning."""
        ...

    async def ps(self, handle: Handle) -> list[dict[str, Any]]:
        """Processes inside, in the form of the API's ProcessStat. Raises: NotRunning."""
        ...

    async def stats(self, handle: Handle) -> dict[str, Any]:
        """Memory, CPU and I/O figures of the running machine. Raises: NotRunning."""
        ...
