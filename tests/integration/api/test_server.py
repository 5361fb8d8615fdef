"""A server as a whole: start, second start, restart, stop."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from midge.errors import Conflict
from midge.testing.server import running_server
from tests.deadlines import PATIENCE_S
from tests.loopback import DIRECT

from .conftest import Live, until

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

WAIT_S = 60

PROGRAM = """
import sys
import time
from pathlib import Path
from midge.server.serve import run
from midge.testing.server import open_staged_host, settings_for_tests
settings = settings_for_tests(Path(sys.argv[1]), log_format="json", drain_timeout_s=300)
sys.exit(run(settings, open_staged_host, on_ready=lambda server: print(server.url, flush=True)))
"""


async def test_it_serves_and_tells_where(live: Live) -> None:
    found = json.loads((live.server.paths.server_json).read_text())
    assert found["url"] == live.server.url
    assert live.server.paths.token.read_text().strip() == live.server.token
    answer = await live.http.get("/readyz")
    assert answer.json()["ready"] is True
    assert answer.headers["server"].startswith("Midge/")
    assert "date" in answer.headers
    assert (await live.http.get("/-/config")).json()["listen"] == "127.0.0.1:0"


async def test_the_same_directory_is_served_once(live: Live) -> None:
    with pytest.raises(Conflict, match=f"process {os.getpid()}"):
        async with running_server(live.server.paths.data_dir):
            pass


async def test_the_same_address_is_served_once(live: Live, tmp_path: Path) -> None:
    address = live.server.url.removeprefix("http://")
    with pytest.raises(Conflict, match=address):
        async with running_server(tmp_path / "other", listen=address):
            pass


async def test_a_restart_keeps_apps_and_token_and_frees_lost_names(tmp_path: Path) -> None:
    async with running_server(tmp_path) as first, httpx2.AsyncClient(base_url=first.url, **DIRECT) as http:
        headers = {"authorization": first.token}
        await http.post("/v1/apps", json={"name": "web"}, headers=headers)
        await http.post("/v1/apps", json={"name": "half"}, headers=headers)
        body = {"config": {"image": "debian"}, "name": "one"}
        await http.post("/v1/apps/web/machines", json=body, headers=headers)
        await first.services.central.apps.begin_delete(await first.services.central.apps.get("half"))
    assert not first.paths.server_json.exists()
    shutil.rmtree(tmp_path / "staged")  # the worker has lost its machines
    async with running_server(tmp_path) as second, httpx2.AsyncClient(base_url=second.url, **DIRECT) as http:
        assert (second.token, second.token_is_new) == (first.token, False)
        headers = {"authorization": second.token}
        apps = (await http.get("/v1/apps?org_slug=personal", headers=headers)).json()["apps"]
        assert [app["name"] for app in apps] == ["web"]
        assert await second.services.central.apps.find("half") is None
        assert (await http.post("/v1/apps/web/machines", json=body, headers=headers)).status_code == 200


async def test_a_stop_does_not_wait_for_those_who_wait(live: Live) -> None:
    async with asyncio.timeout(WAIT_S / 2), asyncio.TaskGroup() as group:
        waiting = group.create_task(live.http.get(f"{live.url}/wait?state=stopped&timeout={WAIT_S}"))
        following = group.create_task(live.http.get(f"{live.url}/logs?follow=true"))
        await until(lambda: len(live.server.http.server_state.tasks) == 2)
        live.server.stop()
    assert waiting.result().status_code == 503
    assert following.result().status_code == 200


async def test_a_client_that_leaves_ends_its_wait(live: Live) -> None:
    task = asyncio.ensure_future(live.http.get(f"{live.url}/wait?state=stopped&timeout={WAIT_S}"))
    tasks = live.server.http.server_state.tasks
    await until(lambda: len(tasks) == 1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await live.http.aclose()
    await until(lambda: not tasks)


def events(log: Path) -> list[str]:
    """Of the lines that are complete."""
    text = log.read_text()
    return [json.loads(line)["event"] for line in text[: text.rfind("\n") + 1].splitlines()]


Start = Callable[[], tuple[subprocess.Popen[str], str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a server process on the test's directory and returns it with its URL; none outlives the test."""
    processes: list[subprocess.Popen[str]] = []

    def run() -> tuple[subprocess.Popen[str], str]:
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(tmp_path)], stdout=subprocess.PIPE, stderr=log, text=True
            )
        processes.append(process)
        assert process.stdout is not None
        return process, process.stdout.readline().strip()

    yield run
    for process in processes:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_sigterm_ends_it_with_zero(tmp_path: Path, start: Start) -> None:
    process, url = start()
    assert httpx2.get(f"{url}/healthz", **DIRECT).status_code == 200
    process.send_signal(signal.SIGUSR1)
    process.send_signal(signal.SIGHUP)
    assert httpx2.get(f"{url}/readyz", **DIRECT).status_code == 200
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 0
    found = events(tmp_path / "log")
    assert found[:2] == ["recovered", "ready"]
    assert "task" in found
    assert "nothing is reloaded on SIGHUP" in found
    assert found[-1] == "stopped; machines go on running"
    assert not (tmp_path / "server.json").exists()


def test_a_second_sigterm_does_not_wait(tmp_path: Path, start: Start) -> None:
    process, url = start()
    host, port = url.removeprefix("http://").split(":")
    token = (tmp_path / "token").read_text().strip()
    with socket.create_connection((host, int(port))) as slow:
        slow.sendall(f"POST /v1/apps HTTP/1.1\r\nhost: x\r\nauthorization: {token}\r\n".encode())
        slow.sendall(b"content-length: 10\r\n\r\nhalf")
        deadline = time.monotonic() + PATIENCE_S
        while (
            "read_body" not in httpx2.get(f"{url}/-/tasks", headers={"authorization": token}, **DIRECT).text
        ):
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGTERM)
        # A second one that comes before the first was heard would be one with it.
        while "stopping" not in events(tmp_path / "log"):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0


def test_kill_9_leaves_a_directory_that_starts_again(start: Start) -> None:
    process, _ = start()
    process.kill()
    process.wait(PATIENCE_S)
    again, url = start()
    assert httpx2.get(f"{url}/readyz", **DIRECT).status_code == 200
    again.terminate()
    assert again.wait(PATIENCE_S) == 0
