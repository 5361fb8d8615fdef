"""What only a real machine can tell: which command ran, and how it ended."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.e2e.serve import App, Serve

pytestmark = [pytest.mark.slow, pytest.mark.root]

IMAGE = "box:1"


@pytest.fixture
def app(real: Serve, new_app: Callable[[Serve], App]) -> App:
    return new_app(real)


@pytest.mark.parametrize(
    ("command", "options", "code", "said"),
    [
        (["true"], ["--user", "nobody-knows"], 125, "nobody-knows"),
        (["no-such-command"], [], 127, "no-such-command"),
        (["/no/such/command"], [], 127, "/no/such/command"),
        (["/etc/passwd"], [], 126, "/etc/passwd"),
        (["/etc"], [], 126, "/etc"),
        (["sh", "-c", "exit 42"], [], 42, ""),
        (["sh", "-c", "kill -TERM $$"], [], 143, ""),
        (["sh", "-c", "kill -KILL $$"], [], 137, ""),
    ],
)
def test_how_a_run_ends_is_its_exit_code(
    app: App, command: list[str], options: list[str], code: int, said: str
) -> None:
    done = app.run(IMAGE, *command, options=("--rm", *options))
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert app.serve.call("GET", app.path) == []


@pytest.mark.parametrize(
    ("command", "options", "code", "said"),
    [
        (["true"], ["--user", "nobody-knows"], 125, "nobody-knows"),
        (["no-such-command"], [], 127, "no-such-command"),
        (["/etc/passwd"], [], 126, "/etc/passwd"),
        (["sh", "-c", "exit 42"], [], 42, ""),
        (["sh", "-c", "kill -TERM $$"], [], 143, ""),
        (["pwd"], ["--workdir", "/no/such/dir"], 125, "/no/such/dir"),
    ],
)
def test_how_an_exec_ends_is_its_exit_code(
    app: App, command: list[str], options: list[str], code: int, said: str
) -> None:
    machine = app.create({"image": IMAGE, "init": {"exec": ["sleep", "inf"]}})
    done = app.serve.midge("machine", "exec", "-a", app.name, *options, machine.id, *command)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert machine.get()["state"] == "started"


def test_a_machine_the_host_has_no_room_for(app: App) -> None:
    answer = app.refused({"image": IMAGE, "guest": {"memory_mb": 1_000_000}}, 422)
    assert answer["status"] == "insufficient_capacity"
    assert "the machine asks for 1000000 MB, the largest host has" in answer["hint"]
