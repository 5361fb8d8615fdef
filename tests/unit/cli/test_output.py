"""Tables, text, colours, JSON."""

from __future__ import annotations

import sys
from datetime import UTC, datetime

import pytest

from midge.cli import table, text
from midge.cli.output import Output, Style, dump
from tests.unit.cli.conftest import MACHINE, FakeServer

APP = "/v1/apps/web/machines"
ID = MACHINE["id"]


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert table.render(["NAME", "AGE"], [["a", "1s"], ["longer", "12d"]]) == [
        "NAME    AGE",
        "a       1s",
        "longer  12d",
    ]


def test_empty_cells_keep_their_column() -> None:
    assert table.render(["A", "B", "C"], [["1", "", "3"]]) == ["A  B  C", "1  -  3"]


def test_wide_characters_take_two_columns() -> None:
    assert table.render(["A", "B"], [["日本", "1"], ["abcd", "2"]]) == ["A     B", "日本  1", "abcd  2"]


def test_cells_cannot_steer_the_terminal() -> None:
    assert table.render(["A"], [["x\x1b[2Jy\nz"]]) == ["A", "x?[2Jy z"]


def test_headers_have_no_spaces_so_that_scripts_can_split(midge: FakeServer) -> None:
    midge.answers = {f"GET {APP}": [MACHINE]}
    assert midge("machine", "list", "-a", "web").stdout == (
        "NAME               ID              STATE    REGION  IMAGE      SIZE           AGE\n"
        "aged-thunder-7371  1857156b526dd8  started  local   debian:12  shared-2x1GiB  "
        f"{text.age(MACHINE['created_at'], text.now())}\n"
    )


def test_status_shows_facts_and_the_latest_events(midge: FakeServer) -> None:
    midge.answers = {f"GET {APP}/{ID}": MACHINE}
    assert midge("machine", "status", ID, "-a", "web").stdout == (
        "Name:     aged-thunder-7371\n"
        "Id:       1857156b526dd8\n"
        "App:      web\n"
        "State:    started\n"
        "Host:     ok\n"
        "Region:   local\n"
        "Image:    debian:12\n"
        f"Digest:   sha256:{'c9' * 32}\n"
        "Size:     shared-2x1GiB\n"
        "Address:  fdaa::2\n"
        "Version:  01HEPA330HZ37A78TK080NAK1M\n"
        "Created:  2020-01-01T00:00:00Z\n"
        "Updated:  2020-01-01T00:00:00Z\n"
        "\n"
        "EVENT   STATUS   SOURCE  TIME                      DETAIL\n"
        "exit    stopped  flyd    2020-01-01T00:00:01.250Z  exit_code=137 oom_killed restarting restart_count=2\n"
        "launch  created  user    2020-01-01T00:00:00.000Z  -\n"
    )


def test_phases_show_what_each_took(midge: FakeServer) -> None:
    start = {"start_id": "01S", "kind": "template", "phases": [["restored", 12.25], ["answered", 20.5]]}
    midge.answers = {f"GET {APP}/{ID}": MACHINE, f"GET {APP}/{ID}/phases": [start]}
    assert midge("machine", "events", ID, "-a", "web", "--phases").stdout == (
        "template 01S\nPHASE     MS    AT_MS\nrestored  12.2  12.2\nanswered  8.2   20.5\n"
    )


@pytest.mark.parametrize(
    ("env", "style", "expected"),
    [
        ({}, Style(), False),
        ({"CLICOLOR_FORCE": "1"}, Style(), True),
        ({"CLICOLOR_FORCE": "1", "NO_COLOR": "1"}, Style(), False),
        ({"CLICOLOR_FORCE": "1"}, Style(colour=False), False),
        ({"CLICOLOR_FORCE": "0"}, Style(), False),
    ],
)
def test_colours_follow_the_environment(env: dict[str, str], style: Style, expected: bool) -> None:
    assert Output(style, env).colours(sys.stdout) is expected


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"CLICOLOR": "0"}, {"TERM": "dumb"}])
def test_a_terminal_can_be_told_to_stay_plain(env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert Output(Style(), {}).colours(sys.stdout)
    assert not Output(Style(), env).colours(sys.stdout)


@pytest.mark.parametrize("env", [{"CI": "true"}, {"GITHUB_ACTIONS": "1"}, {"TERM": "dumb"}])
def test_nothing_is_redrawn_in_logs(env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert Output(Style(), {}).redraws()
    assert not Output(Style(), env).redraws()


def test_json_survives_output_that_is_no_text() -> None:
    assert dump({"a": "ü"}) == '{"a":"ü"}'
    assert dump({"a": "\udcff"}) == '{"a":"\\udcff"}'


@pytest.mark.parametrize(
    ("then", "shown"),
    [
        ("2025-01-01T00:00:00Z", "0s"),
        ("2024-12-31T23:59:13Z", "47s"),
        ("2024-12-31T20:00:00Z", "4h"),
        ("x", ""),
    ],
)
def test_ages_are_short(then: str, shown: str) -> None:
    assert text.age(then, datetime(2025, 1, 1, tzinfo=UTC)) == shown


@pytest.mark.parametrize(
    ("reference", "shown"),
    [
        ("registry-1.docker.io/library/debian:12", "debian:12"),
        ("docker.io/me/app", "me/app"),
        ("ghcr.io/me/app:1", "ghcr.io/me/app:1"),
        ("debian@sha256:" + "ab" * 32, "debian@sha256:abababababab"),
    ],
)
def test_images_are_shown_as_people_write_them(reference: str, shown: str) -> None:
    assert text.image({"image": reference}) == shown
