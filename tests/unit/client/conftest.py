"""A server that answers from a list."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx2
import pytest

from midge.client.client import Client
from midge.client.endpoint import Endpoint, Sourced
from midge.client.transport import Transport

Answer = httpx2.Response | Exception


class Script:
    """Gives the answers one after the other, and keeps the requests and the pauses between them."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.requests: list[httpx2.Request] = []
        self.pauses: list[float] = []
        self.now = 0.0
        # Called with each request; a test may let time pass here.
        self.on_request: Callable[[httpx2.Request], None] = lambda request: None

    def handle(self, request: httpx2.Request) -> httpx2.Response:
        request.read()
        self.requests.append(request)
        self.on_request(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def client(self, url: str = "http://127.0.0.1:4280", token: str = "secret") -> Client:
        endpoint = Endpoint(Sourced(url, "test"), Sourced(token, "test"))
        transport = Transport(
            endpoint,
            http=httpx2.MockTransport(self.handle),
            pause=self.pauses.append,
            uniform=lambda: 1.0,
        )
        return Client(endpoint, transport=transport, monotonic=lambda: self.now)


@pytest.fixture
def script() -> Iterator[Script]:
    yield Script()
