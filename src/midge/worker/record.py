"""A machine in the worker's memory: one small object. A change is a changed copy, published whole."""

from __future__ import annotations

import copy
from typing import Any

import msgspec

from midge.drivers.base import Handle
from midge.lifecycle.admission import Lease, live_lease
from midge.lifecycle.states import State
from midge.machine.config import MachineConfig
from midge.machine.spec import Shape
from midge.worker.host import ImageRefView, LeaseView, MachineView

STORY_MAX = 12  # states remembered for an IllegalTransition

_config_decoder = msgspec.json.Decoder(MachineConfig)


class ImageProcess(msgspec.Struct, kw_only=True, frozen=True, gc=False):
    """What the image's configuration says about the process."""

    entrypoint: list[str] = []
    cmd: list[str] = []
    env: list[str] = []
    working_dir: str = ""
    user: str = ""


class ImageResult(msgspec.Struct, kw_only=True, frozen=True):
    """An image that is here, as a machine needs it."""

    ref: ImageRefView
    process: ImageProcess


class Machine(msgspec.Struct, gc=False):
    """All fields as in the table `machines`; the configuration stays encoded, since most machines are at rest.

    Nothing in it can refer back to it, so the cyclic collector need not look at ten thousand of them (`gc=False`);
    nothing in it is changed in place, so a shallow copy is a copy.
    """

    id: str
    app: str
    name: str
    region: str
    state: State
    version: str
    config_json: bytes
    image_ref: ImageRefView
    image_process: ImageProcess
    ipv4: str
    mac: str
    created_at_ns: int
    updated_at_ns: int
    seq: int
    memory_mb: int
    cordoned: bool = False
    handle: Handle | None = None
    snapshot: dict[str, Any] | None = None
    lease: Lease | None = None
    retries_s: tuple[float, ...] = ()
    destroyed_at_ns: int | None = None
    story: tuple[str, ...] = ()

    @property
    def config(self) -> MachineConfig:
        return _config_decoder.decode(self.config_json)

    def move(self, state: State) -> None:
        self.state = state
        self.story = (*self.story, state)[-STORY_MAX:]

    def view(self, now_ns: int) -> MachineView:
        lease = live_lease(self.lease, now_ns)
        return MachineView(
            id=self.id,
            app=self.app,
            name=self.name,
            region=self.region,
            state=self.state,
            version=self.version,
            config=msgspec.Raw(self.config_json),
            image_ref=self.image_ref,
            private_ip=self.ipv4,
            created_at_ns=self.created_at_ns,
            updated_at_ns=self.updated_at_ns,
            cordoned=self.cordoned,
            seq=self.seq,
            lease=lease_view(lease, self.version) if lease else None,
        )


def changed(machine: Machine, state: State, now_ns: int) -> Machine:
    """A copy in another state. Machines in the catalog are never changed in place."""
    copied = copy.copy(machine)
    copied.move(state)
    copied.updated_at_ns = now_ns
    copied.seq = machine.seq + 1
    return copied


def touched(machine: Machine, now_ns: int) -> Machine:
    """A copy in the same state, for a change of its record or a new event."""
    copied = changed(machine, machine.state, now_ns)
    copied.story = machine.story
    return copied


def merged(before: Machine, now: Machine) -> Machine:
    """A run's machine with what changed beside the run: metadata, lease, cordon. No run changes these."""
    copied = changed(before, now.state, now.updated_at_ns)
    copied.seq = now.seq
    copied.config_json, copied.lease, copied.cordoned = now.config_json, now.lease, now.cordoned
    return copied


def with_metadata(config_json: bytes, changes: dict[str, str | None]) -> bytes:
    """The configuration with these keys of its metadata set; None and "" remove one."""
    if not changes:
        return config_json
    raw: dict[str, Any] = msgspec.json.decode(config_json)
    metadata: dict[str, str] = dict(raw.get("metadata") or {})
    for key, value in changes.items():
        if value:
            metadata[key] = value
        else:
            metadata.pop(key, None)
    raw["metadata"] = metadata
    return msgspec.json.encode(raw)


def shape_of(config: MachineConfig) -> Shape:
    """The hardware that a normalised configuration asks for."""
    guest = config.guest
    assert guest is not None, "a normalised configuration has a guest"
    return Shape(cpus=guest.cpus or 1, memory_mb=guest.memory_mb or 256, cpu_kind=guest.cpu_kind or "shared")


def lease_view(lease: Lease, version: str) -> LeaseView:
    return LeaseView(
        nonce=lease.nonce,
        owner=lease.owner,
        expires_at=lease.expires_at_ns // 1_000_000_000,
        description=lease.description,
        version=version,
    )
