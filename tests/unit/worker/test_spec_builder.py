"""What runs in a machine: arguments by the rules of OCI and `init`, environment in its order."""

from __future__ import annotations

from typing import Any

import pytest

from midge.machine.config import Init, Process
from midge.machine.spec import ImageSpec
from midge.worker.record import ImageProcess
from midge.worker.spec_builder import argv, build_spec
from tests.unit.worker.records import machine

IMAGE = ImageSpec(digest="d", reference="r", entrypoint=["/entry"], cmd=["image-cmd"])


@pytest.mark.parametrize(
    ("init", "process", "expected"),
    [
        ({}, None, ["/entry", "image-cmd"]),
        ({"cmd": ["c"]}, None, ["/entry", "c"]),
        ({"cmd": []}, None, ["/entry", "image-cmd"]),
        ({"entrypoint": ["e"]}, None, ["e"]),
        ({"entrypoint": ["e"], "cmd": ["c"]}, None, ["e", "c"]),
        ({"exec": ["x", "1"], "entrypoint": ["e"], "cmd": ["c"]}, None, ["x", "1"]),
        ({"cmd": ["c"]}, {"cmd": ["p"]}, ["/entry", "p"]),
        ({"entrypoint": ["e"], "cmd": ["c"]}, {"entrypoint": ["p"]}, ["p", "c"]),
        ({"exec": ["x"]}, {"exec": ["p"]}, ["p"]),
        ({"exec": ["x"]}, {"cmd": ["p"]}, ["x"]),
        ({}, {}, ["/entry", "image-cmd"]),
    ],
)
def test_arguments(init: dict[str, Any], process: dict[str, Any] | None, expected: list[str]) -> None:
    assert argv(Init(**init), IMAGE, None if process is None else Process(**process)) == expected


def test_an_image_without_a_command_gives_none() -> None:
    assert argv(Init(), ImageSpec(digest="d", reference="r")) == []
    assert argv(Init(), ImageSpec(digest="d", reference="r", cmd=["sh"])) == ["sh"]


def env(**config: Any) -> dict[str, str]:
    process = ImageProcess(env=["PATH=/bin", "A=image", "B=image", "C=image", "BROKEN", "X=1=2"])
    return dict(build_spec(machine(process, **config), "S1", "/log").env)


def test_environment_of_image_config_and_process_in_this_order() -> None:
    found = env(env={"B": "config", "C": "config"}, processes=[{"env": {"C": "process"}}])
    assert (found["A"], found["B"], found["C"]) == ("image", "config", "process")
    assert found["X"] == "1=2"
    assert found["BROKEN"] == ""


def test_nobody_sets_who_the_machine_is() -> None:
    name = "FLY_MACHINE_ID"
    found = env(env={name: "me"}, processes=[{"env": {name: "me"}, "env_from": []}])
    assert found[name] == found["FLY_ALLOC_ID"] == "1857156b526dd8"
    assert found["FLY_APP_NAME"] == "web"
    assert found["FLY_MACHINE_VERSION"] == "01V1"
    assert found["FLY_REGION"] == "lhr"
    assert found["FLY_PRIVATE_IP"] == "10.61.0.2"
    assert found["FLY_PROCESS_GROUP"] == "app"
    assert found["FLY_VM_MEMORY_MB"] == "256"
    assert found["FLY_IMAGE_REF"] == "docker.io/library/debian:12@sha256:abc"


def test_fields_of_the_machine_as_variables() -> None:
    fields = ["id", "version", "app_name", "private_ip", "region", "image"]
    found = env(processes=[{"env_from": [{"env_var": f"V_{f}", "field_ref": f} for f in fields]}])
    assert [found[f"V_{f}"] for f in fields] == [
        "1857156b526dd8",
        "01V1",
        "web",
        "10.61.0.2",
        "lhr",
        "docker.io/library/debian:12@sha256:abc",
    ]


def test_files_user_and_name_reach_the_driver() -> None:
    spec = build_spec(
        machine(
            ImageProcess(user="app", working_dir="/srv"),
            files=[{"guest_path": "/etc/a", "raw_value": "aGk="}, {"guest_path": "/b", "raw_value": "", "mode": 384}],
            init={"user": "root", "tty": True, "swap_size_mb": 64},
            dns={"hostname": "web1", "options": [{"name": "ndots", "value": "2"}, {"name": "rotate"}]},
        ),
        "S1",
        "/log",
    )  # fmt: skip
    assert [(f.path, f.data, f.mode) for f in spec.files] == [("/etc/a", b"hi", 0o644), ("/b", b"", 0o600)]
    assert (spec.user, spec.image.user, spec.cwd, spec.tty, spec.swap_mb) == ("root", "app", "/srv", True, 64)
    assert spec.hostname == "web1"
    assert spec.hosts == [("10.61.0.2", ["web1", "fly-local-6pn"])]
    assert spec.dns_options == ["ndots:2", "rotate"]
    assert (spec.start_id, spec.log_path) == ("S1", "/log")


def test_the_process_s_user_goes_before_that_of_init() -> None:
    spec = build_spec(machine(init={"user": "a"}, processes=[{"user": "b"}]), "S1", "/log")
    assert spec.user == "b"
