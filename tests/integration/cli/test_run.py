"""`machine run` from create to exit code, with a real worker and the mock driver."""

from __future__ import annotations

import json

import pytest

from tests.integration.cli.conftest import Midge
from tests.integration.cli.terminal import terminal


def order(**what: object) -> tuple[str, str]:
    """What the mock machine does."""
    return "-m", "midge.mock=" + json.dumps(what)


def states(mock: Midge) -> list[str]:
    return [m["state"] for m in json.loads(mock.ok("machine", "list", "-a", mock.app, "--json"))]


def test_a_run_prints_the_output_and_returns_the_exit_code(mock: Midge) -> None:
    ordered = order(output="one\ntwo\n", exit_after_ms=50, exit_code=3)
    result = mock("machine", "run", "-a", mock.app, *ordered, "box:1", "sh")
    assert (result.exit_code, result.stdout) == (3, "one\ntwo\n")
    assert states(mock) == ["stopped"]


def test_a_run_with_rm_leaves_nothing(mock: Midge) -> None:
    ordered = order(output="hi\n", exit_after_ms=50)
    result = mock("machine", "run", "--rm", "-a", mock.app, *ordered, "box:1")
    assert (result.exit_code, result.stdout) == (0, "hi\n")
    assert states(mock) == []


def test_a_signal_is_128_and_its_number(mock: Midge) -> None:
    result = mock(
        "machine", "run", "-a", mock.app, *order(exit_after_ms=20, exit_signal=9, exit_code=137), "box:1"
    )
    assert result.exit_code == 137


def test_a_run_as_json_is_a_stream_that_ends_with_the_exit(mock: Midge) -> None:
    ordered = order(output="hi\n", exit_after_ms=50, exit_code=7)
    result = mock("machine", "run", "--json", "-a", mock.app, *ordered, "box:1")
    first, last = [json.loads(line) for line in result.stdout.splitlines()]
    assert (first["type"], first["message"]) == ("log", "hi")
    assert (last["type"], last["exit_code"], result.exit_code) == ("exit", 7, 7)


def test_a_machine_that_does_not_start_is_a_failure_of_ours(mock: Midge) -> None:
    ordered = order(fail_start=99, fail_final=True)
    for detach in ((), ("-d",)):
        result = mock("machine", "run", *detach, "-a", mock.app, *ordered, "box:1")
        assert result.exit_code == 125
        assert "did not start: mock machine" in result.stderr
        assert "start fails as ordered" in result.stderr
        assert "midge machine events" in result.stderr


def test_the_output_is_all_there_after_the_machine_has_ended(mock: Midge) -> None:
    text = "".join(f"line {number}\n" for number in range(2000))
    result = mock("machine", "run", "-a", mock.app, *order(output=text, exit_after_ms=0), "box:1")
    assert result.stdout == text


def test_create_waits_until_the_machine_is_made(mock: Midge) -> None:
    made = json.loads(mock.ok("machine", "create", "--json", "-a", mock.app, *order(prepare_ms=50), "box:1"))
    assert made["state"] == "created"


def test_create_says_why_a_machine_could_not_be_made(mock: Midge) -> None:
    told = order(fail_prepare=1, fail_final=True)
    result = mock("machine", "create", "-a", mock.app, "-n", "web", *told, "box:1")
    assert result.exit_code == 1
    assert "machine web was not created: " in result.stderr
    assert "fails as ordered" in result.stderr
    detached = mock("machine", "create", "-d", "-q", "-a", mock.app, *told, "box:1")
    assert detached.exit_code == 0


def test_an_update_shows_the_machine_as_it_is_then(mock: Midge) -> None:
    mock.ok("machine", "run", "-d", "-a", mock.app, "-n", "web", "box:1")
    words = ("machine", "update", "-y", "--json", "web", "-a", mock.app)
    updated = json.loads(mock.ok(*words, "-e", "A=1"))
    shown = json.loads(mock.ok("machine", "status", "--json", "web", "-a", mock.app))
    assert updated["state"] == "started"
    assert updated["events"] == shown["events"]


def test_an_update_that_could_not_be_made_says_why(mock: Midge) -> None:
    mock.ok("machine", "run", "-d", "-a", mock.app, "-n", "web", "box:1")
    told = order(prepare_ms=50, fail_prepare=1, fail_final=True)
    result = mock("machine", "update", "-y", "web", "-a", mock.app, *told)
    assert result.exit_code == 1
    assert "machine web was not updated: " in result.stderr
    assert states(mock) == ["started"]


def test_logs_are_read_again_later(mock: Midge) -> None:
    mock("machine", "run", "-a", mock.app, "-n", "web", *order(output="a\nb\nc\n", exit_after_ms=20), "box:1")
    assert mock.ok("machine", "logs", "web", "-a", mock.app) == "a\nb\nc\n"
    assert mock.ok("machine", "logs", "web", "-a", mock.app, "-n", "1") == "c\n"
    assert mock.ok("machine", "logs", "web", "-a", mock.app, "--stream", "stderr") == ""
    stamped = mock.ok("machine", "logs", "web", "-a", mock.app, "--timestamps").splitlines()
    assert [line.split("Z ", 1)[1] for line in stamped] == ["a", "b", "c"]
    records = mock.ok("machine", "logs", "web", "-a", mock.app, "--json").splitlines()
    assert [json.loads(record)["message"] for record in records] == ["a", "b", "c"]


def test_a_shell_machine_is_gone_when_the_command_has_ended(mock: Midge) -> None:
    result = mock("machine", "run", "--shell", "-a", mock.app, "box:1", "echo", "hi")
    assert (result.exit_code, result.stdout) == (0, "hi\n")
    assert states(mock) == []


def test_a_shell_machine_is_gone_when_the_command_failed(mock: Midge) -> None:
    result = mock("machine", "run", "--shell", "-a", mock.app, "box:1", "no-such-command")
    assert result.exit_code == 127
    assert states(mock) == []


@pytest.mark.slow
def test_ctrl_c_leaves_the_machine_running_and_says_how_to_follow(mock: Midge) -> None:
    with terminal(mock, "machine", "run", "-n", "web", *order(output="ready\n"), "box:1") as tty:
        tty.until(b"ready")
        tty.type(b"\x03")
        assert tty.wait() == 130
        tty.until(b"midge machine logs ")
        tty.until(b"midge machine stop ")
    assert states(mock) == ["started"]


@pytest.mark.slow
def test_ctrl_c_ends_following_logs_and_watching(mock: Midge) -> None:
    mock.ok("machine", "run", "-d", "-a", mock.app, "-n", "web", *order(output="ready\n"), "box:1")
    with terminal(mock, "machine", "logs", "-f", "web") as tty:
        tty.until(b"ready")
        tty.type(b"\x03")
        assert tty.wait() == 0
    with terminal(mock, "machine", "list", "-w") as tty:
        tty.until(b"started")
        tty.type(b"\x03")
        assert tty.wait() == 0


def test_images_are_listed_removed_and_refused_while_in_use(mock: Midge) -> None:
    mock.ok("machine", "create", "-a", mock.app, "box:1")
    (image,) = json.loads(mock.ok("image", "ls", "--json"))
    assert image["references"] == ["box:1"]
    assert mock("image", "rm", "box:1").exit_code == 5
    assert mock("image", "rm", "no-such-image").exit_code == 3
    assert json.loads(mock.ok("image", "prune", "--json"))["deleted"] == []


def test_an_archive_that_is_none_is_an_error(mock: Midge) -> None:
    (mock.cwd / "x.tar").write_bytes(b"no archive")
    result = mock("image", "import", str(mock.cwd / "x.tar"))
    assert result.exit_code == 2
    assert "cannot import" in result.stderr
