"""The file of named servers."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from midge.client.contexts import Context, ContextFile, Contexts
from midge.errors import InvalidInput, NotFound


@pytest.fixture
def file(tmp_path: Path) -> ContextFile:
    return ContextFile(tmp_path / "midge" / "config.toml")


def test_a_missing_file_is_no_context(file: ContextFile) -> None:
    assert file.read().by_name == {}


def test_what_is_written_is_read_again(file: ContextFile) -> None:
    context = Context(
        url="https://a", token='quote " back \\ tab \t del \x7f ünïcode', org="o", app="web", ca="/c"
    )
    file.write(Contexts().with_context("a-1", context).with_context("b", Context(url="http://b")).using("b"))
    read = file.read()
    assert read.by_name["a-1"] == context
    assert read.current == "b"


def test_only_the_owner_may_read_it(file: ContextFile) -> None:
    file.write(Contexts().with_context("a", Context(url="http://a", token="t")))
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.path.parent.stat().st_mode) == 0o700


def test_a_failed_write_leaves_the_old_file_and_no_other(
    file: ContextFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write(Contexts().with_context("a", Context(url="http://a")))

    def broken(self: Path, target: Path) -> Path:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", broken)
    with pytest.raises(OSError, match="disk full"):
        file.write(Contexts().with_context("b", Context(url="http://b")))
    assert list(file.read().by_name) == ["a"]
    assert [path.name for path in file.path.parent.iterdir()] == ["config.toml"]


def test_the_first_context_is_chosen_and_a_removed_one_is_not(file: ContextFile) -> None:
    contexts = (
        Contexts().with_context("a", Context(url="http://a")).with_context("b", Context(url="http://b"))
    )
    assert contexts.current == "a"
    assert contexts.without("a").current == ""


def test_an_unknown_name_brings_the_closest(file: ContextFile) -> None:
    contexts = Contexts().with_context("production", Context(url="http://a"))
    with pytest.raises(NotFound) as raised:
        contexts.get("prodution")
    assert raised.value.hint == "did you mean production?"


@pytest.mark.parametrize("name", ["", "a b", "a.b", "-a", "[x]"])
def test_names_that_toml_would_read_otherwise_are_refused(name: str) -> None:
    with pytest.raises(InvalidInput):
        Contexts().with_context(name, Context(url="http://a"))


@pytest.mark.parametrize("text", ["= 1", "contexts = 1", "[contexts]\na = 1", "[contexts.a]\ntoken = 'x'"])
def test_a_damaged_file_is_named(file: ContextFile, text: str) -> None:
    file.path.parent.mkdir()
    file.path.write_text(text)
    with pytest.raises(InvalidInput, match=r"config\.toml"):
        file.read()


def test_the_directory_follows_the_environment() -> None:
    assert ContextFile.of_user({"XDG_CONFIG_HOME": "/x"}).path == Path("/x/midge/config.toml")
    assert ContextFile.of_user({"HOME": "/h"}).path == Path("/h/.config/midge/config.toml")
    assert ContextFile.of_user({"MIDGE_CONFIG_DIR": "/m", "HOME": "/h"}).path == Path("/m/config.toml")
