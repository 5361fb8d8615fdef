"""Machines to talk to."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from midge.errors import MidgeError
from midge.guest.protocol import FrameType
from midge.kernel import Kernel
from tests import signals
from tests.integration.init import rootfs, vm
from tests.integration.init.guest import NONCE, ContainerGuest
from tests.integration.init.vm import VmGuest
from tests.kernels import private_kernel


@pytest.fixture(scope="session")
def base_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    reason = rootfs.missing_tool()
    if reason:
        pytest.skip(reason)
    return rootfs.build(tmp_path_factory.mktemp("root") / "root")


@pytest.fixture
def root(base_root: Path, tmp_path: Path) -> Path:
    """A root of the test's own."""
    return Path(shutil.copytree(base_root, tmp_path / "root", symlinks=True))


@pytest.fixture
def guest(root: Path) -> Iterator[ContainerGuest]:
    # Whoever started the tests may have left signals ignored; init must not pass that on.
    with signals.ignored(*signals.SAMPLES):
        guest = ContainerGuest(root)
    with guest:
        yield guest


@pytest.fixture(scope="module", params=["trimmed", "debian"])
def kernel(base_root: Path, request: pytest.FixtureRequest) -> Iterator[Kernel]:
    for tool in ("qemu-system-x86_64", "mkfs.erofs", "mkfs.ext4", "debugfs"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    with contextlib.ExitStack() as stack:
        try:
            kernel = stack.enter_context(private_kernel(request.param, rootfs.INIT))
        except MidgeError as error:
            pytest.skip(f"no kernel: {error} ({error.hint})")
        yield kernel


@pytest.fixture(scope="module")
def lower(base_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vm.make_lower(base_root, tmp_path_factory.mktemp("lower") / "lower.erofs")


@pytest.fixture
def boot(kernel: Kernel, lower: Path, tmp_path: Path) -> Iterator[Callable[..., VmGuest]]:
    """Boots a machine with a blank writable layer and a blank volume, up to its answer to HELLO."""
    machines: list[VmGuest] = []

    def boot(*extra: str) -> VmGuest:
        disks = [lower, vm.make_ext4(tmp_path / "upper", 128), vm.make_ext4(tmp_path / "volume", 32)]
        machine = VmGuest(kernel, disks, tmp_path, extra)
        machines.append(machine)
        machine.send(FrameType.HELLO, {"version": 1, "nonce": NONCE})
        try:
            answer = machine.expect(FrameType.HELLO_ACK, deadline_s=vm.BOOT_DEADLINE_S)
        except AssertionError as error:
            raise AssertionError(machine.console.read_text(errors="replace")[-4000:]) from error
        assert answer["state"] == "waiting"
        return machine

    yield boot
    for machine in machines:
        machine.__exit__(None, None, None)
