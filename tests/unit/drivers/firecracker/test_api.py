"""The client against a Firecracker that has no virtual machine but all the rules."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from midge.drivers.firecracker import bodies as b
from midge.drivers.firecracker.api import Api, Refused
from midge.drivers.firecracker.boot import configure
from midge.drivers.firecracker.guest import load_request
from midge.drivers.firecracker.http import BODY_BYTES_MAX
from midge.drivers.firecracker.version import Version
from midge.errors import DriverError, OutOfSpace
from midge.testing.fake_firecracker import FakeFirecracker
from tests.unit.drivers.firecracker.parts import make_recipe

pytestmark = pytest.mark.anyio
START = b.InstanceActionInfo(action_type="InstanceStart")
FULL = b.SnapshotCreateParams(snapshot_type="Full", snapshot_path="/state", mem_file_path="/memory")


@pytest.fixture
def root() -> AsyncIterator[Path]:
    with tempfile.TemporaryDirectory(prefix="mf-") as name:
        root = Path(name)
        (root / "run").mkdir()
        for file in ("kernel", "initramfs", "lower", "upper"):
            (root / file).touch()
        yield root


@pytest.fixture
async def firecracker(root: Path) -> AsyncIterator[FakeFirecracker]:
    async with FakeFirecracker(root / "run/api.sock", root=root) as firecracker:
        yield firecracker


@pytest.fixture
async def api(root: Path, firecracker: FakeFirecracker) -> AsyncIterator[Api]:
    async with connect(root / "run/api.sock") as api:
        yield api


def connect(path: Path) -> Api:
    connected = socket.socket(socket.AF_UNIX)
    connected.connect(str(path))
    connected.setblocking(False)
    return Api(connected)


async def boot(api: Api) -> None:
    for body in configure(make_recipe(), "tap0"):
        await api.send(body)
    await api.send(START)


async def test_boots_pauses_saves_and_goes_on(api: Api, root: Path) -> None:
    await boot(api)
    assert (await api.describe()).state == "Running"
    await api.send(b.Vm(state="Paused"))
    await api.create_snapshot(FULL, memory_mb=256)
    assert (root / "memory").stat().st_size == 256 * 1024 * 1024
    await api.send(b.Vm(state="Resumed"))
    assert (await api.describe()).state == "Running"


async def test_restores_what_was_saved(api: Api, root: Path) -> None:
    await boot(api)
    await api.send(b.Vm(state="Paused"))
    await api.create_snapshot(FULL, memory_mb=256)
    (root / "run/v.sock").unlink()
    async with (
        FakeFirecracker(root / "run/second.sock", root=root),
        connect(root / "run/second.sock") as second,
    ):
        await second.load_snapshot(
            load_request(Version((1, 12, 1), "1.12.1"), tap="tap0", track_dirty_pages=False)
        )
        assert (await second.describe()).state == "Running"


async def test_refusal_names_request_and_reason(api: Api) -> None:
    with pytest.raises(Refused, match=r"refused PUT /actions \(400\): Cannot start microvm without kernel"):
        await api.send(START)


async def test_changes_of_a_running_guest_come_after_its_boot_only(api: Api) -> None:
    with pytest.raises(Refused, match="not supported before starting"):
        await api.send(b.Vm(state="Paused"))
    await boot(api)
    with pytest.raises(Refused, match="not supported after starting"):
        await api.send(b.BootSource(kernel_image_path="/kernel"))


async def test_snapshot_of_a_running_guest_is_refused(api: Api) -> None:
    await boot(api)
    with pytest.raises(Refused, match="unavailable while running"):
        await api.create_snapshot(FULL, memory_mb=256)


async def test_full_disk_is_no_fault_of_ours(api: Api, firecracker: FakeFirecracker) -> None:
    await boot(api)
    await api.send(b.Vm(state="Paused"))
    firecracker.faults["PUT /snapshot/create"] = "Cannot write: No space left on device (os error 28)"
    with pytest.raises(OutOfSpace, match="could not write"):
        await api.create_snapshot(FULL, memory_mb=256)


async def test_member_that_an_older_version_does_not_know_is_refused(api: Api) -> None:
    request = load_request(
        Version((1, 16, 2), "1.16.2"),
        tap="tap0",
        snapshot={"tap": "tap0", "vsock": "/elsewhere.sock"},
        track_dirty_pages=False,
    )
    with pytest.raises(Refused, match="unknown field `vsock_override`"):
        await api.load_snapshot(request)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"hello\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (BODY_BYTES_MAX + 1),
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000,
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
        b"SSH-2.0 200 OK\r\n\r\n",
    ],
)
async def test_takes_no_nonsense_for_an_answer(root: Path, answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async with await asyncio.start_unix_server(serve, root / "api"), connect(root / "api") as api:
        with pytest.raises(DriverError, match="firecracker"):
            await api.describe()
