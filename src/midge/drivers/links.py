"""Which guest is which machine's: one symbolic link each, ``rundir/<machine id> -> s12``.

Guests are made before it is known whose they will be, so they are named after what they have from the beginning: the
number of their network slot.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


class MachineLinks:
    """The links. Made before a guest is told who it is, removed after it is gone."""

    def __init__(self, rundir: Path) -> None:
        self._rundir = rundir

    def link(self, machine_id: str, name: str) -> None:
        """Points a machine at its guest, replacing an older link."""
        draft = self._rundir / f".{machine_id}"
        with contextlib.suppress(FileNotFoundError):
            draft.unlink()
        draft.symlink_to(name)
        draft.rename(self._rundir / machine_id)

    def find(self, machine_id: str) -> str | None:
        """The name of the machine's guest."""
        try:
            return os.readlink(self._rundir / machine_id)  # noqa: PTH115 (a name, not a path)
        except OSError:
            return None

    def unlink(self, machine_id: str) -> None:
        (self._rundir / machine_id).unlink(missing_ok=True)

    def machines(self) -> set[str]:
        return {path.name for path in self._rundir.iterdir() if path.is_symlink() and path.name[0] != "."}

    def claimed(self) -> set[str]:
        """Guests that belong to a machine."""
        return {name for machine_id in self.machines() if (name := self.find(machine_id)) is not None}
