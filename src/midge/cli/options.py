"""Options that several commands share, so that a flag has one meaning."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

from midge.cli.lazy import Command, PassThrough
from midge.cli.session import Session

F = TypeVar("F", bound=Callable[..., Any])

# How long commands wait for a machine unless told otherwise, in seconds: a cold start with a pull fits.
WAIT_TIMEOUT_S = 300.0


# MiB in each.
_MEMORY_UNITS = {"": 1, "m": 1, "mb": 1, "mi": 1, "mib": 1, "g": 1024, "gb": 1024, "gi": 1024, "gib": 1024}


class Duration(click.ParamType[float]):
    """``90``, ``90s``, ``1m30s``: seconds as a float."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from midge.errors import InvalidInput
        from midge.machine.duration import seconds

        if isinstance(value, float):
            return value
        try:
            return seconds(str(value), field="duration", bare_number_unit_s=1.0)
        except InvalidInput:
            self.fail(f"{value!r} is not a duration: write it as 90s or 1m30s", param, ctx)


class Memory(click.ParamType[int]):
    """``512``, ``512mb``, ``2gb``: MiB as an integer."""

    name = "memory"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", str(value).strip().lower())
        if match is None or match[2] not in _MEMORY_UNITS:
            self.fail(f"{value!r} is not a size of memory: write it as 512 (MiB), 512mb or 2gb", param, ctx)
        return int(float(match[1]) * _MEMORY_UNITS[match[2]])


def command(name: str, **options: Any) -> Callable[[Callable[..., Any]], Command]:
    """A command whose function gets the session first."""
    return _decorate(Command, name, **options)


def pass_through(name: str, **options: Any) -> Callable[[Callable[..., Any]], Command]:
    """A command that ends in another command line, see `PassThrough`."""
    return _decorate(PassThrough, name, **options)


def _decorate(kind: type[Command], name: str, **options: Any) -> Callable[[Callable[..., Any]], Command]:
    def wrap(function: Callable[..., Any]) -> Command:
        @functools.wraps(function)
        def with_session(*args: Any, **kwargs: Any) -> Any:
            session: Session = click.get_current_context().find_root().obj
            code = function(session, *args, **kwargs)
            if isinstance(code, int) and code:
                click.get_current_context().exit(code)

        return click.command(name, cls=kind, **options)(with_session)

    return wrap


def app_option(function: F) -> F:
    return click.option(
        "-a",
        "--app",
        "app",
        metavar="APP",
        default="",
        help="The app. [env: MIDGE_APP, FLY_APP; file: fly.toml]",
    )(function)


def org_option(function: F) -> F:
    return click.option(
        "-o", "--org", "org", metavar="ORG", default="", help="The organization. [env: MIDGE_ORG, FLY_ORG]"
    )(function)


def region_option(function: F) -> F:
    return click.option(
        "-r",
        "--region",
        "region",
        metavar="REGION",
        default="",
        help="The region. [env: MIDGE_REGION, FLY_REGION]",
    )(function)


def yes_option(function: F) -> F:
    return click.option("-y", "--yes", is_flag=True, help="Do not ask.")(function)


def machine_argument(function: F) -> F:
    return click.argument("machine", metavar="MACHINE", help="Id, the first digits of it, or name.")(function)


def machines_argument(function: F) -> F:
    return click.argument(
        "machines",
        metavar="MACHINE...",
        nargs=-1,
        required=True,
        help="Ids, the first digits of them, or names.",
    )(function)


def watch_option(function: F) -> F:
    return click.option(
        "-w", "--watch", is_flag=True, help="Show it again whenever it changes; NDJSON with --json."
    )(function)


def wait_timeout_option(function: F) -> F:
    return click.option(
        "--wait-timeout",
        type=Duration(),
        default=f"{WAIT_TIMEOUT_S:g}s",
        show_default=True,
        metavar="DURATION",
        help="How long to wait.",
    )(function)


def detach_option(function: F) -> F:
    return click.option(
        "-d", "--detach", "--no-wait", "detach", is_flag=True, help="Do not wait; print the id."
    )(function)
