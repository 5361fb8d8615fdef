"""What a command prints, and where.

stdout gets what was asked for, stderr everything else: notes, progress, warnings, errors. With ``--json`` stdout
holds one document, or one document a line for streams, and stderr one document for an error.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, TextIO

from midge.cli import table

_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}

# Continuous integration sets one of these; a line that is redrawn becomes noise in its logs.
CI_VARIABLES = ("CI", "GITHUB_ACTIONS", "GITLAB_CI", "BUILDKITE", "JENKINS_URL", "TF_BUILD")

CLEAR_SCREEN = "\x1b[H\x1b[2J"


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """How to print. `colour` None: find out from the environment and the terminal."""

    json: bool = False
    quiet: bool = False
    verbose: bool = False
    debug: bool = False
    colour: bool | None = None


class Output:
    """Writes to stdout and stderr as `style` says. Streams are looked up late, so that tests may replace them."""

    def __init__(self, style: Style, env: Mapping[str, str]) -> None:
        self.style = style
        self._env = env

    @property
    def json(self) -> bool:
        return self.style.json

    @property
    def quiet(self) -> bool:
        return self.style.quiet

    def line(self, text: str = "") -> None:
        """A line of what was asked for."""
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def raw(self, data: bytes, *, to_stderr: bool = False) -> None:
        """Bytes of a program's output, untouched."""
        stream = self._binary(sys.stderr if to_stderr else sys.stdout)
        stream.write(data)
        stream.flush()

    def document(self, value: Any) -> None:
        """The one JSON document of a command."""
        self.line(dump(value, indent=2))

    def record(self, value: Any) -> None:
        """One JSON document of a stream."""
        self.line(dump(value))

    def table(self, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        header, *body = table.render(headers, rows)
        self.line(self.styled(header, "bold"))
        for line in body:
            self.line(line)

    def pairs(self, pairs: Mapping[str, str]) -> None:
        for line in table.render_pairs(pairs):
            self.line(line)

    def note(self, text: str) -> None:
        """Something worth knowing that nobody asked for; silent with --quiet and --json."""
        if not (self.quiet or self.json):
            self.error_line(text)

    def warn(self, text: str) -> None:
        if not self.json:
            self.error_line(f"{self.styled('warning:', 'yellow', err=True)} {text}")

    def detail(self, text: str) -> None:
        """For --verbose."""
        if self.style.verbose or self.style.debug:
            self.error_line(self.styled(text, "dim", err=True))

    def error_line(self, text: str) -> None:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def clear(self) -> None:
        sys.stdout.write(CLEAR_SCREEN)

    def styled(self, text: str, style: str, *, err: bool = False) -> str:
        if not self.colours(sys.stderr if err else sys.stdout):
            return text
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m"

    def colours(self, stream: TextIO) -> bool:
        """Flag, then NO_COLOR, CLICOLOR_FORCE, CLICOLOR, TERM, then whether it is a terminal."""
        if self.style.colour is not None:
            return self.style.colour
        env = self._env
        if env.get("NO_COLOR"):
            return False
        if env.get("CLICOLOR_FORCE", "0") not in ("", "0"):
            return True
        if env.get("CLICOLOR") == "0" or env.get("TERM") == "dumb":
            return False
        return stream.isatty()

    def redraws(self) -> bool:
        """Whether a line on stderr may be redrawn: a terminal, and not a log of continuous integration."""
        in_ci = any(self._env.get(name) for name in CI_VARIABLES)
        return sys.stderr.isatty() and not in_ci and self._env.get("TERM") != "dumb" and not self.quiet

    @staticmethod
    def _binary(stream: TextIO) -> BinaryIO:
        stream.flush()
        return stream.buffer


def dump(value: Any, *, indent: int | None = None) -> str:
    """JSON as people can read it; with escapes where a program's output was no UTF-8."""
    separators = None if indent else (",", ":")
    text = json.dumps(value, indent=indent, separators=separators, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, indent=indent, separators=separators)
    return text


def silence_stdout() -> None:
    """After a reader has gone away (``midge logs | head``): nothing more is written, not even at exit."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())
    os.close(devnull)
