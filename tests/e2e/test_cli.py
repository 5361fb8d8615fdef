"""The command line as people and scripts use it, against real machines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest

from tests.e2e.serve import App, Machine, Serve
from tests.integration.cli.conftest import Midge
from tests.integration.cli.terminal import terminal
from tests.loopback import DIRECT

pytestmark = [pytest.mark.slow, pytest.mark.root]

IMAGE = "midge/hello:latest"
EXIT_TIMEOUT_S = 60


@pytest.fixture
def app(real: Serve, new_app: Callable[[Serve], App]) -> App:
    return new_app(real)


@pytest.fixture
def web(app: App) -> Machine:
    return app.create({"image": IMAGE}, name="web")


@contextmanager
def running(serve: Serve, *args: str) -> Iterator[subprocess.Popen[str]]:
    """A command that goes on until it is told to stop."""
    process = subprocess.Popen(
        serve.midge_command(*args),
        env=serve.env,
        cwd=serve.base,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_run_shows_both_streams_and_takes_environment_and_files(app: App) -> None:
    script = 'echo out; echo err >&2; echo "$WORD $(cat /etc/note)"; exit 3'
    options = ("--rm", "-e", "WORD=hello", "--file-literal", "/etc/note=world")
    done = app.run(IMAGE, "sh", "-c", script, options=options)
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\nhello world\n", "err\n")
    assert app.serve.call("GET", app.path) == []


def test_a_run_as_json_ends_with_its_exit(app: App) -> None:
    done = app.run(IMAGE, "sh", "-c", "echo hi; exit 4", options=("--rm", "--json"))
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record.get("message") for record in records if record["type"] == "log"] == ["hi"]
    assert (records[-1]["type"], records[-1]["exit_code"], done.returncode) == ("exit", 4, 4)


def test_a_lot_of_output_arrives_complete(app: App) -> None:
    done = app.run(IMAGE, "seq", "20000", options=("--rm",))
    assert done.returncode == 0
    assert done.stdout == "".join(f"{number}\n" for number in range(1, 20001))


def test_a_shell_on_a_terminal_and_then_nothing(app: App) -> None:
    # A stale size in the environment, as after a resize, is not the terminal's.
    user = Midge({**app.serve.env, "COLUMNS": "20", "LINES": "5"}, app.serve.base, app.name)
    with terminal(user, "machine", "run", "--shell", IMAGE) as tty:
        tty.until_raw()
        tty.type(b"echo $((6*7)) $(stty size)\n")
        tty.until(b"42 30 100")
        tty.type(b"exit 6\n")
        assert tty.wait() == 6
    assert app.serve.call("GET", app.path) == []


def test_a_clone_runs_the_same_with_what_is_changed(web: Machine) -> None:
    serve, app = web.serve, web.app
    copy = serve.ok("machine", "clone", "-q", "-a", app.name, "web", "-n", "copy", "-e", "A=1").strip()
    made = serve.call("GET", f"{app.path}/{copy}")
    assert (made["state"], made["config"]["env"]) == ("started", {"A": "1"})
    assert made["private_ip"] != web.get()["private_ip"]
    assert serve.ok("machine", "exec", "-a", app.name, "copy", "sh", "-c", "echo $A") == "1\n"


def test_an_update_shows_what_changes_and_does_it(web: Machine) -> None:
    serve, app = web.serve, web.app
    change = ("machine", "update", "-a", app.name, "web", "-e", "A=1", "--memory", "300")
    unasked = serve.midge(*change)
    assert unasked.returncode == 2
    assert "~ guest.memory_mb: 256 -> 300" in unasked.stderr
    assert '+ env.A: "1"' in unasked.stderr
    dry = serve.ok(*change, "--dry-run")
    assert "~ guest.memory_mb: 256 -> 300" in dry
    assert len(web.call("GET", "/versions")) == 1
    serve.ok(*change, "--yes")
    assert len(web.call("GET", "/versions")) == 2
    assert serve.ok("machine", "exec", "-a", app.name, "web", "sh", "-c", "echo $A") == "1\n"


def test_a_proxy_forwards_a_port(web: Machine) -> None:
    web.page()
    with running(web.serve, "proxy", "-q", "-a", web.app.name, "0:8080", "web") as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        assert "<title>" in httpx2.get(f"http://127.0.0.1:{port}/", timeout=EXIT_TIMEOUT_S, **DIRECT).text
        process.send_signal(signal.SIGINT)
        assert process.wait(EXIT_TIMEOUT_S) == 0


def test_logs_are_followed(app: App) -> None:
    config = {
        "image": IMAGE,
        "init": {"exec": ["sh", "-c", "trap 'echo asked' USR1; echo up; while :; do sleep 0.1; done"]},
    }
    machine = app.create(config, name="talker")
    with running(app.serve, "machine", "logs", "-f", "-a", app.name, "talker") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        machine.call("POST", "/signal", {"signal": "SIGUSR1"})
        assert process.stdout.readline() == "asked\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(EXIT_TIMEOUT_S) == 0


def test_exec_passes_bytes_through_a_pipe(web: Machine) -> None:
    data = os.urandom(300_000)
    done = subprocess.run(
        web.serve.midge_command("machine", "exec", "-i", "-a", web.app.name, "web", "cat"),
        input=data,
        capture_output=True,
        env=web.serve.env,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == data


def test_every_command_speaks_json(web: Machine) -> None:
    serve, app = web.serve, web.app.name
    commands: list[tuple[str, ...]] = [
        ("machine", "list", "-a", app),
        ("machine", "status", "-a", app, "web"),
        ("machine", "events", "-a", app, "web"),
        ("machine", "events", "--phases", "-a", app, "web"),
        ("machine", "ps", "-a", app, "web"),
        ("machine", "wait", "-a", app, "web"),
        ("app", "list"),
        ("image", "ls"),
        ("status",),
        ("version",),
    ]
    for command in commands:
        printed = serve.ok(*command, "--json")
        documents: list[Any] = [json.loads(printed)]
        assert documents, command


def test_exit_codes(web: Machine) -> None:
    serve, app = web.serve, web.app.name
    nonce = web.call("POST", "/lease", {"ttl": 300}, expect=201)["data"]["nonce"]

    def code(*args: str, **env: Any) -> int:
        done = serve.midge(*args, **env)
        assert "Traceback" not in done.stderr
        assert (done.returncode == 0) == (not done.stderr.startswith("error")), done.stderr
        return done.returncode

    assert code("machine", "list", "-a", app) == 0
    assert code("machine", "destroy", "-a", app, "web", "--yes") in (1, 5)
    assert code("machine", "no-such-command") == 2
    assert code("machine", "list", "-a", app, "--no-such-option") == 2
    assert code("machine", "status", "-a", app, "nobody") == 3
    assert code("machine", "list", "-a", "no-such-app") == 3
    assert code("machine", "list", "-a", app, MIDGE_API_TOKEN="wrong") == 4
    assert code("machine", "stop", "-a", app, "web") == 5
    assert code("machine", "wait", "-a", app, "web", "--state", "stopped", "--wait-timeout", "1s") == 124
    web.call("DELETE", "/lease", headers={"fly-machine-lease-nonce": nonce})
    assert code("machine", "destroy", "-a", app, "web", "--yes") == 1
    assert code("machine", "stop", "-a", app, "web") == 0
    assert code("machine", "exec", "-a", app, "web", "true") == 125
    assert code("machine", "destroy", "-a", app, "web", "--yes") == 0
    assert code("status", MIDGE_URL="http://127.0.0.1:1") == 1
