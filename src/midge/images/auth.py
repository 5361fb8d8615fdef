"""Credentials for registries and the bearer-token dance (distribution-spec; docker's token specification)."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

from midge.errors import InvalidInput
from midge.images.reference import DOCKER_HUB

# Seconds a token is used when its issuer does not say (docker's token specification: 60), less some slack.
DEFAULT_TOKEN_LIFE_S = 60
TOKEN_SLACK_S = 5
# An auth file is a few hundred bytes per registry.
_AUTH_FILE_BYTES = 1 << 20
_CHALLENGE_CHARS = 8192
_PARAMETER = re.compile(r'([A-Za-z_]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_HUB_NAMES = frozenset({"docker.io", "index.docker.io", DOCKER_HUB})


class Credentials(msgspec.Struct, frozen=True):
    """A user name and a password or access token."""

    username: str
    password: str

    def __repr__(self) -> str:
        return f"Credentials({self.username!r}, …)"

    def basic(self) -> str:
        """The Authorization header for HTTP basic authentication."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


class Challenge(msgspec.Struct, frozen=True):
    """A WWW-Authenticate header. `scheme` is in lower case."""

    scheme: str
    parameters: dict[str, str]


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """What a token endpoint answers; it may use either name."""

    token: str = ""
    access_token: str = ""
    expires_in: int = DEFAULT_TOKEN_LIFE_S

    @property
    def value(self) -> str:
        return self.token or self.access_token


class _AuthEntry(msgspec.Struct):
    auth: str = ""
    username: str = ""
    password: str = ""


class _AuthFile(msgspec.Struct):
    auths: dict[str, _AuthEntry] = {}


def parse_challenge(header: str) -> Challenge | None:
    """Parses a WWW-Authenticate header; None for anything but ``Bearer`` and ``Basic``."""
    scheme, _, rest = header[:_CHALLENGE_CHARS].strip().partition(" ")
    if scheme.lower() not in ("bearer", "basic"):
        return None
    parameters = {
        key.lower(): re.sub(r"\\(.)", r"\1", quoted) if quoted else plain
        for key, quoted, plain in _PARAMETER.findall(rest)
    }
    return Challenge(scheme.lower(), parameters)


def read_auth_file(path: Path) -> dict[str, Credentials]:
    """Credentials by registry from a file like docker's config.json; none if there is no such file. Blocking.

    Credential helpers are not run: a worker must not start programs a file in a home directory names.

    Raises:
        InvalidInput: the file is damaged.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_AUTH_FILE_BYTES)
    except FileNotFoundError:
        return {}
    try:
        document = msgspec.json.decode(data, type=_AuthFile)
        return {
            _registry_of(key): found
            for key, entry in document.auths.items()
            if (found := _credentials(entry))
        }
    except (msgspec.MsgspecError, UnicodeDecodeError, binascii.Error) as error:
        raise InvalidInput(
            f"the registry auth file {path} is damaged", hint="log in to the registry again"
        ) from error


def find(registry: str, known: Mapping[str, Credentials]) -> Credentials | None:
    """Credentials for a registry; Docker Hub is known by several names."""
    if registry in _HUB_NAMES:
        return next((known[name] for name in sorted(_HUB_NAMES) if name in known), None)
    return known.get(registry)


def _registry_of(key: str) -> str:
    """``https://index.docker.io/v1/`` → ``index.docker.io``."""
    return re.sub(r"^https?://", "", key).partition("/")[0]


def _credentials(entry: _AuthEntry) -> Credentials | None:
    if entry.auth:
        username, colon, password = (
            base64.b64decode(entry.auth, validate=True).decode().rstrip("\0").partition(":")
        )
        return Credentials(username, password) if colon else None
    return Credentials(entry.username, entry.password) if entry.username else None
