"""A host as the api sees it: the one face of a worker.

On one host the api calls the worker itself; across hosts another implementation of this protocol sends the same
calls over the bus. Every method takes and returns plain values.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from midge.drivers.base import ExecRequest, ExecSession
from midge.machine.config import MachineConfig

if TYPE_CHECKING:
    from midge.logs.reader import LogReader
    from midge.worker.trace import Traced


class ImageRefView(msgspec.Struct, kw_only=True, frozen=True, gc=False):
    registry: str
    repository: str
    tag: str
    digest: str
    labels: dict[str, str] | None = None


class LeaseView(msgspec.Struct, kw_only=True, frozen=True):
    """`expires_at` in whole seconds since 1970."""

    nonce: str
    owner: str
    expires_at: int
    description: str
    version: str


class MachineView(msgspec.Struct, kw_only=True, frozen=True):
    """A machine as published: a whole object with a sequence number, never changed in place.

    `config` is the stored JSON with defaults filled in, unknown members kept.
    """

    id: str
    app: str
    name: str
    region: str
    state: str
    version: str
    config: msgspec.Raw
    image_ref: ImageRefView
    private_ip: str
    created_at_ns: int
    updated_at_ns: int
    cordoned: bool
    seq: int
    lease: LeaseView | None = None
    host_status: str = "ok"


class EventView(msgspec.Struct, kw_only=True, frozen=True):
    """`timestamp` in milliseconds since 1970."""

    id: str
    type: str
    status: str
    source: str
    timestamp: int
    request: Any = None


class CreateMachine(msgspec.Struct, kw_only=True, frozen=True):
    """A create request whose app exists and whose name is reserved.

    `config_json` is what the client sent; `config` is the same, decoded.
    """

    id: str
    app: str
    name: str
    region: str
    config: MachineConfig
    config_json: bytes
    skip_launch: bool = False
    cordoned: bool = False
    lease_ttl_s: int = 0
    owner: str = ""


class UpdateMachine(msgspec.Struct, kw_only=True, frozen=True):
    config: MachineConfig
    config_json: bytes
    skip_launch: bool = False
    current_version: str = ""
    lease_ttl_s: int = 0
    owner: str = ""


class WaitResult(msgspec.Struct, kw_only=True, frozen=True):
    state: str
    version: str
    event_id: str


class HostStatus(msgspec.Struct, kw_only=True, frozen=True):
    """For /readyz, `midge status` and placement. Memory in MiB. `kept`: what the driver keeps ready, by name."""

    name: str
    region: str
    driver: str
    ready: bool
    reason: str
    machines: dict[str, int]
    memory_total_mb: int
    memory_reserved_mb: int
    cpus: int
    kernel: str = ""
    kept: dict[str, int] = {}


class Host(Protocol):
    """What a worker does for the api.

    All methods raise NotFound for a machine this host does not have. The mutating ones check the lease: they raise
    LeaseHeld unless `nonce` matches. `source` is ``user`` or ``proxy`` and ends up in the events.
    """

    async def create(self, request: CreateMachine) -> MachineView: ...

    async def update(self, machine_id: str, request: UpdateMachine, *, nonce: str = "") -> MachineView: ...

    async def start(self, machine_id: str, *, nonce: str = "", source: str = "user") -> str:
        """Starts or resumes; returns the previous state.

        Returns when the machine has started, or after ANSWER_AFTER_S with the start still under way.
        """
        ...

    async def stop(
        self,
        machine_id: str,
        *,
        signal: str | None = None,
        timeout_s: float | None = None,
        nonce: str = "",
        source: str = "user",
    ) -> None:
        """Returns at once; `wait` tells the rest."""
        ...

    async def restart(
        self,
        machine_id: str,
        *,
        signal: str | None = None,
        timeout_s: float | None = None,
        force: bool = False,
        nonce: str = "",
    ) -> None: ...

    async def suspend(self, machine_id: str, *, nonce: str = "", source: str = "user") -> None: ...

    async def destroy(self, machine_id: str, *, force: bool = False, nonce: str = "") -> None: ...

    async def signal(self, machine_id: str, signum: int) -> None: ...

    async def cordon(self, machine_id: str, cordoned: bool, *, nonce: str = "") -> None: ...

    async def set_metadata(
        self, machine_id: str, changes: dict[str, str | None], *, machine_version: str = ""
    ) -> None: ...

    async def acquire_lease(
        self, machine_id: str, *, ttl_s: int, owner: str, description: str = "", nonce: str = ""
    ) -> LeaseView: ...

    async def release_lease(self, machine_id: str, *, nonce: str) -> None: ...

    def get_lease(self, machine_id: str) -> LeaseView | None: ...

    def get(self, machine_id: str) -> MachineView: ...

    def list(
        self,
        *,
        app: str | None = None,
        states: Collection[str] = (),
        region: str | None = None,
        metadata: dict[str, str] | None = None,
        include_deleted: bool = False,
        after_id: str = "",
        limit: int | None = None,
    ) -> list[MachineView]:
        """Sorted by machine id, so that `after_id` and `limit` page through it."""
        ...

    def events(self, machine_id: str, limit: int) -> Sequence[EventView]:
        """Newest first."""
        ...

    def phases(self, machine_id: str, limit: int) -> Sequence[dict[str, Any]]:
        """The named phases of the latest starts, newest first.

        Each is ``{"start_id", "kind", "state", "error", "phases": [[name, ms]], "started_at_ns", "resumed"}``.
        """
        ...

    def versions(self, machine_id: str) -> Sequence[tuple[str, msgspec.Raw]]:
        """(version, config) pairs, newest first."""
        ...

    async def wait(
        self,
        machine_id: str,
        *,
        states: Collection[str],
        timeout_s: float,
        version: str = "",
        from_event_id: str = "",
    ) -> WaitResult:
        """Raises DeadlineExceeded with the text the Machines API uses."""
        ...

    def exec(self, machine_id: str, request: ExecRequest) -> AbstractAsyncContextManager[ExecSession]: ...

    async def ps(self, machine_id: str) -> Sequence[dict[str, Any]]: ...

    async def stats(self, machine_id: str) -> dict[str, Any]: ...

    def logs(self, machine_id: str) -> LogReader: ...

    def address(self, machine_id: str) -> str:
        """The machine's private IPv4, for a proxy on this host."""
        ...

    def images_in_use(self) -> set[str]: ...

    def take_traces(self) -> Sequence[Traced]:
        """Operations that have ended since this was last called: for whoever counts them, of whom there is one."""
        ...

    def status(self) -> HostStatus: ...
