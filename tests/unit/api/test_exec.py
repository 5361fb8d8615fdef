"""Commands in machines, run to their end."""

from __future__ import annotations

from typing import Any

import pytest

from midge.api import exec as exec_api
from midge.testing.host import StagedHost

from .client import CheckedClient

pytestmark = pytest.mark.anyio


async def test_cmd_is_split_as_a_shell_would(client: CheckedClient, url: str) -> None:
    answer = await client.post(f"{url}/exec", json={"cmd": "echo 'a  b' c"})
    assert answer.json() == {
        "exit_code": 0,
        "exit_signal": 0,
        "stdout": "a  b c\n",
        "stderr": "",
    }


async def test_command_is_the_argument_vector(client: CheckedClient, url: str) -> None:
    answer = await client.post(f"{url}/exec", json={"command": ["echo", "a  b", "ü"], "cmd": "false"})
    assert answer.json()["stdout"] == "a  b ü\n"


async def test_an_exit_code_is_no_error(client: CheckedClient, url: str) -> None:
    answer = await client.post(f"{url}/exec", json={"command": ["sh", "-c", "exit 7"], "timeout": 0})
    assert (answer.status_code, answer.json()["exit_code"]) == (200, 7)


async def test_a_missing_command_is_127(client: CheckedClient, url: str) -> None:
    answer = await client.post(f"{url}/exec", json={"cmd": "nothing-here"})
    assert (answer.status_code, answer.json()["exit_code"]) == (200, 127)
    assert "not found" in answer.json()["stderr"]


async def test_stdin_reaches_the_command(client: CheckedClient, url: str) -> None:
    text = "line\n" * 50_000
    assert (await client.post(f"{url}/exec", json={"cmd": "cat", "stdin": text})).json()["stdout"] == text


async def test_a_command_may_leave_its_input_alone(client: CheckedClient, url: str) -> None:
    body = {"cmd": "true", "stdin": "x" * 5_000_000}
    assert (await client.post(f"{url}/exec", json=body)).json()["exit_code"] == 0


async def test_bytes_that_are_no_utf8_are_replaced(client: CheckedClient, url: str) -> None:
    assert (await client.post(f"{url}/exec", json={"cmd": "bytes 3"})).json()["stdout"] == "\ufffd" * 3


async def test_too_much_output_is_cut_and_said_to_be(
    client: CheckedClient, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exec_api, "OUTPUT_BYTES_MAX", 10)
    answer = (await client.post(f"{url}/exec", json={"cmd": "echo 0123456789abc"})).json()
    assert answer["stdout"] == "0123456789"
    assert answer["stdout_truncated"] is True
    assert "stderr_truncated" not in answer


@pytest.mark.slow
async def test_a_command_that_takes_too_long_answers_408(client: CheckedClient, url: str) -> None:
    answer = await client.post(f"{url}/exec", json={"cmd": "sleep 60", "timeout": 1})
    assert answer.status_code == 408
    assert answer.json()["error"].startswith("deadline_exceeded: ")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({}, "$.command: a command is required"),
        ({"cmd": "   "}, "$.command: a command is required"),
        ({"command": []}, "$.command: a command is required"),
        ({"command": [""]}, "$.command: a command is required"),
        ({"cmd": "echo 'open"}, "$.cmd: no closing quotation"),
        ({"command": ["a\0b"]}, "$.command: an argument cannot hold a NUL character"),
        ({"command": ["a"], "timeout": 61}, "$.timeout: expected int <= 60"),
        ({"command": [1]}, "$.command[0]: expected str, got int"),
    ],
)
async def test_refusals(client: CheckedClient, url: str, body: dict[str, Any], text: str) -> None:
    answer = await client.post(f"{url}/exec", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"] == f"invalid_argument: {text}"


async def test_containers_are_not_supported(client: CheckedClient, url: str) -> None:
    assert (await client.post(f"{url}/exec", json={"cmd": "true", "container": "x"})).status_code == 501
    assert (await client.post(f"{url}/exec", json={"cmd": "true", "container": ""})).status_code == 200


async def test_a_stopped_machine_runs_nothing(client: CheckedClient, url: str, host: StagedHost) -> None:
    await host.exit(url.rpartition("/")[2], 0)
    assert (await client.post(f"{url}/exec", json={"cmd": "true"})).status_code == 412
    assert (await client.get(f"{url}/ps")).status_code == 412
    assert (await client.get(f"{url}/stats")).status_code == 412
