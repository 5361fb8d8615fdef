"""Requests to one registry: authentication, redirects, retries, and what each failure means.

    request ─► 401 + challenge ─► token ─► request again ─► redirect to a storage host (without our credentials)

Credentials go to the registry itself and to the token endpoint it names, never to a host a redirect leads to.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import msgspec

from midge.clock import Clock, SystemClock
from midge.errors import ImageInvalid, ImageNotFound, MidgeError, RegistryUnavailable
from midge.images.auth import (
    DEFAULT_TOKEN_LIFE_S,
    TOKEN_SLACK_S,
    Challenge,
    Credentials,
    Token,
    find,
    parse_challenge,
    read_auth_file,
)

# Redirects in a row; registries use one, to their storage.
_REDIRECTS_MAX = 5
# Bytes of a token answer; real ones are 2 to 8 KiB.
_TOKEN_BYTES = 64 * 1024
# Tokens remembered, one per registry and repository; the oldest goes first.
_TOKENS_MAX = 256
# A proxy from the environment would look for these on its own host.
_NEVER_PROXIED = ("all://localhost", "all://127.0.0.1", "all://[::1]")
_REDIRECT = frozenset({301, 302, 303, 307, 308})
# Causes of a failed connection that are looked at; a client wraps the system's error three times.
_CAUSES_MAX = 8
_USER_AGENT = "midge"


class RegistryConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach registries.

    Attributes:
        insecure: registries (host or host:port) spoken to by plain HTTP; loopback addresses always are.
        auth_file: a file like docker's config.json.
        credentials: by registry; these win over the file's.
        connect_timeout_s, read_timeout_s: until connected, and between two pieces of an answer.
        tries: of one small request; backoff_s is doubled from one to the next.
    """

    insecure: frozenset[str] = frozenset()
    auth_file: Path | None = None
    credentials: dict[str, Credentials] = {}
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 30.0
    tries: int = 4
    backoff_s: float = 0.25


class RegistryHttp:
    """An HTTP client that knows registries' habits. Open it with ``async with``, or `aclose` it."""

    def __init__(
        self,
        config: RegistryConfig,
        *,
        transport: httpx2.AsyncBaseTransport | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.config = config
        self._transport = transport
        self._clock = clock or SystemClock()
        self._client: httpx2.AsyncClient | None = None
        self._tokens: dict[tuple[str, str], tuple[str, float]] = {}

    async def aclose(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    def base(self, registry: str) -> str:
        """The registry's URL: plain HTTP for loopback and where the configuration says so."""
        scheme = "http" if self._is_insecure(registry) else "https"
        return f"{scheme}://{registry}"

    def _is_insecure(self, registry: str) -> bool:
        host = httpx2.URL(f"http://{registry}").host
        if registry in self.config.insecure or host in self.config.insecure or host == "localhost":
            return True
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False

    @asynccontextmanager
    async def get(
        self, registry: str, repository: str, path: str, headers: Mapping[str, str]
    ) -> AsyncIterator[httpx2.Response]:
        """One GET with authentication and redirects; the body is not read yet.

        Raises:
            ImageNotFound: 404, or access denied.
            RegistryUnavailable: no connection, a timeout, or the registry answers with an error of its own.
        """
        url = f"{self.base(registry)}/v2/{repository}/{path}"
        what = _subject(registry, repository, path)
        try:
            response = await self._authenticated(registry, repository, url, headers)
            try:
                _raise_for_status(response, what)
                yield response
            finally:
                await response.aclose()
        except httpx2.TimeoutException as error:
            raise RegistryUnavailable(f"registry {registry} does not answer in time") from error
        except (httpx2.TransportError, httpx2.InvalidURL, httpx2.DecodingError) as error:
            raise RegistryUnavailable(
                f"cannot talk to registry {registry}: {_reason(error)}",
                hint="check its name, the network and its certificate",
            ) from error

    async def read(
        self, registry: str, repository: str, path: str, headers: Mapping[str, str], most_bytes: int
    ) -> tuple[bytes, httpx2.Headers]:
        """A small document, retried while the registry is unavailable.

        Raises:
            ImageInvalid: it is larger than `most_bytes`.
            ImageNotFound, RegistryUnavailable: as `get`.
        """
        for attempt in range(self.config.tries):
            try:
                async with self.get(registry, repository, path, headers) as response:
                    return await _limited(response, most_bytes, f"{registry}/{repository}"), response.headers
            except RegistryUnavailable:
                if attempt + 1 >= self.config.tries:
                    raise
                await asyncio.sleep(self.config.backoff_s * 2**attempt)
        raise RegistryUnavailable(f"registry {registry} was not asked: zero tries are configured")

    async def _authenticated(
        self, registry: str, repository: str, url: str, headers: Mapping[str, str]
    ) -> httpx2.Response:
        key = (registry, repository)
        authorization = self._remembered(key)
        response = await self._follow(url, headers, authorization)
        if response.status_code != 401 or not _same_origin(str(response.url), url):
            # A challenge from a host we were redirected to is not answered: it is not the registry's.
            return response
        challenge = parse_challenge(response.headers.get("www-authenticate", ""))
        await response.aclose()
        self._tokens.pop(key, None)
        if challenge is None:
            raise ImageNotFound(
                f"registry {registry} denies access to {repository} and names no way to log in"
            )
        authorization = await self._answer(registry, repository, challenge)
        return await self._follow(url, headers, authorization)

    async def _follow(
        self, url: str, headers: Mapping[str, str], authorization: str | None
    ) -> httpx2.Response:
        """Sends a GET and follows redirects; credentials stay with the first origin."""
        target = httpx2.URL(url)
        client = self._open()
        for _ in range(_REDIRECTS_MAX + 1):
            sent = dict(headers)
            if authorization is not None and _same_origin(str(target), url):
                sent["Authorization"] = authorization
            response = await client.send(client.build_request("GET", target, headers=sent), stream=True)
            location = response.headers.get("location")
            if response.status_code not in _REDIRECT or not location:
                return response
            await response.aclose()
            following = target.join(location)
            if following.scheme not in ("http", "https") or (
                target.scheme == "https" and following.scheme == "http"
            ):
                raise RegistryUnavailable(f"{target.host} redirects to {following.scheme}, which is refused")
            if following.userinfo:
                following = following.copy_with(userinfo=b"")
            target = following
        raise RegistryUnavailable(f"{httpx2.URL(url).host} redirects more than {_REDIRECTS_MAX} times")

    async def _answer(self, registry: str, repository: str, challenge: Challenge) -> str:
        """The Authorization header a challenge asks for."""
        credentials = await self._credentials(registry)
        if challenge.scheme == "basic":
            if credentials is None:
                raise ImageNotFound(
                    f"registry {registry} wants a user name and password for {repository}",
                    hint="log in to it",
                )
            self._remember((registry, repository), credentials.basic(), None)
            return credentials.basic()
        token = await self._token(registry, repository, challenge, credentials)
        header = f"Bearer {token.value}"
        self._remember((registry, repository), header, token.expires_in)
        return header

    async def _token(
        self, registry: str, repository: str, challenge: Challenge, credentials: Credentials | None
    ) -> Token:
        realm = httpx2.URL(challenge.parameters.get("realm", ""))
        secure = realm.scheme == "https"
        if not realm.host or not (
            secure or (realm.scheme == "http" and self._is_insecure(realm.netloc.decode()))
        ):
            raise RegistryUnavailable(f"registry {registry} names no usable token endpoint")
        query = {"scope": challenge.parameters.get("scope", f"repository:{repository}:pull")}
        if "service" in challenge.parameters:
            query["service"] = challenge.parameters["service"]
        headers = {"Authorization": credentials.basic()} if credentials is not None else {}
        url = realm.copy_merge_params(query)
        response = await self._follow(str(url), {}, headers.get("Authorization"))
        try:
            if response.status_code in (400, 401, 403, 404):
                raise ImageNotFound(
                    f"{repository} does not exist in {registry}, or access is denied",
                    hint="check the name; log in to the registry if it is private",
                )
            _raise_for_status(response, realm.host)
            body = await _limited(response, _TOKEN_BYTES, realm.host)
        finally:
            await response.aclose()
        try:
            token = msgspec.json.decode(body, type=Token)
        except msgspec.MsgspecError as error:
            raise RegistryUnavailable(f"the token endpoint of {registry} answers nonsense") from error
        if not token.value or not token.value.isascii() or not token.value.isprintable():
            raise RegistryUnavailable(f"the token endpoint of {registry} gives no token")
        return token

    async def _credentials(self, registry: str) -> Credentials | None:
        found = find(registry, self.config.credentials)
        if found is None and self.config.auth_file is not None:
            found = find(registry, await asyncio.to_thread(read_auth_file, self.config.auth_file))
        return found

    def _remembered(self, key: tuple[str, str]) -> str | None:
        header, until = self._tokens.get(key, ("", 0.0))
        return header if header and self._clock.monotonic() < until else None

    def _remember(self, key: tuple[str, str], header: str, life_s: int | None) -> None:
        life = float("inf") if life_s is None else max(life_s, DEFAULT_TOKEN_LIFE_S) - TOKEN_SLACK_S
        while len(self._tokens) >= _TOKENS_MAX:
            self._tokens.pop(next(iter(self._tokens)))
        self._tokens[key] = (header, self._clock.monotonic() + life)

    def _open(self) -> httpx2.AsyncClient:
        if self._client is None:
            self._client = httpx2.AsyncClient(
                transport=self._transport,
                follow_redirects=False,
                headers={"User-Agent": _USER_AGENT, "Accept-Encoding": "identity"},
                timeout=httpx2.Timeout(self.config.read_timeout_s, connect=self.config.connect_timeout_s),
                mounts=dict.fromkeys(_NEVER_PROXIED),
            )
        return self._client


def _reason(error: BaseException) -> str:
    """Why a connection failed, in words: the system's own error is some causes further down."""
    causes: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and len(causes) < _CAUSES_MAX:
        causes.append(current)
        current = current.__cause__ or current.__context__
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted: {cause.verify_message}"
        if isinstance(cause, ssl.SSLError):
            return f"TLS failed: {(cause.reason or str(cause)).lower().replace('_', ' ')}"
        if isinstance(cause, socket.gaierror):
            return f"its name cannot be looked up: {str(cause.strerror).lower()}"
        if isinstance(cause, OSError) and cause.errno is not None and cause.errno in errno.errorcode:
            return os.strerror(cause.errno).lower()
    return str(error) or type(error).__name__


def _same_origin(one: str, other: str) -> bool:
    a, b = httpx2.URL(one), httpx2.URL(other)
    default = {"http": 80, "https": 443}
    return (a.scheme, a.host, a.port or default.get(a.scheme)) == (
        b.scheme,
        b.host,
        b.port or default.get(b.scheme),
    )


def _subject(registry: str, repository: str, path: str) -> str:
    """What a request is about, as people write it: the repository, with the tag or digest that is asked for."""
    kind, _, version = path.partition("/")
    separator = "@" if ":" in version else ":"
    wanted = f"{separator}{version}" if kind in ("manifests", "blobs") and version else ""
    return f"{registry}/{repository}{wanted}"


def _raise_for_status(response: httpx2.Response, what: str) -> None:
    status = response.status_code
    if status < 300 or status == 416:
        return
    error: MidgeError
    if status in (401, 403):
        error = ImageNotFound(
            f"{what} does not exist, or access is denied", hint="log in to the registry if it is private"
        )
    elif status == 404:
        error = ImageNotFound(f"{what} does not exist in its registry", hint="check name and tag")
    elif status == 429:
        error = RegistryUnavailable(
            f"the registry of {what} limits our requests", hint="log in, or try again later"
        )
    else:
        error = RegistryUnavailable(f"the registry of {what} answers with status {status}")
    error.details["http_status"] = status
    raise error


async def _limited(response: httpx2.Response, most_bytes: int, what: str) -> bytes:
    body = b""
    async for piece in response.aiter_raw():
        body += piece
        if len(body) > most_bytes:
            raise ImageInvalid(f"a document of {what} has more than {most_bytes} bytes")
    return body
