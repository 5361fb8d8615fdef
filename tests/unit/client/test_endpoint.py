"""Where commands go, and which token goes with them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from midge.client.contexts import Context, ContextFile, Contexts
from midge.client.endpoint import Wanted, find_local, resolve
from midge.errors import InvalidInput, NotFound

LAB = Context(url="https://lab.example:4280", token="lab-token", ca="/ca.pem")


@pytest.fixture
def contexts(tmp_path: Path) -> ContextFile:
    return ContextFile(tmp_path / "config" / "config.toml")


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """No server of this host is found by accident."""
    return {"MIDGE_DATA_DIR": str(tmp_path / "data")}


def serve(directory: Path, *, url: str = "http://127.0.0.1:4280", pid: int | None = None) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "server.json").write_text(
        json.dumps({"url": url, "pid": os.getpid() if pid is None else pid})
    )
    (directory / "token").write_text("local-token\n")


def test_nothing_known_says_how_to_begin(contexts: ContextFile, env: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(NotFound) as raised:
        resolve(Wanted(), env, tmp_path, contexts)
    assert "midge serve" in raised.value.hint


def test_a_local_server_is_found_with_its_token(
    contexts: ContextFile, env: dict[str, str], tmp_path: Path
) -> None:
    serve(tmp_path / "data")
    endpoint = resolve(Wanted(), env, tmp_path, contexts)
    assert endpoint.url.value == "http://127.0.0.1:4280"
    assert endpoint.token.value == "local-token"
    assert endpoint.token.origin.endswith("data/token")


def test_a_context_wins_over_a_local_server(
    contexts: ContextFile, env: dict[str, str], tmp_path: Path
) -> None:
    serve(tmp_path / "data")
    contexts.write(Contexts().with_context("lab", LAB))
    endpoint = resolve(Wanted(), env, tmp_path, contexts)
    assert (endpoint.url.value, endpoint.token.value, endpoint.ca, endpoint.context) == (
        LAB.url,
        LAB.token,
        LAB.ca,
        "lab",
    )


def test_the_environment_wins_over_the_current_context(
    contexts: ContextFile, env: dict[str, str], tmp_path: Path
) -> None:
    contexts.write(Contexts().with_context("lab", LAB))
    env |= {"MIDGE_URL": "http://other:1", "MIDGE_API_TOKEN": "env-token"}
    endpoint = resolve(Wanted(), env, tmp_path, contexts)
    assert (endpoint.url.value, endpoint.token.value) == ("http://other:1", "env-token")


def test_a_context_asked_for_wins_over_the_environments_address(
    contexts: ContextFile, env: dict[str, str], tmp_path: Path
) -> None:
    contexts.write(Contexts().with_context("lab", LAB))
    env |= {"MIDGE_URL": "http://other:1"}
    assert resolve(Wanted(context="lab"), env, tmp_path, contexts).url.value == LAB.url


def test_the_flag_wins_over_everything(contexts: ContextFile, env: dict[str, str], tmp_path: Path) -> None:
    contexts.write(Contexts().with_context("lab", LAB))
    env |= {"MIDGE_URL": "http://other:1"}
    endpoint = resolve(Wanted(url="http://flag:2/", context="lab"), env, tmp_path, contexts)
    assert endpoint.url.value == "http://flag:2"
    assert endpoint.url.origin == "--url"


def test_the_names_flyctl_uses_are_known(contexts: ContextFile, env: dict[str, str], tmp_path: Path) -> None:
    env |= {"FLY_FLAPS_BASE_URL": "http://fly:1", "FLY_API_TOKEN": "fly-token"}
    endpoint = resolve(Wanted(), env, tmp_path, contexts)
    assert (endpoint.url.value, endpoint.token.value) == ("http://fly:1", "fly-token")


def test_a_contexts_token_never_goes_to_another_address(
    contexts: ContextFile, env: dict[str, str], tmp_path: Path
) -> None:
    contexts.write(Contexts().with_context("lab", LAB))
    endpoint = resolve(Wanted(url="http://evil:1"), env, tmp_path, contexts)
    assert endpoint.token.value == ""
    assert endpoint.ca == ""


def test_a_local_token_never_goes_to_another_address(
    contexts: ContextFile, env: dict[str, str], tmp_path: Path
) -> None:
    serve(tmp_path / "data")
    assert resolve(Wanted(url="http://evil:1"), env, tmp_path, contexts).token.value == ""
    assert resolve(Wanted(url="http://127.0.0.1:4280"), env, tmp_path, contexts).token.value == "local-token"


def test_a_live_server_is_preferred_to_a_dead_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("midge.client.endpoint.SYSTEM_DATA_DIR", tmp_path / "system")
    serve(tmp_path / "system", url="http://127.0.0.1:1", pid=2**22 + 1)
    serve(tmp_path / ".midge", url="http://127.0.0.1:2")
    found = find_local({}, tmp_path)
    assert found is not None
    assert found.url == "http://127.0.0.1:2"


def test_a_damaged_server_file_is_named(tmp_path: Path, env: dict[str, str]) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "server.json").write_text("{")
    with pytest.raises(InvalidInput, match=r"server\.json is damaged"):
        find_local(env, tmp_path)


@pytest.mark.parametrize("url", ["127.0.0.1:4280", "ftp://x", "http://"])
def test_an_address_that_is_none_is_refused(
    url: str, contexts: ContextFile, env: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match="not the URL of a server"):
        resolve(Wanted(url=url), env, tmp_path, contexts)


@pytest.mark.parametrize(
    ("url", "loopback"),
    [
        ("http://127.0.0.1:1", True),
        ("http://[::1]:1", True),
        ("http://localhost", True),
        ("http://10.0.0.1", False),
    ],
)
def test_loopback_is_recognised(
    url: str, loopback: bool, contexts: ContextFile, env: dict[str, str], tmp_path: Path
) -> None:
    assert resolve(Wanted(url=url), env, tmp_path, contexts).is_loopback is loopback
