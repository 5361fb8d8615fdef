"""Versions, command lines, recipes, limits: what is decided without doing anything."""

from __future__ import annotations

import asyncio
import itertools
import os
from pathlib import Path

import pytest

from midge.drivers.firecracker import bodies as b
from midge.drivers.firecracker import version as versions
from midge.drivers.firecracker.appear import Appearance
from midge.drivers.firecracker.boot import boot_args, configure, copy_without_zeros
from midge.drivers.firecracker.guest import device_names, limit_requests, load_request
from midge.drivers.firecracker.jail import Jail
from midge.drivers.firecracker.launch import command
from midge.drivers.firecracker.settings import IoLimits, Limit
from midge.drivers.firecracker.suspend import differences, disk_identity
from midge.drivers.firecracker.version import Programs, Version, parse_version, unsupported
from midge.errors import NotSupported, SnapshotUnusable
from midge.machine.spec import Shape
from tests.deadlines import PATIENCE_S
from tests.unit.drivers.firecracker.parts import make_kernel, make_recipe, make_settings

PROGRAMS = Programs(Path("/bin/firecracker"), Path("/bin/jailer"), Version((1, 12, 1), "1.12.1"))


@pytest.mark.parametrize(
    ("output", "text"),
    [
        ("Firecracker v1.10.1\n\n2024-11-14T11:20:34 [anonymous-instance:main] exiting", "1.10.1"),
        ("Jailer v1.12.0", "1.12.0"),
        ("Firecracker v1.17.0-dev\n", "1.17.0-dev"),
    ],
)
def test_reads_versions(output: str, text: str) -> None:
    version = parse_version(output)
    assert version is not None
    assert version.text == text


@pytest.mark.parametrize("output", ["", "QEMU emulator version 7.2", "Firecracker vX"])
def test_takes_no_other_program_for_it(output: str) -> None:
    assert parse_version(output) is None


@pytest.mark.parametrize(
    ("numbers", "reason"),
    [
        ((1, 9, 9), "too old"),
        ((1, 10, 0), ""),
        ((1, 16, 0), "not supported: vsock"),
        ((1, 16, 2), ""),
        ((1, 99, 0), ""),
        ((2, 0, 0), "newer than"),
    ],
)
def test_knows_which_versions_are_supported(numbers: tuple[int, int, int], reason: str) -> None:
    assert reason in (found := unsupported(Version(numbers, "x")))
    assert bool(reason) == bool(found)


def fake_program(path: Path, says: str) -> str:
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.anyio
async def test_finds_programs_behind_links(tmp_path: Path) -> None:
    real = tmp_path / "firecracker-v1.12.1-x86_64"
    fake_program(real, "Firecracker v1.12.1")
    (tmp_path / "firecracker").symlink_to(real)
    jailer = fake_program(tmp_path / "jailer", "Jailer v1.12.1")
    found = await versions.find(str(tmp_path / "firecracker"), jailer)
    assert found.firecracker == real.resolve()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("name", "vmm", "jailer", "reason"),
    [
        ("firecracker", "Firecracker v1.9.0", "Jailer v1.9.0", "too old"),
        ("firecracker", "Firecracker v1.12.1", "Jailer v1.11.0", "jailer is 1.11.0"),
        ("firecracker", "nothing", "Jailer v1.12.1", "does not answer"),
        ("vmm", "Firecracker v1.12.1", "Jailer v1.12.1", "in its file name"),
    ],
)
async def test_refuses_programs_that_do_not_fit(
    tmp_path: Path, name: str, vmm: str, jailer: str, reason: str
) -> None:
    programs = fake_program(tmp_path / name, vmm), fake_program(tmp_path / "jailer", jailer)
    with pytest.raises(NotSupported, match=reason):
        await versions.find(*programs)


@pytest.mark.anyio
async def test_says_where_to_get_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(NotSupported, match="not installed") as raised:
        await versions.find(str(tmp_path / "firecracker"), "jailer")
    assert "releases" in raised.value.hint


def test_jailer_is_told_everything_and_seccomp_stays_on() -> None:
    jail = Jail(Path("/j"), "firecracker", "m1", 77)
    words = command(PROGRAMS, jail, file_bytes_max=1000)
    assert words[0] == "/bin/jailer"
    ours, theirs = words[: words.index("--")], words[words.index("--") + 1 :]
    pairs = dict(itertools.pairwise(ours))
    assert (pairs["--id"], pairs["--uid"], pairs["--gid"]) == ("m1", "77", "77")
    assert (pairs["--exec-file"], pairs["--chroot-base-dir"]) == ("/bin/firecracker", "/j")
    assert "fsize=1000" in ours
    assert "--new-pid-ns" in ours
    assert not any("cgroup" in word or "netns" in word for word in ours)
    assert theirs == ("--api-sock", "/run/api.sock")


def test_guest_listens_on_vsock_and_has_its_disks_in_order() -> None:
    recipe = make_recipe()
    assert "midge.channel=vsock" in boot_args(recipe).split()
    drives = [body for body in configure(recipe, "tap0") if isinstance(body, b.Drive)]
    assert [(drive.path_on_host, drive.is_read_only) for drive in drives] == [
        ("/lower", True),
        ("/upper", False),
    ]


def test_whatever_a_restore_depends_on_is_in_the_key() -> None:
    key = make_recipe().key
    kernel = make_kernel()
    others = [
        make_recipe(shape=Shape(cpus=2)),
        make_recipe(shape=Shape(memory_mb=512)),
        make_recipe(version="1.12.2"),
        make_recipe(upper_mb=65),
        make_recipe(track_dirty_pages=True),
        make_recipe(
            kernel=type(kernel)(**{f: getattr(kernel, f) for f in kernel.__struct_fields__} | {"id": "x"})
        ),
    ]
    assert key == make_recipe().key
    assert len({key, *(other.key for other in others)}) == 1 + len(others)


def test_shared_and_performance_cpus_share_a_template() -> None:
    assert make_recipe().key == make_recipe(shape=Shape(cpu_kind="performance")).key


def test_nothing_is_overridden_where_names_agree() -> None:
    request = load_request(
        PROGRAMS.version, tap="tap0", snapshot=device_names("tap0"), track_dirty_pages=False
    )
    assert request.network_overrides is None
    assert request.vsock_override is None
    assert request.resume_vm


def test_renamed_tap_needs_a_version_that_can() -> None:
    snapshot = device_names("tap9")
    request = load_request(Version((1, 12, 0), ""), tap="tap0", snapshot=snapshot, track_dirty_pages=False)
    assert request.network_overrides == (b.NetworkOverride(iface_id="eth0", host_dev_name="tap0"),)
    with pytest.raises(SnapshotUnusable, match="tap9"):
        load_request(Version((1, 11, 0), ""), tap="tap0", snapshot=snapshot, track_dirty_pages=False)


def test_moved_vsock_needs_a_version_that_can() -> None:
    snapshot = {**device_names("tap0"), "vsock": "/old"}
    request = load_request(Version((1, 16, 2), ""), tap="tap0", snapshot=snapshot, track_dirty_pages=False)
    assert request.vsock_override == b.VsockOverride(uds_path="/run/v.sock")
    with pytest.raises(SnapshotUnusable, match="/old"):
        load_request(Version((1, 15, 0), ""), tap="tap0", snapshot=snapshot, track_dirty_pages=False)


def test_without_limits_nothing_is_asked_for() -> None:
    assert limit_requests(make_settings()) == []


def test_limits_name_only_what_they_limit() -> None:
    [request] = limit_requests(make_settings(tx_limits=IoLimits(bandwidth=Limit(size=10, refill_ms=20))))
    bucket = b.TokenBucket(size=10, refill_time=20)
    assert request == b.PartialNetworkInterface(
        iface_id="eth0", tx_rate_limiter=b.RateLimiter(bandwidth=bucket)
    )


def test_zeros_of_a_saved_memory_become_holes(tmp_path: Path) -> None:
    dense = tmp_path / "dense"
    dense.write_bytes(bytes(1_000_000) + b"page" + bytes(1_000_001))
    copy_without_zeros(dense, tmp_path / "sparse")
    assert (tmp_path / "sparse").read_bytes() == dense.read_bytes()
    assert (tmp_path / "sparse").stat().st_blocks * 512 < 300_000


def test_difference_says_what_was_and_is() -> None:
    assert differences({"a": 1, "b": 2}, {"a": 1, "b": 3}) == "b was 2 and is 3"
    assert differences({"a": 1}, {"a": 1}) == ""


def test_written_disk_is_another_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"1")
    before = disk_identity(disk)
    assert disk_identity(disk) == before
    os.utime(disk, ns=(1, 1))
    assert disk_identity(disk) != before


@pytest.mark.anyio
async def test_name_that_is_there_has_appeared(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with Appearance(tmp_path / "x") as appearance:
        await asyncio.wait_for(appearance.wait(), PATIENCE_S)


@pytest.mark.anyio
async def test_name_that_comes_later_appears_then(tmp_path: Path) -> None:
    with Appearance(tmp_path / "x") as appearance:
        waiting = asyncio.create_task(appearance.wait())
        (tmp_path / "other").touch()
        await asyncio.sleep(0)
        assert not waiting.done()
        (tmp_path / "x").touch()
        await asyncio.wait_for(waiting, PATIENCE_S)


def test_watching_where_there_is_no_directory_fails_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Appearance(tmp_path / "missing" / "x")
