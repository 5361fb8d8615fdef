"""What a check is, and the little it may touch."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from midge.cli.session import Session

State = Literal["ok", "warn", "fail", "skip"]

# How long a program may take to tell its version, in seconds.
PROGRAM_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Finding:
    """`fix` is a command or a sentence; empty when there is nothing to do."""

    state: State
    message: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """A named check. It raises nothing but what it cannot foresee; that counts as failed."""

    name: str
    about: str
    run: Callable[[Host], Finding]


def ok(message: str) -> Finding:
    return Finding("ok", message)


def warn(message: str, fix: str) -> Finding:
    return Finding("warn", message, fix)


def fail(message: str, fix: str) -> Finding:
    return Finding("fail", message, fix)


def skip(message: str, fix: str = "") -> Finding:
    return Finding("skip", message, fix)


class Host:
    """This host, through which checks look: tests give another root directory and other programs.

    Args:
        root: in place of ``/`` for all absolute paths.
        data_dir: the server's data directory.
        kernels_dir: where this host's guest kernels are.
    """

    def __init__(
        self,
        session: Session,
        *,
        data_dir: Path,
        kernels_dir: Path,
        root: Path = Path("/"),
        euid: int | None = None,
        which: Callable[[str], str | None] = shutil.which,
    ) -> None:
        self.session = session
        self.data_dir = data_dir
        self.kernels_dir = kernels_dir
        self.euid = os.geteuid() if euid is None else euid
        self._root = root
        self._which = which

    @property
    def env(self) -> Mapping[str, str]:
        return self.session.env

    def path(self, absolute: str) -> Path:
        return self._root / absolute.lstrip("/")

    def text(self, absolute: str) -> str:
        """A file's text, empty if it cannot be read."""
        try:
            return self.path(absolute).read_text("utf-8", "replace")
        except OSError:
            return ""

    def which(self, *names: str) -> str | None:
        """The first of the programs that is there. Also looks where root's programs are."""
        for name in names:
            found = self._which(name) or next(
                (
                    str(path)
                    for folder in ("/usr/sbin", "/sbin")
                    if (path := self.path(folder) / name).is_file()
                ),
                None,
            )
            if found:
                return found
        return None

    def version(self, program: str) -> str:
        """The first line of ``program --version``, empty if it says nothing."""
        try:
            done = subprocess.run(
                [program, "--version"], capture_output=True, text=True, timeout=PROGRAM_TIMEOUT_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return next(iter((done.stdout or done.stderr).splitlines()), "").strip()

    def filesystem(self, name: str) -> bool | None:
        """True: the kernel has it; None: as a module that is not loaded; False: no."""
        if any(line.split()[-1:] == [name] for line in self.text("/proc/filesystems").splitlines()):
            return True
        release = self.text("/proc/sys/kernel/osrelease").strip()
        modules = self.text(f"/lib/modules/{release}/modules.dep")
        return None if f"/{name}.ko" in modules else False
