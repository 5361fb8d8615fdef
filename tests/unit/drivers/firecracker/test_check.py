"""What `midge doctor` says about Firecracker."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import msgspec
import pytest

from midge.cli.session import Session
from midge.doctor.check import Host
from midge.drivers.firecracker.check import firecracker
from midge.drivers.qemu.accel import Outcome, Verdict


def verdict(boot: str, outcome: Outcome, reason: str) -> Verdict:
    return Verdict(boot_id=boot, kernel="k firecracker 1.12.1", outcome=outcome, reason=reason)


SESSION = cast(Session, SimpleNamespace(env={}))


def host_with(
    root: Path, *, vmm: str = "Firecracker v1.12.1", jailer: str = "Jailer v1.12.1", verdict: object = None
) -> Host:
    for name, says in (("firecracker", vmm), ("jailer", jailer)):
        if says:
            (root / name).write_text(f"#!/bin/sh\necho '{says}'\n")
            (root / name).chmod(0o755)
    for path, text in (("proc/sys/kernel/random/boot_id", "b1\n"), ("dev/kvm", "")):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    if verdict is not None:
        (root / "run/midge").mkdir(parents=True)
        (root / "run/midge/firecracker.json").write_bytes(msgspec.json.encode(verdict))

    def which(name: str) -> str | None:
        return str(root / name) if (root / name).exists() else None

    return Host(SESSION, data_dir=root, kernels_dir=root, root=root, which=which)


@pytest.mark.parametrize(
    ("changes", "state", "words"),
    [
        ({"vmm": ""}, "warn", "firecracker not installed"),
        ({"jailer": ""}, "warn", "jailer not installed"),
        ({"vmm": "Firecracker v1.9.1", "jailer": "Jailer v1.9.1"}, "fail", "too old"),
        ({"jailer": "Jailer v1.11.0"}, "fail", "jailer is 1.11.0"),
        ({"vmm": "what"}, "fail", "does not tell"),
        ({}, "skip", "1.12.1; whether guests boot"),
        ({"verdict": verdict("b0", "boots", "r")}, "skip", "before the last reboot"),
        ({"verdict": verdict("b1", "boots", "a guest booted")}, "ok", "a guest booted"),
        (
            {"verdict": verdict("b1", "does-not-boot", "no guest boots")},
            "warn",
            "no guest boots",
        ),
    ],
)
def test_says_what_is_missing(tmp_path: Path, changes: dict[str, str], state: str, words: str) -> None:
    finding = firecracker(host_with(tmp_path, **changes))  # type: ignore[arg-type]  # of several types
    assert finding.state == state
    assert words in finding.message
    assert finding.state == "ok" or finding.fix


def test_missing_device_is_no_failure_of_the_host(tmp_path: Path) -> None:
    host = host_with(tmp_path)
    (tmp_path / "dev/kvm").unlink()
    finding = firecracker(host)
    assert finding.state == "warn"
    assert "/dev/kvm" in finding.message
