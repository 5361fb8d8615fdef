"""How an error is shown: what failed, why, what to do, and the request to quote.

  error: cannot start machine 3d8a40c1f0b2e7
    why: insufficient memory available to fulfill request
   hint: stop another machine, or ask for less with `--memory`
request: 01JZ0D0Q6VX3M4N5P6R7S8T9VW
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from midge.cli import exits
from midge.cli.output import Output, dump
from midge.cli.table import printable
from midge.client.failures import code_of, request_id_of
from midge.errors import MidgeError

# Causes shown; a chain is a handful long unless something is wrong with it.
CAUSES_MAX = 8


class Failed(MidgeError):
    """What a command could not do; the cause says why and decides the exit code."""

    code = "failed"


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Names the object and the verb of whatever fails inside: ``cannot {what}``."""
    try:
        yield
    except (exits.UsageFailure, exits.Refused, Failed):
        raise
    except MidgeError as error:
        raise Failed(f"cannot {what}") from error


def decisive(error: BaseException) -> BaseException:
    """The error that decides: the first below what `doing` added."""
    while isinstance(error, Failed) and error.__cause__ is not None:
        error = error.__cause__
    return error


def hint_of(error: BaseException) -> str:
    """The first hint of the chain."""
    return next((link.hint for link in _chain(error) if isinstance(link, MidgeError) and link.hint), "")


def as_json(error: BaseException, exit_code: int) -> dict[str, Any]:
    """The document of an error. Members are added over time, never renamed."""
    return {
        "error": {
            "code": code_of(decisive(error)),
            "message": ": ".join(_texts(error)),
            "hint": hint_of(error),
            "request_id": request_id_of(error),
            "exit_code": exit_code,
        }
    }


def show(error: BaseException, exit_code: int, out: Output) -> None:
    """Writes the error to stderr."""
    if out.json:
        out.error_line(dump(as_json(error, exit_code)))
    else:
        for name, text in _parts(error):
            label = f"{name}:"
            styled = out.styled(label, "red" if name == "error" else "bold", err=True)
            out.error_line(
                " " * (9 - len(label)) + styled + " " + text if name != "error" else f"{styled} {text}"
            )
    if out.style.debug:
        out.error_line("".join(traceback.format_exception(error)).rstrip())


def _parts(error: BaseException) -> Iterator[tuple[str, str]]:
    what, *why = _texts(error)
    yield "error", what
    if why:
        yield "why", ": ".join(why)
    hint = hint_of(error)
    if hint:
        yield "hint", printable(hint)
    request_id = request_id_of(error)
    if request_id:
        yield "request", printable(request_id)


def _texts(error: BaseException) -> list[str]:
    texts: list[str] = []
    for link in _chain(error):
        text = printable(str(link)) or type(link).__name__
        if not isinstance(link, MidgeError) and not isinstance(link, OSError) and link is not error:
            # A library's exception: its name says more than its text alone.
            text = f"{type(link).__name__}: {text}" if str(link) else type(link).__name__
        if text not in texts:
            texts.append(text)
    return texts


def _chain(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    for _ in range(CAUSES_MAX):
        if current is None:
            return
        yield current
        current = current.__cause__
