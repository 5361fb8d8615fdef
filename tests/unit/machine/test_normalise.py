"""Defaults, and every refusal with the path of what is wrong."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midge.errors import InvalidInput, NotSupported
from midge.machine import normalise as n
from midge.machine.config import Guest, MachineConfig


def normalise(raw: dict[str, Any]) -> tuple[MachineConfig, dict[str, Any]]:
    encoded = msgspec.json.encode(raw)
    config, full = n.normalise(msgspec.json.decode(encoded, type=MachineConfig), encoded)
    return config, msgspec.json.decode(full)


def full(**members: Any) -> dict[str, Any]:
    return normalise({"image": "debian:12", **members})[1]


def test_the_smallest_configuration_gets_all_defaults() -> None:
    assert full() == {
        "image": "debian:12",
        "guest": {"cpu_kind": "shared", "cpus": 1, "memory_mb": 256},
        "init": {},
        "restart": {"policy": "on-failure", "max_retries": 10},
    }


def test_members_nobody_knows_are_kept_where_they_are() -> None:
    config = full(fancy={"new": [1]}, guest={"quantum": True}, restart={"mood": "good"}, init={"x": 1})
    assert config["fancy"] == {"new": [1]}
    assert config["guest"] == {"quantum": True, "cpu_kind": "shared", "cpus": 1, "memory_mb": 256}
    assert config["restart"]["mood"] == "good"
    assert config["init"] == {"x": 1}


@pytest.mark.parametrize(
    ("restart", "expected"),
    [
        ({}, {"policy": "on-failure", "max_retries": 10}),
        ({"policy": ""}, {"policy": "on-failure", "max_retries": 10}),
        ({"policy": "on-failure", "max_retries": 0}, {"policy": "on-failure", "max_retries": 0}),
        ({"policy": "no"}, {"policy": "no"}),
        ({"policy": "always"}, {"policy": "always"}),
    ],
)
def test_restart_defaults(restart: dict[str, Any], expected: dict[str, Any]) -> None:
    assert full(restart=restart)["restart"] == expected


@pytest.mark.parametrize(
    ("memory_mb", "hint"),
    [
        (n.MEMORY_MIN_MB - 1, f"the smallest machine has {n.MEMORY_MIN_MB} MB"),
        (n.MEMORY_MAX_MB + 1, f"the largest machine has {n.MEMORY_MAX_MB} MB"),
    ],
)
def test_the_limit_of_memory_that_was_missed_is_named(memory_mb: int, hint: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        full(guest={"memory_mb": memory_mb})
    assert caught.value.hint == hint


@pytest.mark.parametrize(
    ("size", "kind", "cpus", "memory_mb"),
    [
        ("shared-cpu-1x", "shared", 1, 256),
        ("shared-cpu-8x", "shared", 8, 2048),
        ("performance-1x", "performance", 1, 2048),
        ("performance-16x", "performance", 16, 32768),
    ],
)
def test_a_size_is_a_guest(size: str, kind: str, cpus: int, memory_mb: int) -> None:
    config = full(size=size)
    assert config["guest"] == {"cpu_kind": kind, "cpus": cpus, "memory_mb": memory_mb}
    assert "size" not in config


@pytest.mark.parametrize(
    "size", ["shared-cpu-0x", "shared-cpu-129x", "tiny", "shared-cpu-1x ", "a-shared-cpu-1x"]
)
def test_a_size_that_does_not_exist_is_refused(size: str) -> None:
    with pytest.raises(InvalidInput, match=r"^config\.size: no such size"):
        full(size=size)


def test_size_and_guest_together_are_refused() -> None:
    with pytest.raises(InvalidInput, match=r"^config\.size: give either"):
        full(size="shared-cpu-1x", guest={"cpus": 2})
    assert full(size="shared-cpu-2x", guest={})["guest"]["cpus"] == 2


def test_memory_follows_kind_and_cpus() -> None:
    assert full(guest={"cpus": 4})["guest"]["memory_mb"] == 1024
    assert full(guest={"cpu_kind": "performance", "cpus": 2})["guest"]["memory_mb"] == 4096
    assert full(guest={"cpus": 0, "memory_mb": 0})["guest"] == {
        "cpu_kind": "shared",
        "cpus": 1,
        "memory_mb": 256,
    }


@pytest.mark.parametrize(
    ("given", "answered"),
    [("off", False), ("", False), (None, False), (False, False), ("stop", True), (True, True), ("suspend", "suspend")],
)  # fmt: skip
def test_autostop_is_answered_in_one_form(given: Any, answered: Any) -> None:
    assert full(services=[{"autostop": given}, {}])["services"] == [{"autostop": answered}, {}]


@pytest.mark.parametrize(
    ("members", "path"),
    [
        ({"image": ""}, "config.image"),
        ({"guest": {"cpu_kind": "fast"}}, "config.guest.cpu_kind"),
        ({"guest": {"cpus": -1}}, "config.guest.cpus"),
        ({"guest": {"cpus": n.CPUS_MAX + 1}}, "config.guest.cpus"),
        ({"guest": {"memory_mb": n.MEMORY_MIN_MB - 1}}, "config.guest.memory_mb"),
        ({"guest": {"memory_mb": n.MEMORY_MAX_MB + 1}}, "config.guest.memory_mb"),
        ({"stop_config": {"timeout": "soon"}}, "config.stop_config.timeout"),
        ({"stop_config": {"timeout": "301s"}}, "config.stop_config.timeout"),
        ({"restart": {"max_retries": -1}}, "config.restart.max_retries"),
        ({"restart": {"max_retries": n.RETRIES_MAX + 1}}, "config.restart.max_retries"),
        ({"env": {"": "x"}}, "config.env"),
        ({"env": {"A=B": "x"}}, "config.env"),
        ({"env": {"A\0": "x"}}, "config.env"),
        ({"env": {"A": "x\0"}}, "config.env.A"),
        ({"env": {"A": "x" * n.ENV_MAX_BYTES}}, "config.env"),
        ({"processes": [{"env": {"A=": "x"}}]}, "config.processes[0].env"),
        ({"init": {"swap_size_mb": -1}}, "config.init.swap_size_mb"),
        ({"init": {"swap_size_mb": n.SWAP_MAX_MB + 1}}, "config.init.swap_size_mb"),
        ({"metadata": {"a": "é" * (n.METADATA_MAX_BYTES // 2)}}, "config.metadata"),
        ({"files": [{"guest_path": "/a", "raw_value": ""}] * (n.FILES_MAX + 1)}, "config.files"),
        ({"files": [{"guest_path": "a", "raw_value": ""}]}, "config.files[0].guest_path"),
        ({"files": [{"guest_path": "/a/../b", "raw_value": ""}]}, "config.files[0].guest_path"),
        ({"files": [{"guest_path": "/a\0", "raw_value": ""}]}, "config.files[0].guest_path"),
        ({"files": [{"guest_path": "/a"}]}, "config.files[0].raw_value"),
        ({"files": [{"guest_path": "/a", "raw_value": "?"}]}, "config.files[0].raw_value"),
        ({"files": [{"guest_path": "/a", "raw_value": "", "mode": -1}]}, "config.files[0].mode"),
        ({"files": [{"guest_path": "/a", "raw_value": "", "mode": 0o10000}]}, "config.files[0].mode"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_path(members: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        full(**members)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("members", "path"),
    [
        ({"containers": [{"name": "a"}]}, "config.containers"),
        ({"mounts": [{"path": "/data"}]}, "config.mounts"),
        ({"standbys": ["a"]}, "config.standbys"),
        ({"schedule": "daily"}, "config.schedule"),
        ({"cache_drive": {"size_mb": 1}}, "config.cache_drive"),
        ({"volumes": [{}]}, "config.volumes"),
        ({"processes": [{}, {}]}, "config.processes"),
        ({"processes": [{"secrets": [{"env_var": "A"}]}]}, "config.processes[0].secrets"),
        ({"guest": {"gpus": 1}}, "config.guest.gpus"),
        ({"guest": {"gpu_kind": "a100"}}, "config.guest.gpus"),
        ({"guest": {"kernel_args": ["quiet"]}}, "config.guest.kernel_args"),
        ({"init": {"kernel_args": ["quiet"]}}, "config.init.kernel_args"),
        ({"rootfs": {"persist": "always"}}, "config.rootfs.persist"),
        ({"files": [{"guest_path": "/a", "secret_name": "s"}]}, "config.files[0].secret_name"),
        ({"files": [{"guest_path": "/a", "image_config": "s"}]}, "config.files[0].image_config"),
    ],
)
def test_what_this_version_does_not_do_is_said(members: dict[str, Any], path: str) -> None:
    with pytest.raises(NotSupported) as caught:
        full(**members)
    assert str(caught.value).startswith(f"{path}: ")
    assert caught.value.hint


@pytest.mark.parametrize(
    "members",
    [
        {"mounts": [], "schedule": "", "standbys": None, "containers": []},
        {"guest": {"gpus": 0, "gpu_kind": "", "kernel_args": []}},
        {"rootfs": {"persist": "never"}},
        {"processes": [{"env_from": [{"env_var": "ME", "field_ref": "id"}]}]},
    ],
)
def test_empty_values_that_clients_always_send_are_fine(members: dict[str, Any]) -> None:
    full(**members)


def test_files_are_base64_with_a_mode() -> None:
    data = base64.b64encode(b"\0\xff" * 10).decode()
    config, _ = normalise({"image": "a", "files": [{"guest_path": "/a", "raw_value": data, "mode": 0o600}]})
    assert config.files is not None
    assert n.file_bytes(0, config.files[0]) == b"\0\xff" * 10
    assert config.files[0].mode == 0o600


def test_a_file_has_a_largest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(n, "FILE_MAX_BYTES", 1000)
    at_most = base64.b64encode(bytes(n.FILE_MAX_BYTES)).decode()
    too_much = base64.b64encode(bytes(n.FILE_MAX_BYTES + 1)).decode()
    full(files=[{"guest_path": "/a", "raw_value": at_most}])
    with pytest.raises(InvalidInput, match=r"config\.files\[0\]\.raw_value: .* at most"):
        full(files=[{"guest_path": "/a", "raw_value": too_much}])


@pytest.mark.parametrize(
    ("timeout", "expected_s"), [(None, 5.0), ("", 5.0), ("0s", 5.0), ("20ms", 0.02), (2_000_000_000, 2.0)]
)
def test_stop_timeout(timeout: Any, expected_s: float) -> None:
    config, _ = normalise({"image": "a", "stop_config": {"timeout": timeout}})
    assert n.stop_timeout_s(config) == pytest.approx(expected_s)


_configs = st.fixed_dictionaries(
    {"image": st.sampled_from(["debian:12", "a/b@sha256:0"])},
    optional={
        "guest": st.fixed_dictionaries(
            {},
            optional={
                "cpu_kind": st.sampled_from(["shared", "performance", ""]),
                "cpus": st.integers(0, 16),
                "memory_mb": st.sampled_from([0, 64, 512]),
                "unknown": st.integers(),
            },
        ),
        "restart": st.fixed_dictionaries(
            {},
            optional={
                "policy": st.sampled_from(["no", "always", "on-failure", ""]),
                "max_retries": st.integers(0, 20),
            },
        ),
        "services": st.lists(
            st.fixed_dictionaries({}, optional={"autostop": st.sampled_from(["off", "stop", "suspend", True, False])}),
            max_size=3,
        ),
        "env": st.dictionaries(st.from_regex(r"[A-Z]{1,5}", fullmatch=True), st.sampled_from(["", "x", "é"])),
        "init": st.one_of(st.none(), st.just({"tty": True})),
        "unknown": st.recursive(st.one_of(st.none(), st.integers(0, 9)), st.lists, max_leaves=4),
    },
)  # fmt: skip


@settings(max_examples=25)
@given(_configs)
def test_normalising_twice_changes_nothing(raw: dict[str, Any]) -> None:
    typed, once = normalise(raw)
    assert normalise(once) == (typed, once)


@settings(max_examples=25)
@given(_configs, st.sampled_from(["shared-cpu-2x", "performance-4x"]))
def test_a_size_normalises_to_its_preset(raw: dict[str, Any], size: str) -> None:
    raw.pop("guest", None)
    typed, once = normalise({**raw, "size": size})
    assert typed.guest == n.preset(size) != Guest()
    assert normalise(once) == (typed, once)
