"""What a handler gets, and what it may give back."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Generic, TypeVar

from starlette.requests import HTTPConnection, Request

from midge.api.principal import Principal

if TYPE_CHECKING:
    from midge.api.services import Services

Q = TypeVar("Q")
B = TypeVar("B")

Headers = Sequence[tuple[bytes, bytes]]
NONCE_HEADER = b"fly-machine-lease-nonce"

# The id of the request under way; the log adds it to every line.
current_request_id: ContextVar[str] = ContextVar("midge_request_id", default="")


class Call(Generic[Q, B]):
    """One request: `query` and `body` are decoded, `path` holds the parameters of the path by name.

    `connection` is starlette's view of it: a Request, or a WebSocket that is not accepted yet.
    """

    __slots__ = ("body", "connection", "headers", "path", "principal", "query", "services")

    def __init__(
        self,
        services: Services,
        principal: Principal,
        path: dict[str, str],
        connection: HTTPConnection,
        query: Q,
        body: B,
    ) -> None:
        self.services = services
        self.principal = principal
        self.path = path
        self.connection = connection
        self.headers: Headers = connection.scope["headers"]
        self.query = query
        self.body = body

    def header(self, name: bytes) -> str:
        """A request header by its lower-case name; empty if absent."""
        return find_header(self.headers, name)

    def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body of a `raw_body` route, piece by piece.

        Raises:
            ClientDisconnect: it broke off.
        """
        assert isinstance(self.connection, Request)
        return self.connection.stream()

    @property
    def nonce(self) -> str:
        """The caller's lease nonce, or empty."""
        return find_header(self.headers, NONCE_HEADER)


def find_header(headers: Headers, name: bytes) -> str:
    for key, value in headers:
        if key == name:
            return value.decode("latin-1")
    return ""


T = TypeVar("T")


class Reply(Generic[T]):
    """An answer that is more than a value: another status, more headers.

    A value of type bytes is sent as it is, with its `content_type`; None is an empty body.
    """

    __slots__ = ("content_type", "headers", "status", "value")

    def __init__(
        self,
        value: T,
        *,
        status: int | None = None,
        headers: Headers = (),
        content_type: bytes = b"application/json",
    ) -> None:
        self.value = value
        self.status = status
        self.headers = headers
        self.content_type = content_type


class Stream:
    """An answer whose body comes in pieces. The iterator is closed when the client goes away."""

    __slots__ = ("chunks", "content_type", "headers", "status")

    def __init__(
        self,
        chunks: AsyncGenerator[bytes, None],
        *,
        content_type: bytes = b"application/x-ndjson",
        status: int = 200,
        headers: Headers = (),
    ) -> None:
        self.chunks = chunks
        self.content_type = content_type
        self.status = status
        self.headers = headers
