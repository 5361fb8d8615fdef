"""The options that every command takes, before or after its name, always with the same meaning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from midge.cli.session import Session

_PREFIX = "global_"


class _GlobalOption(click.Option):
    """Marked by its class; its value goes to the session and not to the command's function."""


def make() -> list[click.Parameter]:
    """Fresh parameters: click keeps state in them."""
    return [
        _flag("json", "--json", "-j", help="Print JSON; errors too. [env: MIDGE_JSON]"),
        _flag("quiet", "--quiet", "-q", help="Print ids only, and no notes."),
        _flag("verbose", "--verbose", "-v", help="Say more on stderr."),
        _flag("debug", "--debug", help="Show requests and tracebacks on stderr. [env: MIDGE_DEBUG]"),
        _flag("no_color", "--no-color", help="No colours. [env: NO_COLOR, CLICOLOR, CLICOLOR_FORCE]"),
        _value("context", "--context", "NAME", "Use this context. [env: MIDGE_CONTEXT]"),
        _value("url", "--url", "URL", "The server's address. [env: MIDGE_URL, FLY_FLAPS_BASE_URL]"),
        _value(
            "token",
            "--token",
            "-",
            "Only '-': read the token from stdin. [env: MIDGE_API_TOKEN, FLY_API_TOKEN]",
        ),
    ]


def is_global(param: click.Parameter) -> bool:
    return isinstance(param, _GlobalOption)


def take(ctx: click.Context) -> None:
    """Moves the global options of this level into the session; an inner level wins over an outer one."""
    session: Session = ctx.find_root().obj
    values = {
        name.removeprefix(_PREFIX): ctx.params.pop(name)
        for name in list(ctx.params)
        if name.startswith(_PREFIX)
    }
    session.apply({name: value for name, value in values.items() if value})


def _flag(name: str, *declarations: str, help: str) -> click.Option:
    return _GlobalOption([f"{_PREFIX}{name}", *declarations], is_flag=True, help=help)


def _value(name: str, declaration: str, metavar: str, help: str, **attributes: Any) -> click.Option:
    return _GlobalOption(
        [f"{_PREFIX}{name}", declaration], metavar=metavar, help=help, default="", **attributes
    )
