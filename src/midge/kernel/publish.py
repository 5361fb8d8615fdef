"""Puts directories and files in place so that they are there whole or not at all, also after a power cut.

All are written in a scratch directory on the same file system, synced, and renamed. Several processes may do so
at once. A scratch directory left behind by one that died is never looked at.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


def directory(target: Path, contents: Mapping[str, bytes], *, scratch: Path) -> Path:
    """Makes a directory with these files (relative path to bytes); if `target` exists already, it stays as it is.

    Raises:
        OSError: the disk is full, or no permission.
    """
    if target.is_dir() and any(target.iterdir()):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with _temporary(scratch) as temporary:
        written = temporary / "new"
        written.mkdir()
        for name, data in contents.items():
            path = written / name
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_synced(path, data)
        for path in (*written.rglob("*"), written):
            if path.is_dir():
                _sync(path)
        try:
            written.rename(target)
        except OSError:
            # Somebody else was quicker: a directory that is not empty cannot be renamed over.
            if not target.is_dir():
                raise
        _sync(target.parent)
    return target


def replace(target: Path, data: bytes, *, scratch: Path) -> None:
    """Puts a file in place of another; readers see the one or the other."""
    with _temporary(scratch) as temporary:
        written = temporary / "new"
        _write_synced(written, data)
        written.replace(target)
        _sync(target.parent)


def remove(target: Path, *, scratch: Path) -> None:
    """Removes a directory: it is gone at once, its files a little later.

    Raises:
        FileNotFoundError: there is none.
    """
    with _temporary(scratch) as temporary:
        target.rename(temporary / "old")


@contextmanager
def _temporary(scratch: Path) -> Iterator[Path]:
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch, ignore_cleanup_errors=True) as name:
        yield Path(name)


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("xb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
