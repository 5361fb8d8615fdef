"""How programs on this host find the server: `server.json` and the root token in the data directory."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

import midge
from midge.central.tokens import Tokens
from midge.server.paths import Paths

ROOT_TOKEN = "root"


class ServerFile(msgspec.Struct, kw_only=True, frozen=True):
    url: str
    pid: int
    version: str
    region: str


def write_server_file(paths: Paths, url: str, region: str) -> None:
    content = ServerFile(url=url, pid=os.getpid(), version=midge.__version__, region=region)
    replace_file(paths.server_json, msgspec.json.format(msgspec.json.encode(content)) + b"\n", mode=0o644)


async def ensure_root_token(paths: Paths, tokens: Tokens) -> tuple[str, bool]:
    """The token in the data directory, made at the first start and whenever the file's one is not ours.

    Returns:
        The token, and whether it is new.
    """
    try:
        text = paths.token.read_text("ascii").strip()
    except (FileNotFoundError, UnicodeDecodeError):
        text = ""
    found = await tokens.verify(text)
    if found is not None and found.name == ROOT_TOKEN:
        return text, False
    created = await tokens.create(ROOT_TOKEN)
    replace_file(paths.token, created.encode() + b"\n", mode=0o600)
    await tokens.revoke_named(ROOT_TOKEN, keep=created.split("_")[1])
    return created, True


def replace_file(path: Path, content: bytes, *, mode: int) -> None:
    """Replaces the file by one of this mode; after a crash it is the old or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)  # whatever the umask
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
