"""What one run of a command works with: its options, the environment, the output, and the client when it is needed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from midge.cli.exits import UsageFailure
from midge.cli.output import Output, Style

if TYPE_CHECKING:
    from midge.client.client import Client
    from midge.client.contexts import ContextFile
    from midge.client.endpoint import Endpoint, Wanted

# Longest token read from stdin, in characters; a mistaken file must not be swallowed whole.
TOKEN_MAX = 8192

ClientFactory = Callable[["Endpoint", "Session"], "Client"]


class Session:
    """Everything is lazy: `midge --version` neither reads a file nor imports an HTTP client."""

    def __init__(
        self,
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        make_client: ClientFactory | None = None,
    ) -> None:
        self.env = os.environ if env is None else env
        self._cwd = cwd
        self._make_client = make_client or _make_client
        self._client: Client | None = None
        self._given: dict[str, str] = {}
        self._secret: str | None = None
        self.out = Output(self._style_of_env(), self.env)

    @property
    def cwd(self) -> Path:
        return self._cwd if self._cwd is not None else Path.cwd()

    def apply(self, values: Mapping[str, Any]) -> None:
        """Takes global options: booleans shape the output, the others name the server."""
        style = self.out.style
        flags = {name: True for name in ("json", "quiet", "verbose", "debug") if values.get(name)}
        if values.get("no_color"):
            style = replace(style, colour=False)
        self.out.style = replace(style, **flags)
        self._given.update(
            {name: str(values[name]) for name in ("context", "url", "token") if values.get(name)}
        )

    def wanted(self) -> Wanted:
        """What the command line said about the server; reads the token from stdin if told to."""
        from midge.client.endpoint import Wanted

        return Wanted(
            url=self._given.get("url", ""),
            context=self._given.get("context", ""),
            token=self._token_of_stdin(),
        )

    def endpoint(self) -> Endpoint:
        """See `midge.client.endpoint.resolve`."""
        from midge.client.endpoint import resolve

        return resolve(self.wanted(), self.env, self.cwd, self.context_file())

    def endpoint_or_none(self) -> Endpoint | None:
        """As `endpoint`, for settings that do without a server."""
        from midge.errors import NotFound

        try:
            return self.endpoint()
        except NotFound:
            return None

    def context_file(self) -> ContextFile:
        from midge.client.contexts import ContextFile

        return ContextFile.of_user(self.env)

    @property
    def client(self) -> Client:
        """The one client of this run. Raises what `endpoint` raises."""
        if self._client is None:
            self._client = self._make_client(self.endpoint(), self)
        return self._client

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def _style_of_env(self) -> Style:
        return Style(json=_true(self.env.get("MIDGE_JSON")), debug=_true(self.env.get("MIDGE_DEBUG")))

    def _token_of_stdin(self) -> str:
        given = self._given.get("token", "")
        if not given:
            return ""
        if given != "-":
            raise UsageFailure(
                "--token takes only '-': a token on the command line is visible to every user of the host",
                hint="set MIDGE_API_TOKEN, or pipe it: `midge --token - … < token`",
            )
        if self._secret is None:
            self._secret = read_secret()
        return self._secret


def read_secret() -> str:
    """A secret from stdin, without the line's end."""
    return sys.stdin.readline(TOKEN_MAX).strip()


def _true(value: str | None) -> bool:
    return (value or "").lower() in ("1", "true", "yes", "on")


def _make_client(endpoint: Endpoint, session: Session) -> Client:
    from midge.client.client import Client
    from midge.client.request import Request
    from midge.client.transport import Transport
    from midge.errors import MidgeError

    def observe(request: Request, sent: int, outcome: int | MidgeError) -> None:
        if session.out.style.debug:
            again = f" (send {sent})" if sent > 1 else ""
            session.out.detail(f"{request.method} {request.path} -> {outcome}{again}")

    return Client(endpoint, transport=Transport(endpoint, observe=observe))
