"""The command line against a server that answers from a table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from click.testing import CliRunner, Result

from midge.cli.main import root
from midge.cli.session import Session
from midge.client.client import Client
from midge.client.endpoint import Endpoint
from midge.client.retry import NO_RETRIES
from midge.client.transport import Transport

Handler = Callable[[httpx2.Request], httpx2.Response]


class FakeServer:
    """Answers by method and path. What is not in `answers` is not found."""

    def __init__(self, cwd: Path) -> None:
        self.answers: dict[str, Any] = {}
        self.requests: list[httpx2.Request] = []
        self.env = {"MIDGE_URL": "http://127.0.0.1:1", "HOME": str(cwd), "MIDGE_DATA_DIR": str(cwd / "none")}
        self.cwd = cwd

    def handle(self, request: httpx2.Request) -> httpx2.Response:
        request.read()
        self.requests.append(request)
        answer = self.answers.get(f"{request.method} {request.url.path}")
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, httpx2.Response):
            return answer
        if answer is None:
            return httpx2.Response(404, json={"error": "not found"}, headers={"fly-request-id": "01REQUEST"})
        return httpx2.Response(200, json=answer)

    def client(self, endpoint: Endpoint, session: Session) -> Client:
        transport = Transport(endpoint, http=httpx2.MockTransport(self.handle), retries=NO_RETRIES)
        return Client(endpoint, transport=transport)

    def __call__(self, *args: str, input: str | None = None, **env: str) -> Result:
        session = Session(env={**self.env, **env}, cwd=self.cwd, make_client=self.client)
        return CliRunner().invoke(root, list(args), input=input, obj=session, catch_exceptions=False)


@pytest.fixture
def midge(tmp_path: Path) -> FakeServer:
    return FakeServer(tmp_path)


MACHINE: dict[str, Any] = {
    "id": "1857156b526dd8",
    "name": "aged-thunder-7371",
    "state": "started",
    "region": "local",
    "image_ref": {
        "registry": "r",
        "repository": "library/debian",
        "tag": "12",
        "digest": "sha256:" + "c9" * 32,
    },
    "instance_id": "01HEPA330HZ37A78TK080NAK1M",
    "version": "01HEPA330HZ37A78TK080NAK1M",
    "private_ip": "fdaa::2",
    "created_at": "2020-01-01T00:00:00Z",
    "updated_at": "2020-01-01T00:00:00Z",
    "config": {"image": "docker.io/library/debian:12", "guest": {"cpus": 2, "memory_mb": 1024}},
    "events": [
        {
            "id": "01B",
            "type": "exit",
            "status": "stopped",
            "source": "flyd",
            "timestamp": 1_577_836_801_250,
            "request": {
                "exit_event": {
                    "exit_code": 137,
                    "oom_killed": True,
                    "requested_stop": False,
                    "restarting": True,
                },
                "restart_count": 2,
            },
        },
        {
            "id": "01A",
            "type": "launch",
            "status": "created",
            "source": "user",
            "timestamp": 1_577_836_800_000,
            "request": None,
        },
    ],
    "host_status": "ok",
}
