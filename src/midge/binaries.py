"""Where Midge's own programs are.

In this order: the directory in ``MIDGE_BIN_DIR``, ``midge/_bin`` as the wheel has it, ``rust/target/release`` of a
source checkout.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from midge.errors import Unavailable

_PACKAGE = Path(__file__).resolve().parent


class BinaryMissing(Unavailable):
    """A program that belongs to Midge is not there."""

    code = "binary_missing"


def directories(environ: Mapping[str, str] = os.environ) -> list[Path]:
    """Where a program is looked for, best first."""
    own = environ.get("MIDGE_BIN_DIR")
    return [
        *([Path(own)] if own else []),
        _PACKAGE / "_bin",
        _PACKAGE.parent.parent / "rust" / "target" / "release",
    ]


def find(name: str, environ: Mapping[str, str] = os.environ) -> Path:
    """The absolute path of a program such as ``midge-shim``.

    Raises:
        BinaryMissing: it is in none of the directories.
    """
    searched = directories(environ)
    for directory in searched:
        path = directory / name
        if path.is_file() and os.access(path, os.X_OK):
            return path.absolute()
    raise BinaryMissing(
        f"{name} was not found in {', '.join(map(str, searched))}",
        hint="install the wheel, or build it with `cargo build --release` in rust/, or set MIDGE_BIN_DIR",
    )
