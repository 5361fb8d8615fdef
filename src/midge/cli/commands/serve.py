"""`midge serve`: the server of this host, in the foreground."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

import click
import msgspec

from midge.cli.failure import doing
from midge.cli.options import command
from midge.cli.session import Session
from midge.server.settings import Settings, load_settings, names

if TYPE_CHECKING:
    from midge.server.assembly import RunningServer

# Shorter names that people type.
_SHORT = {"allow_plaintext_listen": ("--allow-plaintext",)}


def _options(function: Any) -> Any:
    """One flag for each setting, from the struct that also makes the file and the variables."""
    hints = get_type_hints(Settings, include_extras=True)
    for name in reversed(names()):
        kind, *details = get_args(hints[name]) if hasattr(hints[name], "__metadata__") else (hints[name],)
        meta = next((part for part in details if isinstance(part, msgspec.Meta)), msgspec.Meta())
        flags = [f"--{name.replace('_', '-')}", *_SHORT.get(name, ())]
        help = f"{meta.description} [env: MIDGE_{name.upper()}]"
        function = click.option(name, *flags, default=None, help=help, **_type(kind))(function)
    return function


def _type(kind: Any) -> dict[str, Any]:
    if kind is bool:
        return {"is_flag": True}
    if get_origin(kind) is Literal:
        return {"type": click.Choice(list(get_args(kind)))}
    return {"type": kind}


@command("serve")
@click.option("--config", "file", metavar="FILE", default="", help="A file of settings. [env: MIDGE_CONFIG]")
@_options
def serve(session: Session, file: str, **flags: Any) -> int:
    """Run a server on this host, in the foreground. Ctrl-C ends it and leaves machines running."""
    loaded = load_settings(flags, session.env, Path(file) if file else None)
    from midge.cli.host import open_local_host
    from midge.server.serve import run

    def ready(server: RunningServer) -> None:
        _announce(session, server)

    with doing("serve"):
        return run(loaded.settings, open_local_host, on_ready=ready)


def _announce(session: Session, server: RunningServer) -> None:
    """The token itself only on a terminal, and only when it is new: logs are read by many."""
    out = session.out
    token_file = str(server.paths.token)
    if out.json:
        out.record({"url": server.url, "token_file": token_file})
        return
    if out.quiet:
        out.line(server.url)
        return
    out.line(f"serving {server.url}")
    if server.token_is_new and sys.stdout.isatty():
        out.line(f"token   {server.token}")
    out.line(f"token file {token_file}")
    out.line("next: midge machine run debian echo hi")
