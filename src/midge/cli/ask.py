"""Questions. They go to stderr, and only to somebody who can answer."""

from __future__ import annotations

import sys

from midge.cli import terminal
from midge.cli.exits import Refused, UsageFailure
from midge.cli.session import Session


def confirm(session: Session, question: str, *, flag: str = "--yes") -> None:
    """Returns when the answer is yes.

    Raises:
        UsageFailure: nobody can be asked; the hint names the flag that answers.
        Refused: the answer is no.
    """
    if not (terminal.stdin_is_terminal() and sys.stderr.isatty()) or session.out.json:
        raise UsageFailure(
            f"this needs a yes: {question}", hint=f"add {flag}: there is no terminal to ask on"
        )
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    answer = sys.stdin.readline()
    if answer.strip().lower() not in ("y", "yes"):
        raise Refused("nothing was done")
