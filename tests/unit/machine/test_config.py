"""The configuration's types: a wrong one is found with its path, what nobody knows is no error."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from midge.machine.config import MachineConfig


def decode(**members: Any) -> MachineConfig:
    return msgspec.json.decode(msgspec.json.encode(members), type=MachineConfig)


@pytest.mark.parametrize(
    ("members", "path"),
    [
        ({"image": 1}, "$.image"),
        ({"guest": {"cpus": "2"}}, "$.guest.cpus"),
        ({"guest": {"cpus": True}}, "$.guest.cpus"),
        ({"guest": {"memory_mb": 256.5}}, "$.guest.memory_mb"),
        ({"init": {"cmd": "sleep"}}, "$.init.cmd"),
        ({"env": {"PORT": 80}}, "$.env[...]"),
        ({"restart": {"policy": "sometimes"}}, "$.restart.policy"),
        ({"stop_config": {"signal": "SIGWINCH"}}, "$.stop_config.signal"),
        ({"files": [{"guest_path": "/a"}, {}]}, "$.files[1]"),
        ({"services": [{"autostop": "maybe"}]}, "$.services[0].autostop"),
        ({"processes": [{"env_from": [{"env_var": "A", "field_ref": "password"}]}]}, "$.processes[0].env_from[0]"),
        ({"rootfs": {"persist": "yes"}}, "$.rootfs.persist"),
        ({"checks": {"up": {"kind": "vital"}}}, "$.checks[...].kind"),
        ({"metadata": ["a"]}, "$.metadata"),
    ],
)  # fmt: skip
def test_a_wrong_type_is_found_with_its_path(members: dict[str, Any], path: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        decode(**members)
    assert path in str(caught.value)


def test_unknown_members_are_no_error() -> None:
    assert decode(image="a", fancy={"new": 1}, guest={"quantum": True}).image == "a"


@pytest.mark.parametrize("autostop", [True, False, "off", "stop", "suspend", ""])
def test_autostop_is_a_boolean_or_a_word(autostop: bool | str) -> None:
    services = decode(services=[{"autostop": autostop}]).services
    assert services is not None and services[0].autostop == autostop


@pytest.mark.parametrize("timeout", ["10s", 10_000_000_000])
def test_durations_are_texts_or_nanoseconds(timeout: str | int) -> None:
    stop = decode(stop_config={"timeout": timeout}).stop_config
    assert stop is not None and stop.timeout == timeout
