"""Bodies of Firecracker's API, as far as this driver speaks it. Source: firecracker.yaml, the API's description.

Members that are None are left out: Firecracker refuses what it does not know, and an older one knows less.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import msgspec

Count = Annotated[int, msgspec.Meta(ge=0)]
Text = Annotated[str, msgspec.Meta(max_length=65_536)]


class Body(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of all requests with a body. `PATH` may name members in braces."""

    METHOD: ClassVar[Literal["PUT", "PATCH"]] = "PUT"
    PATH: ClassVar[str]

    @property
    def path(self) -> str:
        return self.PATH.format_map(msgspec.structs.asdict(self))


class Part(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of what is inside bodies."""


class BootSource(Body, frozen=True, kw_only=True):
    PATH = "/boot-source"

    kernel_image_path: str
    initrd_path: str | None = None
    boot_args: str | None = None


class MachineConfiguration(Body, frozen=True, kw_only=True):
    """Without `smt`, huge pages and CPU templates: their defaults are off."""

    PATH = "/machine-config"

    vcpu_count: Annotated[int, msgspec.Meta(ge=1, le=32)]
    mem_size_mib: Annotated[int, msgspec.Meta(ge=1)]
    track_dirty_pages: bool = False


class TokenBucket(Part, frozen=True, kw_only=True):
    """`size` tokens that come back within `refill_time` milliseconds."""

    size: Count
    refill_time: Count


class RateLimiter(Part, frozen=True, kw_only=True):
    bandwidth: TokenBucket | None = None
    ops: TokenBucket | None = None


class Drive(Body, frozen=True, kw_only=True):
    PATH = "/drives/{drive_id}"

    drive_id: str
    path_on_host: str
    is_root_device: bool
    is_read_only: bool


class PartialDrive(Body, frozen=True, kw_only=True):
    METHOD = "PATCH"
    PATH = "/drives/{drive_id}"

    drive_id: str
    rate_limiter: RateLimiter


class NetworkInterface(Body, frozen=True, kw_only=True):
    PATH = "/network-interfaces/{iface_id}"

    iface_id: str
    host_dev_name: str


class PartialNetworkInterface(Body, frozen=True, kw_only=True):
    METHOD = "PATCH"
    PATH = "/network-interfaces/{iface_id}"

    iface_id: str
    rx_rate_limiter: RateLimiter | None = None
    tx_rate_limiter: RateLimiter | None = None


class Vsock(Body, frozen=True, kw_only=True):
    PATH = "/vsock"

    guest_cid: Annotated[int, msgspec.Meta(ge=3)]
    uds_path: str


class EntropyDevice(Body, frozen=True, kw_only=True):
    """Without a limit: the guest's own kernel asks for little."""

    PATH = "/entropy"


class InstanceActionInfo(Body, frozen=True, kw_only=True):
    PATH = "/actions"

    action_type: Literal["InstanceStart"]


class Vm(Body, frozen=True, kw_only=True):
    METHOD = "PATCH"
    PATH = "/vm"

    state: Literal["Paused", "Resumed"]


class SnapshotCreateParams(Body, frozen=True, kw_only=True):
    PATH = "/snapshot/create"

    snapshot_type: Literal["Full", "Diff"]
    snapshot_path: str
    mem_file_path: str


class MemoryBackend(Part, frozen=True, kw_only=True):
    backend_type: Literal["File"]
    backend_path: str


class NetworkOverride(Part, frozen=True, kw_only=True):
    iface_id: str
    host_dev_name: str


class VsockOverride(Part, frozen=True, kw_only=True):
    uds_path: str


class SnapshotLoadParams(Body, frozen=True, kw_only=True):
    """`enable_diff_snapshots`, deprecated in favour of `track_dirty_pages`, is the name every 1.x takes."""

    PATH = "/snapshot/load"

    snapshot_path: str
    mem_backend: MemoryBackend
    resume_vm: bool = False
    enable_diff_snapshots: bool = False
    network_overrides: tuple[NetworkOverride, ...] | None = None
    vsock_override: VsockOverride | None = None


class InstanceInfo(msgspec.Struct, frozen=True, kw_only=True):
    """An answer; members not needed here are ignored."""

    id: Text
    state: Literal["Not started", "Running", "Paused"]
    vmm_version: Text


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every refusal."""

    fault_message: Text = ""
