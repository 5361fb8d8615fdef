"""Checks against a made-up host."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import httpx2
import msgspec
import pytest

from midge import __version__
from midge.cli.doctor import programs, registry, server, system
from midge.cli.session import Session
from midge.doctor.check import Check, Host, State, ok
from midge.drivers.qemu import accel
from midge.drivers.qemu.accel import VERDICT_PATH, Outcome, Verdict
from midge.kernel import background
from tests.unit.cli.conftest import FakeServer

Make = Callable[..., Host]


@pytest.fixture
def host(tmp_path: Path, midge: FakeServer) -> Make:
    """A host with nothing but the files given, below a directory of the test's own."""

    def make(files: dict[str, str] | None = None, *, euid: int = 0, have: tuple[str, ...] = ()) -> Host:
        for name, text in (files or {}).items():
            path = tmp_path / "root" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return Host(
            Session(env=midge.env, cwd=tmp_path, make_client=midge.client),
            data_dir=tmp_path / "data",
            kernels_dir=tmp_path / "kernels",
            root=tmp_path / "root",
            euid=euid,
            which=lambda name: f"/nowhere/{name}" if name in have else None,
        )

    return make


def test_names_are_kebab_case_and_unique() -> None:
    names = [check.name for check in registry.CHECKS]
    assert len(set(names)) == len(names)
    assert all(name.replace("-", "").isalnum() and name == name.lower() for name in names)


def test_a_check_that_breaks_counts_as_failed_and_hides_no_other(
    host: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(host: Host) -> None:
        raise ZeroDivisionError("oops")

    checks = (Check("broken", "", broken), Check("fine", "", lambda host: ok("well")))  # type: ignore[arg-type]  # on purpose
    monkeypatch.setattr(registry, "CHECKS", checks)
    assert [finding.state for _, finding in registry.run(host())] == ["fail", "ok"]


@pytest.mark.parametrize(("euid", "state"), [(0, "ok"), (1000, "warn")])
def test_root(host: Make, euid: int, state: State) -> None:
    assert system.root(host(euid=euid)).state == state


@pytest.mark.parametrize(
    ("files", "state"),
    [
        ({}, "fail"),
        ({"sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory pids\n"}, "ok"),
        ({"sys/fs/cgroup/cgroup.controllers": "cpu\n"}, "warn"),
        ({f"sys/fs/cgroup/{name}/tasks": "" for name in ("cpu", "memory", "pids")}, "ok"),
        ({"sys/fs/cgroup/cpu/tasks": ""}, "warn"),
    ],
)
def test_cgroups(host: Make, files: dict[str, str], state: State) -> None:
    assert system.cgroups(host(files)).state == state


def verdict(boot: str, outcome: Outcome, reason: str) -> Verdict:
    return Verdict(boot_id=boot, kernel="k", outcome=outcome, reason=reason, hint=f"what helps if {outcome}")


KVM_VERDICT = str(VERDICT_PATH.relative_to("/"))
BOOT = {"proc/sys/kernel/random/boot_id": "b1\n", "dev/kvm": ""}


@pytest.mark.parametrize(
    ("verdict", "state"),
    [
        (None, "skip"),
        (verdict("b1", "boots", "the guest kernel booted"), "ok"),
        (verdict("b1", "does-not-boot", "it spins"), "warn"),
        (verdict("b1", "no-permission", "no node can be made"), "warn"),
        (verdict("b0", "boots", "the guest kernel booted"), "skip"),
    ],
)
def test_kvm_is_what_a_boot_of_this_session_has_shown(
    host: Make, verdict: Verdict | None, state: State
) -> None:
    files = BOOT if verdict is None else {**BOOT, KVM_VERDICT: msgspec.json.encode(verdict).decode()}
    finding = system.kvm(host(files))
    assert finding.state == state
    if state == "warn":
        assert verdict is not None
        assert verdict.reason in finding.message
        assert finding.fix == verdict.hint


def test_no_kvm_is_slow_but_no_failure(host: Make) -> None:
    finding = system.kvm(host())
    assert finding.state == "warn"
    assert "software emulation" in finding.message
    assert "there is no " in finding.message
    assert "modprobe" in finding.fix


def test_kvm_without_permission_has_another_remedy(host: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "open", refuse)
    finding = system.kvm(host(BOOT))
    assert finding.state == "warn"
    assert "no permission to open" in finding.message
    assert "software emulation" in finding.message
    assert finding.fix in (accel.ROOT_DENIED_HINT, accel.USER_DENIED_HINT)


@pytest.mark.parametrize(
    ("files", "state"),
    [
        ({"proc/filesystems": "nodev\tsysfs\nnodev\toverlay\n"}, "ok"),
        (
            {
                "proc/filesystems": "nodev\tsysfs\n",
                "proc/sys/kernel/osrelease": "6.1.0\n",
                "lib/modules/6.1.0/modules.dep": "kernel/fs/overlayfs/overlay.ko.xz:\n",
            },
            "ok",
        ),
        ({"proc/filesystems": "nodev\tsysfs\n"}, "warn"),
    ],
)
def test_overlayfs(host: Make, files: dict[str, str], state: State) -> None:
    assert system.overlayfs(host(files)).state == state


def test_a_missing_program_names_its_package(host: Make) -> None:
    finding = programs.nft(host())
    assert (finding.state, finding.fix) == ("fail", "apt-get install nftables")
    assert programs.runc(host()).state == "warn"


def test_any_oci_runtime_will_do(host: Make) -> None:
    assert programs.runc(host(have=("crun",))).state == "ok"


def test_programs_of_root_are_found_by_others(host: Make) -> None:
    assert programs.nft(host({"usr/sbin/nft": ""})).state == "ok"


@pytest.mark.parametrize(
    ("flavours", "state"),
    [((), "warn"), (("debian",), "warn"), (("trimmed",), "ok"), (("debian", "trimmed"), "ok")],
)
def test_kernel_images(host: Make, flavours: tuple[str, ...], state: State) -> None:
    made = host()
    for flavour in flavours:
        base = made.kernels_dir / "bases" / f"{flavour}-1"
        base.mkdir(parents=True)
        (base / "base.json").write_text(json.dumps({"flavour": flavour, "version": "6.1"}))
    assert programs.kernel_images(made).state == state


def test_a_damaged_kernel_does_not_confuse(host: Make) -> None:
    made = host()
    base = made.kernels_dir / "bases" / "x"
    base.mkdir(parents=True)
    (base / "base.json").write_text("{")
    assert programs.kernel_images(made).state == "warn"


def test_a_build_of_the_trimmed_kernel_is_told(host: Make) -> None:
    made = host()
    base = made.kernels_dir / "bases" / "debian-1"
    base.mkdir(parents=True)
    (base / "base.json").write_text(json.dumps({"flavour": "debian", "version": "6.1"}))
    made.data_dir.mkdir(parents=True, exist_ok=True)
    background.begin(made.data_dir, ["sh", "-c", "sleep 600"])
    try:
        found = programs.kernel_images(made)
        assert (found.state, "building" in found.message) == ("ok", True)
    finally:
        background.end(made.data_dir)
    (made.data_dir / background.RECORD).write_text('{"pid": 1, "began": 1}')
    assert "ended without one" in programs.kernel_images(made).message


def test_the_room_that_counts_is_that_of_the_data_directory(host: Make) -> None:
    assert "free in" in system.disk_space(host()).message


def test_the_room_of_a_directory_to_be_made_is_that_of_where_it_goes(host: Make, tmp_path: Path) -> None:
    made = host()
    made.data_dir = tmp_path / "not" / "yet"
    assert f"free in {tmp_path}, where {made.data_dir} would be" in system.disk_space(made).message


def test_the_data_directory_is_the_one_of_the_server_that_answers(midge: FakeServer, tmp_path: Path) -> None:
    del midge.env["MIDGE_DATA_DIR"]
    (tmp_path / "elsewhere").mkdir()
    midge.answers = {"GET /-/config": {"data_dir": str(tmp_path / "elsewhere")}}
    assert f"free in {tmp_path / 'elsewhere'}" in midge("doctor", "disk-space").stdout


def test_a_server_that_does_not_answer_is_a_warning(host: Make, midge: FakeServer) -> None:
    midge.answers = {"GET /readyz": httpx2.ConnectError("refused")}
    assert server.reachable(host()).state == "warn"
    assert server.token(host()).state == "skip"


def test_a_server_that_is_not_ready_fails(host: Make, midge: FakeServer) -> None:
    body = {"ready": False, "checks": [{"name": "worker", "ok": False, "reason": "no kernel"}]}
    midge.answers = {"GET /readyz": httpx2.Response(503, json=body)}
    finding = server.reachable(host())
    assert (finding.state, "worker: no kernel" in finding.message) == ("fail", True)


def test_a_refused_token_fails(host: Make, midge: FakeServer) -> None:
    midge.answers = {
        "GET /-/version": {"version": __version__},
        "GET /-/status": httpx2.Response(401, json={"error": "Authenticate: token validation error"}),
    }
    assert server.token(host()).state == "fail"


@pytest.mark.parametrize(("version", "state"), [(__version__, "ok"), ("99.0.0", "warn")])
def test_versions(host: Make, midge: FakeServer, version: str, state: State) -> None:
    midge.answers = {"GET /-/version": {"version": version}}
    assert server.versions(host()).state == state


def test_clocks_are_compared(host: Make, midge: FakeServer) -> None:
    headers = {"date": "Sat, 01 Jan 2000 00:00:00 GMT"}
    midge.answers = {"GET /-/version": httpx2.Response(200, json={}, headers=headers)}
    assert server.skew(host()).state == "warn"


def test_the_command_exits_1_on_a_failure_and_says_how_to_mend_it(
    midge: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Host, "which", lambda self, *names: None)
    result = midge("doctor", "nft", "root")
    assert result.exit_code == 1
    assert "fail  nft " in result.stdout
    assert "fix: apt-get install nftables" in result.stdout


def test_an_unknown_check_lists_the_known_ones(midge: FakeServer) -> None:
    result = midge("doctor", "kvn")
    assert result.exit_code == 2
    assert "dev-net-tun" in result.stderr
