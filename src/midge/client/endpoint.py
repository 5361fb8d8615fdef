"""Where the server is, and which token it gets.

    url   flag > MIDGE_URL > FLY_FLAPS_BASE_URL > context > data directory of a local server
    token stdin > MIDGE_API_TOKEN > FLY_API_TOKEN > context > data directory

A token goes only where it belongs: the one of a context to that context's URL, the one of a data directory to the
server that wrote it. A token from the environment goes wherever the caller points.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from midge.client.contexts import Context, ContextFile
from midge.errors import Forbidden, InvalidInput, NotFound

SYSTEM_DATA_DIR = Path("/var/lib/midge")
LOCAL_DATA_DIR = ".midge"

URL_VARIABLES = ("MIDGE_URL", "FLY_FLAPS_BASE_URL")
TOKEN_VARIABLES = ("MIDGE_API_TOKEN", "FLY_API_TOKEN", "FLY_ACCESS_TOKEN")


@dataclass(frozen=True, slots=True)
class Sourced:
    """A setting and where it came from, for `midge config show --origin`."""

    value: str
    origin: str


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server. `ca` is a file of certificates to trust instead of the system's."""

    url: Sourced
    token: Sourced
    ca: str = ""
    context: str = ""

    @property
    def is_loopback(self) -> bool:
        host = urlsplit(self.url.value).hostname or ""
        return host in ("localhost", "::1") or host.startswith("127.")


@dataclass(frozen=True, slots=True)
class LocalServer:
    """What a server on this host wrote into its data directory. `pid` 0: unknown."""

    data_dir: Path
    url: str
    token: str
    pid: int

    @property
    def alive(self) -> bool:
        if self.pid <= 0:
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True


def data_dirs(env: Mapping[str, str], cwd: Path) -> list[Path]:
    """Where a local server may keep its data, best first."""
    named = env.get("MIDGE_DATA_DIR", "")
    return [Path(named)] if named else [SYSTEM_DATA_DIR, cwd / LOCAL_DATA_DIR]


def find_local(env: Mapping[str, str], cwd: Path) -> LocalServer | None:
    """The server of the first data directory that has a live one; else the first that had one.

    Raises:
        Forbidden: there is one, but this user may not read its token.
        InvalidInput: its `server.json` is damaged.
    """
    found: list[LocalServer] = []
    refused: Forbidden | None = None
    for directory in data_dirs(env, cwd):
        file = directory / "server.json"
        try:
            found.append(_local(directory, file, file.read_text("utf-8")))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except PermissionError:
            refused = refused or _unreadable(file)
        except Forbidden as error:
            refused = refused or error
    if not found and refused is not None:
        raise refused
    return next((server for server in found if server.alive), found[0] if found else None)


def _local(directory: Path, file: Path, text: str) -> LocalServer:
    try:
        fields = json.loads(text)
        url, pid = str(fields["url"]), int(fields.get("pid", 0))
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInput(
            f"{file} is damaged", hint="restart the server: it writes the file anew"
        ) from error
    token_file = directory / "token"
    try:
        token = token_file.read_text("utf-8").strip()
    except FileNotFoundError:
        token = ""
    except PermissionError as error:
        raise _unreadable(token_file) from error
    return LocalServer(directory, url, token, pid)


def _unreadable(file: Path) -> Forbidden:
    return Forbidden(
        f"{file} may not be read by this user",
        hint="run the command with sudo, or set MIDGE_URL and MIDGE_API_TOKEN",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the command line said; empty strings for what it did not."""

    url: str = ""
    token: str = ""
    context: str = ""


def resolve(wanted: Wanted, env: Mapping[str, str], cwd: Path, contexts: ContextFile) -> Endpoint:
    """The server to talk to.

    Raises:
        NotFound: nothing names a server, or the context is unknown.
        InvalidInput: the URL is none.
    """
    name, context = _context(wanted, env, contexts)
    url = _url(wanted, env)
    if context is not None and (url is None or (wanted.context and not wanted.url)):
        url = Sourced(context.url, f"context {name}")
    local = None
    if url is None:
        local = find_local(env, cwd)
        if local is None:
            raise NotFound(
                "no server is known",
                hint="start one with `midge serve`, or name one with --url, MIDGE_URL or `midge context add`",
            )
        url = Sourced(local.url, f"{local.data_dir}/server.json")
    check_url(url.value, url.origin)
    token = _token(wanted, env)
    if token is None and context is not None and _same(context.url, url.value) and context.token:
        token = Sourced(context.token, f"context {name}")
    if token is None:
        local = local or _matching_local(url.value, env, cwd)
        token = Sourced(local.token, f"{local.data_dir}/token") if local else Sourced("", "nowhere")
    meant = context is not None and _same(context.url, url.value)
    ca = context.ca if context is not None and meant else ""
    return Endpoint(Sourced(url.value.rstrip("/"), url.origin), token, ca, name if meant else "")


def _context(wanted: Wanted, env: Mapping[str, str], contexts: ContextFile) -> tuple[str, Context | None]:
    name = wanted.context or env.get("MIDGE_CONTEXT", "")
    if name:
        return name, contexts.read().get(name)
    stored = contexts.read()
    return (stored.current, stored.get(stored.current)) if stored.current else ("", None)


def _url(wanted: Wanted, env: Mapping[str, str]) -> Sourced | None:
    if wanted.url:
        return Sourced(wanted.url, "--url")
    return _from_env(URL_VARIABLES, env)


def _token(wanted: Wanted, env: Mapping[str, str]) -> Sourced | None:
    if wanted.token:
        return Sourced(wanted.token, "stdin")
    return _from_env(TOKEN_VARIABLES, env)


def _from_env(names: tuple[str, ...], env: Mapping[str, str]) -> Sourced | None:
    for name in names:
        if env.get(name):
            return Sourced(env[name], name)
    return None


def _matching_local(url: str, env: Mapping[str, str], cwd: Path) -> LocalServer | None:
    try:
        local = find_local(env, cwd)
    except (Forbidden, InvalidInput):
        return None
    return local if local is not None and _same(local.url, url) else None


def _same(a: str, b: str) -> bool:
    return a.rstrip("/") == b.rstrip("/")


def check_url(url: str, origin: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidInput(
            f"{url!r} (from {origin}) is not the URL of a server",
            hint="write it as http://127.0.0.1:4280",
        )
