"""Exit codes and the four parts of an error."""

from __future__ import annotations

import json
from typing import ClassVar

import httpx2
import pytest

from midge import errors
from midge.cli import exits
from midge.cli.failure import Failed, doing
from midge.cli.main import alone
from midge.client.failures import ApiError, TransportError, WaitTimeout
from tests.unit.cli.conftest import MACHINE, FakeServer

ID = MACHINE["id"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (exits.UsageFailure("x"), 2),
        (errors.InvalidInput("x"), 2),
        (errors.NotFound("x"), 3),
        (errors.ImageNotFound("x"), 3),
        (errors.Unauthorized("x"), 4),
        (errors.Forbidden("x"), 4),
        (errors.Conflict("x"), 5),
        (errors.LeaseHeld("x"), 5),
        (WaitTimeout("x"), 124),
        (errors.DeadlineExceeded("x"), 124),
        (errors.PreconditionFailed("x"), 1),
        (errors.Unavailable("x"), 1),
        (TransportError("x"), 1),
        (ApiError("x"), 1),
        (exits.Refused("x"), 1),
        (ValueError("x"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_every_error_has_its_exit_code(error: BaseException, code: int) -> None:
    assert exits.of(error) == code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ApiError("x", guest_code="not_found"), 127),
        (ApiError("x", guest_code="not_executable"), 126),
        (ApiError("x", guest_code="failed"), 125),
        (errors.NotFound("x"), 125),
        (TransportError("x"), 125),
        (exits.UsageFailure("x"), 2),
        (KeyboardInterrupt(), 130),
    ],
)
def test_remote_commands_tell_our_failures_from_their_own(error: BaseException, code: int) -> None:
    assert exits.of(error, remote=True) == code


@pytest.mark.parametrize(
    ("exit_code", "signal", "code"),
    [(0, 0, 0), (3, 0, 3), (137, 9, 137), (0, 15, 143), (256 + 7, 0, 7), (127, 0, 127)],
)
def test_a_remote_exit_code_is_passed_on(exit_code: int, signal: int, code: int) -> None:
    assert exits.remote(exit_code, signal) == code


def test_the_table_names_every_code_once() -> None:
    codes = [code for code, _ in exits.TABLE]
    assert codes == sorted(set(codes))


def test_an_error_says_what_why_how_and_where(midge: FakeServer) -> None:
    refusal = {"error": "could not reserve", "code": "insufficient_capacity", "hint": "stop another"}
    midge.answers = {
        f"GET /v1/apps/web/machines/{ID}": MACHINE,
        f"POST /v1/apps/web/machines/{ID}/start": httpx2.Response(
            422, json=refusal, headers={"fly-request-id": "01REQUEST"}
        ),
    }
    result = midge("machine", "start", ID, "-a", "web")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == (
        f"error: cannot start machine {ID}\n     why: could not reserve\n    hint: stop another\n request: 01REQUEST\n"
    )


def test_the_same_error_as_json(midge: FakeServer) -> None:
    result = midge("machine", "start", ID, "-a", "web", "--json")
    assert result.exit_code == 3
    assert json.loads(result.stderr) == {
        "error": {
            "code": "not_found",
            "message": f"cannot find machine '{ID}': not found",
            "hint": "",
            "request_id": "01REQUEST",
            "exit_code": 3,
        }
    }


def test_an_unreachable_server_is_one_message(midge: FakeServer) -> None:
    midge.answers = {"GET /v1/apps": httpx2.ConnectError("[Errno 111] Connection refused")}
    result = midge("app", "list")
    assert result.exit_code == 1
    assert "no server answers at http://127.0.0.1:1" in result.stderr
    assert "hint: start it with `midge serve`" in result.stderr
    assert "Traceback" not in result.stderr


def test_debug_shows_requests_and_the_traceback(midge: FakeServer) -> None:
    result = midge("app", "list", "--debug")
    assert "Traceback" in result.stderr


def test_an_unknown_command_brings_the_closest(midge: FakeServer) -> None:
    result = midge("machine", "strat")
    assert result.exit_code == 2
    assert "no command 'strat' in `midge machine`" in result.stderr
    assert "did you mean `midge machine start`" in result.stderr


def test_usage_errors_are_json_too(midge: FakeServer) -> None:
    result = midge("machine", "list", "--no-such", "--json")
    assert result.exit_code == 2
    assert json.loads(result.stderr)["error"]["code"] == "usage"


def test_help_asked_for_is_on_stdout_and_usage_on_stderr(midge: FakeServer) -> None:
    asked, missing = midge("machine", "--help"), midge("machine")
    assert (asked.exit_code, asked.stderr) == (0, "")
    assert (missing.exit_code, missing.stdout) == (2, "")
    assert "Usage: midge machine" in missing.stderr


def test_a_token_on_the_command_line_is_refused(midge: FakeServer) -> None:
    result = midge("app", "list", "--token", "secret")
    assert result.exit_code == 2
    assert "visible to every user" in result.stderr
    assert midge.requests == []


def test_a_token_is_read_from_stdin(midge: FakeServer) -> None:
    midge.answers = {"GET /v1/apps": {"apps": []}}
    assert midge("app", "list", "--token", "-", input="secret\n").exit_code == 0
    assert midge.requests[0].headers["authorization"] == "Bearer secret"


def test_a_prompt_without_a_terminal_names_the_flag(midge: FakeServer) -> None:
    midge.answers = {"GET /v1/apps/web": {"name": "web", "machine_count": 2}}
    result = midge("app", "destroy", "web")
    assert result.exit_code == 2
    assert "add --yes" in result.stderr


def test_causes_are_named_and_the_deepest_hint_is_found() -> None:
    class Odd(errors.MidgeError):
        code: ClassVar[str] = "odd"

    with pytest.raises(Failed, match="cannot sing") as raised, doing("sing"):
        raise Odd("no voice", hint="drink tea")
    assert isinstance(raised.value.__cause__, Odd)


def test_a_group_of_one_error_is_that_error() -> None:
    inner = errors.NotSupported("no such driver", hint="take another")
    group = ExceptionGroup("tasks", [ExceptionGroup("more tasks", [inner])])
    assert alone(group) is inner
    both = ExceptionGroup("tasks", [inner, ValueError("x")])
    assert alone(both) is both


def failed(kind: str, error: dict[str, str]) -> dict[str, object]:
    """The event of an operation that failed."""
    request = {"error": error}
    stamp = 1_577_836_802_000
    return {
        "id": "01C",
        "type": kind,
        "status": "failed",
        "source": "flyd",
        "timestamp": stamp,
        "request": request,
    }


def test_a_suspend_that_failed_says_why(midge: FakeServer) -> None:
    """The machine runs on, so waiting for `suspended` would not end."""
    error = {"message": "suspend needs 319 MiB on disk, 0 MiB are free", "hint": "free space"}
    event = failed("suspend", error)
    machines = "/v1/apps/app/machines"
    midge.answers = {
        f"GET {machines}/{ID}": {**MACHINE, "events": [event, *MACHINE["events"]]},
        f"POST {machines}/{ID}/suspend": {"ok": True},
        f"GET {machines}/{ID}/wait": {"ok": True, "state": "started", "version": MACHINE["version"]},
    }
    result = midge("machine", "suspend", ID, "-a", "app")
    assert result.exit_code == 1
    assert f"cannot suspend machine {ID}" in result.stderr
    assert "suspend needs 319 MiB on disk, 0 MiB are free" in result.stderr
    assert "free space" in result.stderr


def test_a_suspend_that_ended_in_time_says_so(midge: FakeServer) -> None:
    machines = "/v1/apps/app/machines"
    midge.answers = {
        f"GET {machines}/{ID}": MACHINE,
        f"POST {machines}/{ID}/suspend": {"ok": True},
        f"GET {machines}/{ID}/wait": {"ok": True, "state": "suspended", "version": MACHINE["version"]},
    }
    result = midge("machine", "suspend", ID, "-a", "app")
    assert (result.exit_code, result.stdout) == (0, f"{ID} suspended\n")


def test_a_clone_that_does_not_start_says_why(midge: FakeServer) -> None:
    error = {"message": "no such user: web"}
    event = failed("start", error)
    machines = "/v1/apps/app/machines"
    machine = {**MACHINE, "state": "failed", "events": [event]}
    midge.answers = {
        f"GET {machines}/{ID}": machine,
        f"POST {machines}": {**MACHINE, "state": "creating"},
        f"GET {machines}/{ID}/wait": {"ok": True, "state": "failed", "version": MACHINE["version"]},
    }
    result = midge("machine", "clone", ID, "-a", "app")
    assert result.exit_code == 1
    assert "did not start: no such user: web" in result.stderr
