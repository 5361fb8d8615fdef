"""Where mock machines "run": small files under a directory, so that they outlive the worker like real ones."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import msgspec

from midge.clock import rfc3339_ns


class Process(msgspec.Struct, kw_only=True):
    """One running mock machine. `exit_at_ns` is when it ends by itself; `ended` how it was ended."""

    start_id: str
    started_at_ns: int
    exit_at_ns: int | None = None
    ended: dict[str, Any] | None = None
    order: str = ""


class MockHost:
    """Reads and writes the files. Nothing is synced: a host that crashes loses its processes too."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._run = f"{root}/run/"
        self._decoder = msgspec.json.Decoder(Process)

    def open(self) -> None:
        for kind in ("run", "snapshots", "prepared", "failures"):
            (self._root / kind).mkdir(parents=True, exist_ok=True)

    def read(self, machine_id: str) -> Process | None:
        return self._get(self._run + machine_id)

    def write(self, machine_id: str, process: Process) -> None:
        self._put(self._run + machine_id, msgspec.json.encode(process))

    def remove(self, machine_id: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._run + machine_id)  # noqa: PTH108 (a Path costs more than the call; start path)

    def running(self) -> set[str]:
        return {entry.name for entry in os.scandir(self._root / "run") if not entry.name.endswith(".new")}

    def save_snapshot(self, machine_id: str, process: Process) -> Path:
        path = self._root / "snapshots" / machine_id
        self._put(str(path), msgspec.json.encode(process))
        return path

    def load_snapshot(self, machine_id: str) -> Process | None:
        return self._get(f"{self._root}/snapshots/{machine_id}")

    def drop_snapshot(self, machine_id: str) -> None:
        (self._root / "snapshots" / machine_id).unlink(missing_ok=True)

    def prepare(self, machine_id: str) -> None:
        (self._root / "prepared" / machine_id).touch()

    def unprepare(self, machine_id: str) -> None:
        (self._root / "prepared" / machine_id).unlink(missing_ok=True)
        for path in (self._root / "failures").glob(f"{machine_id}.*"):
            path.unlink(missing_ok=True)

    def count_failure(self, machine_id: str, verb: str, limit: int) -> bool:
        """True while `verb` has failed fewer than `limit` times; counts this one."""
        if limit == 0:
            return False
        path = self._root / "failures" / f"{machine_id}.{verb}"
        failed = int(path.read_text()) if path.exists() else 0
        if failed >= limit:
            return False
        path.write_text(str(failed + 1))
        return True

    def leftovers(self) -> dict[str, set[str]]:
        """What lies about, by kind: for the tests that nothing does."""
        return {
            kind: {path.name for path in (self._root / kind).iterdir()}
            for kind in ("run", "snapshots", "prepared", "failures")
        }

    def _get(self, path: str) -> Process | None:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            return self._decoder.decode(os.read(fd, os.fstat(fd).st_size))
        except msgspec.DecodeError:
            return None
        finally:
            os.close(fd)

    @staticmethod
    def _put(path: str, data: bytes) -> None:
        fresh = f"{path}.new"
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, data)
        finally:
            os.close(fd)
        os.rename(fresh, path)  # noqa: PTH104 (as above)


def append_output(path: Path, now_ns: int, text: str) -> None:
    """Adds complete lines to a machine's log, in the CRI log format like the shim's: no two with the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as log:
        log.writelines(
            f"{rfc3339_ns(now_ns + index)} stdout F {line}\n" for index, line in enumerate(text.splitlines())
        )
