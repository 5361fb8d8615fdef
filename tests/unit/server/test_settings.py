"""Settings: precedence, types, refusals, the example file."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from midge.errors import InvalidInput
from midge.server.settings import Settings, example, load_settings, names, parse_listen, read_file


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "midge.toml"
    path.write_text(text)
    return path


def test_flag_wins_over_env_over_file_over_default(tmp_path: Path) -> None:
    file = write(tmp_path, 'region = "fil"\ndriver = "qemu"\nlisten = "127.0.0.1:1"\n')
    env = {"MIDGE_REGION": "env", "MIDGE_DRIVER": "mock"}
    loaded = load_settings({"region": "flg", "driver": None}, env, file)
    assert loaded.settings.region == "flg"
    assert loaded.settings.driver == "mock"
    assert loaded.settings.listen == "127.0.0.1:1"
    assert loaded.settings.log_level == "info"
    assert loaded.origins["region"] == "--region"
    assert loaded.origins["driver"] == "MIDGE_DRIVER"
    assert loaded.origins["listen"] == str(file)
    assert loaded.origins["log_level"] == "default"


def test_the_file_can_be_named_by_the_environment(tmp_path: Path) -> None:
    file = write(tmp_path, 'region = "fil"')
    assert load_settings({}, {"MIDGE_CONFIG": str(file)}).settings.region == "fil"


def test_variables_are_read_by_type() -> None:
    env = {"MIDGE_ACCESS_LOG": "true", "MIDGE_DRAIN_TIMEOUT_S": "3", "MIDGE_MEMORY_OVERCOMMIT": "2.5"}
    settings = load_settings({}, env).settings
    assert settings.access_log is True
    assert (settings.drain_timeout_s, settings.memory_overcommit) == (3, 2.5)


def test_every_setting_is_in_the_example_with_its_default(tmp_path: Path) -> None:
    lines = example().splitlines()
    uncommented = "\n".join(line[2:] for line in lines if line.startswith("# ") and " = " in line)
    values = tomllib.loads(uncommented)
    assert tuple(values) == names()
    assert msgspec.convert(values, Settings) == Settings()
    assert read_file(write(tmp_path, uncommented)) == values
    assert tomllib.loads(example()) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("regoin = 'a'", "unknown key 'regoin'"),
        ("region = 5", "region: expected str, got int"),
        ("region = 'A B'", "region: expected str matching regex"),
        ("driver = 'docker'", "driver: invalid enum value 'docker'"),
        ("region = ", "cannot be read"),
        ("drain_timeout_s = 100000", "drain_timeout_s: expected int <= 600"),
    ],
)
def test_a_bad_file_says_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(InvalidInput) as caught:
        load_settings({}, {}, path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_an_unknown_key_suggests_a_known_one(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_file(write(tmp_path, "regoin = 'a'"))
    assert caught.value.hint == "did you mean region?"


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput):
        load_settings({}, {}, tmp_path / "none.toml")


def test_a_bad_variable_is_named() -> None:
    with pytest.raises(InvalidInput, match="MIDGE_DRAIN_TIMEOUT_S"):
        load_settings({}, {"MIDGE_DRAIN_TIMEOUT_S": "soon"})


@pytest.mark.parametrize("listen", ["0.0.0.0:4280", "192.0.2.1:80", "[::]:4280", "example.org:4280"])
def test_beyond_loopback_needs_tls_or_a_word(listen: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        load_settings({"listen": listen}, {})
    assert "--allow-plaintext-listen" in caught.value.hint
    assert load_settings({"listen": listen, "allow_plaintext_listen": True}, {}).settings.listen == listen


def test_a_certificate_needs_its_key(tmp_path: Path) -> None:
    cert = tmp_path / "cert.pem"
    cert.touch()
    with pytest.raises(InvalidInput, match="tls_cert and tls_key"):
        load_settings({"tls_cert": str(cert)}, {})
    with pytest.raises(InvalidInput, match="tls_key"):
        load_settings({"tls_cert": str(cert), "tls_key": str(tmp_path / "none")}, {})
    settings = {"tls_cert": str(cert), "tls_key": str(cert), "listen": "0.0.0.0:1"}
    assert load_settings(settings, {}).settings.tls_cert == str(cert)


@pytest.mark.parametrize(
    ("text", "parts"),
    [("127.0.0.1:0", ("127.0.0.1", 0)), ("[::1]:80", ("::1", 80)), ("localhost:65535", ("localhost", 65535))],
)
def test_listen(text: str, parts: tuple[str, int]) -> None:
    assert parse_listen(text) == parts


@pytest.mark.parametrize("text", ["", "4280", ":4280", "::1:80", "h:65536", "h:x", "h:", "h:-1", "h:٣"])
def test_listen_refuses(text: str) -> None:
    with pytest.raises(InvalidInput, match="listen"):
        parse_listen(text)


def test_values_of_no_member_are_refused() -> None:
    flags: dict[str, Any] = {"nothing": 1}
    with pytest.raises(InvalidInput):
        load_settings(flags, {})
