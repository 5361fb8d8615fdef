"""Sends requests and waits for the answers, blocking.

Holds what is neither pure nor about a resource: the connection pool, pauses between sends, translation of httpx2's
exceptions. An asynchronous twin differs in this file only.
"""

from __future__ import annotations

import json
import random
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx2

from midge.client.endpoint import Endpoint
from midge.client.failures import TransportError, from_response
from midge.client.request import CONNECT_TIMEOUT_S, USER_AGENT, Answer, Request
from midge.client.retry import RETRIED_STATUSES, RetryPolicy
from midge.errors import MidgeError

# Longest line of a stream, in bytes; the server's log lines are at most 16 KiB before quoting.
LINE_MAX_BYTES = 1024 * 1024

# Told of each send: the request, its number from 1, and the answer's status or the failure.
Observer = Callable[[Request, int, int | MidgeError], None]


class Transport:
    """One server's connections. Opens nothing before the first request; close it with `close`."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        http: httpx2.BaseTransport | None = None,
        retries: RetryPolicy | None = None,
        pause: Callable[[float], None] = time.sleep,
        uniform: Callable[[], float] = random.random,
        observe: Observer | None = None,
    ) -> None:
        self.endpoint = endpoint
        self._http = http
        self._retries = retries or RetryPolicy()
        self._pause = pause
        self._uniform = uniform
        self._observe = observe or _nobody
        self._client: httpx2.Client | None = None

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def send(self, request: Request) -> Answer:
        """The answer, after as many sends as the policy allows.

        Raises:
            TransportError: no answer.
            MidgeError: the class that `failures` finds for the answer.
        """
        sent = 0
        while True:
            sent += 1
            try:
                response = self._once(request)
            except TransportError as error:
                self._observe(request, sent, error)
                failure: MidgeError = error
                repeatable = request.idempotent or isinstance(error.__cause__, httpx2.ConnectError)
            else:
                self._observe(request, sent, response.status_code)
                if response.is_success or response.status_code in request.accepted:
                    return Answer(response.status_code, _json(response), _headers(response))
                failure = from_response(response.status_code, response.content, _headers(response))
                repeatable = request.idempotent and response.status_code in RETRIED_STATUSES
            if not repeatable:
                raise failure
            pause_s = self._retries.pause_s(sent, self._uniform, _retry_after(failure))
            if pause_s is None:
                raise failure
            self._pause(pause_s)

    @contextmanager
    def lines(self, request: Request) -> Iterator[Lines]:
        """The lines of a streamed answer, as they come; the stream is closed on leaving. Sent once."""
        with self._translated(request), self._open().stream(**self._arguments(request)) as response:
            self._observe(request, 1, response.status_code)
            if not response.is_success:
                raise from_response(response.status_code, response.read(), _headers(response))
            yield Lines(self._read_lines(request, response), response)

    def _read_lines(self, request: Request, response: httpx2.Response) -> Iterator[bytes]:
        pending = b""
        with self._translated(request):
            for chunk in response.iter_bytes():
                pending += chunk
                *whole, pending = pending.split(b"\n")
                yield from (line for line in whole if line)
                if len(pending) > LINE_MAX_BYTES:
                    raise TransportError(
                        f"{request.path}: the server sent a line over {LINE_MAX_BYTES} bytes"
                    )
        if pending:
            yield pending

    def _once(self, request: Request) -> httpx2.Response:
        with self._translated(request):
            return self._open().request(**self._arguments(request))

    def _arguments(self, request: Request) -> dict[str, Any]:
        timeout = httpx2.Timeout(request.timeout_s, connect=CONNECT_TIMEOUT_S)
        arguments: dict[str, Any] = {
            "method": request.method,
            "url": self.endpoint.url.value + request.path,
            "params": list(request.query) or None,
            "headers": {**self.headers(), **request.headers},
            "timeout": timeout,
        }
        if request.content is not None:
            arguments["content"] = request.content
        elif request.body is not None:
            arguments["json"] = request.body
        return arguments

    def headers(self) -> dict[str, str]:
        headers = {"user-agent": USER_AGENT, "accept": "application/json"}
        if self.endpoint.token.value:
            headers["authorization"] = f"Bearer {self.endpoint.token.value}"
        return headers

    def tls(self) -> ssl.SSLContext | None:
        """The trust of an https endpoint with its own certificates, else None: the system's."""
        return ssl.create_default_context(cafile=self.endpoint.ca) if self.endpoint.ca else None

    def _open(self) -> httpx2.Client:
        if self._client is None:
            # A proxy from the environment must not be asked for the server on this very host.
            self._client = httpx2.Client(
                transport=self._http,
                verify=self._verify(),
                trust_env=not self.endpoint.is_loopback,
                follow_redirects=False,
            )
        return self._client

    def _verify(self) -> ssl.SSLContext | bool:
        # Loading the system's certificates takes 20 ms, which a plain http endpoint need not pay.
        if self.endpoint.url.value.startswith("http://"):
            return False
        return self.tls() or True

    @contextmanager
    def _translated(self, request: Request) -> Iterator[None]:
        try:
            yield
        except httpx2.ConnectError as error:
            raise TransportError(
                f"no server answers at {self.endpoint.url.value}", hint=self._unreachable_hint()
            ) from error
        except httpx2.TimeoutException as error:
            raise TransportError(
                f"{request.method} {request.path}: no answer within {request.timeout_s or CONNECT_TIMEOUT_S:g} s",
                hint="see `midge status`",
            ) from error
        except httpx2.HTTPError as error:
            raise TransportError(f"{request.method} {request.path}: the connection broke") from error

    def _unreachable_hint(self) -> str:
        if self.endpoint.is_loopback:
            return f"start it with `midge serve` (the address is from {self.endpoint.url.origin})"
        return f"check the address (from {self.endpoint.url.origin}) and the network"


class Lines:
    """Lines of a streamed answer. `abort` may be called by another thread and ends the iteration with an error."""

    def __init__(self, lines: Iterator[bytes], response: httpx2.Response) -> None:
        self._lines = lines
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        return self._lines

    def abort(self) -> None:
        """Wakes a reader that waits for the next line. To close a socket would not: it must be shut down."""
        stream = self._response.extensions.get("network_stream")
        connection = stream.get_extra_info("socket") if stream is not None else None
        if connection is not None:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def _json(response: httpx2.Response) -> Any:
    if not response.content:
        return None
    try:
        return json.loads(response.content)
    except ValueError:
        return response.text


def _headers(response: httpx2.Response) -> dict[str, str]:
    return {name.lower(): value for name, value in response.headers.items()}


def _retry_after(failure: MidgeError) -> float | None:
    value = failure.details.get("retry_after_s")
    return value if isinstance(value, float) else None


def _nobody(request: Request, sent: int, outcome: int | MidgeError) -> None:
    """Nobody looks."""
