"""Options become a machine's configuration."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from midge.cli.commands.machine.config_options import (
    FILE_MAX_BYTES,
    ConfigOptions,
    apply,
    read_config,
    service,
)
from midge.cli.exits import UsageFailure


def nothing(name: str) -> str | None:
    return None


def test_nothing_given_changes_nothing_but_adds_an_init() -> None:
    assert apply({"image": "debian"}, ConfigOptions(), nothing) == {"image": "debian", "init": {}}


def test_the_base_is_not_touched() -> None:
    base = {"env": {"A": "1"}}
    apply(base, ConfigOptions(env=("A=2",)), nothing)
    assert base == {"env": {"A": "1"}}


def test_environment_is_added_and_passed_on() -> None:
    given = ConfigOptions(env=("A=1=2", "B", "C"))
    assert apply({}, given, {"B": "mine"}.get)["env"] == {"A": "1=2", "B": "mine"}


def test_sizes_are_merged_into_the_guest() -> None:
    config = apply({"guest": {"cpus": 4, "memory_mb": 256}}, ConfigOptions(memory=1024), nothing)
    assert config["guest"] == {"cpus": 4, "memory_mb": 1024}


def test_a_file_replaces_the_one_at_its_path() -> None:
    base = {"files": [{"guest_path": "/a", "raw_value": "old"}, {"guest_path": "/b", "raw_value": "b"}]}
    config = apply(base, ConfigOptions(files_literal=("/a=x",)), nothing)
    assert config["files"] == [
        {"guest_path": "/b", "raw_value": "b"},
        {"guest_path": "/a", "raw_value": "eA=="},
    ]


def test_empty_metadata_is_removed() -> None:
    config = apply({"metadata": {"a": "1", "b": "2"}}, ConfigOptions(metadata=("a=", "c=3")), nothing)
    assert config["metadata"] == {"b": "2", "c": "3"}


def test_init_members() -> None:
    config = apply({}, ConfigOptions(entrypoint="sh -c 'a b'", user="www", tty=True), nothing)
    assert config["init"] == {"entrypoint": ["sh", "-c", "a b"], "user": "www", "tty": True}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("5432", {"protocol": "tcp", "internal_port": 5432, "ports": [{"port": 5432}]}),
        ("53:5353/udp", {"protocol": "udp", "internal_port": 5353, "ports": [{"port": 53}]}),
        (
            "443:8080/tls/http",
            {"protocol": "tcp", "internal_port": 8080, "ports": [{"port": 443, "handlers": ["tls", "http"]}]},
        ),
    ],
)
def test_ports(given: str, expected: dict[str, object]) -> None:
    assert service(given) == expected


@pytest.mark.parametrize(
    "options",
    [
        ConfigOptions(ports=("http",)),
        ConfigOptions(ports=("80:",)),
        ConfigOptions(env=("=1",)),
        ConfigOptions(metadata=("a",)),
        ConfigOptions(files_literal=("etc/x=1",)),
        ConfigOptions(files_local=("/x=/no/such/file",)),
        ConfigOptions(entrypoint="'"),
        ConfigOptions(autostop="stop"),
    ],
)
def test_what_makes_no_sense_is_refused(options: ConfigOptions) -> None:
    with pytest.raises(UsageFailure):
        apply({}, options, nothing)


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(FILE_MAX_BYTES + 1)
    with pytest.raises(UsageFailure, match="more than"):
        apply({}, ConfigOptions(files_local=(f"/x={large}",)), nothing)


def test_a_configuration_is_json_a_file_or_stdin(tmp_path: Path) -> None:
    config = {"image": "debian"}
    file = tmp_path / "machine.json"
    file.write_text(json.dumps({"name": "a", "config": config}))
    text = json.dumps(config)
    assert read_config(text, str) == config
    assert read_config(str(file), str) == config
    assert read_config("-", io.StringIO(text).read) == config
    assert read_config("", str) == {}


@pytest.mark.parametrize("given", ["{", "/no/such/file"])
def test_a_configuration_that_is_none_is_refused(given: str) -> None:
    with pytest.raises(UsageFailure):
        read_config(given, str)
