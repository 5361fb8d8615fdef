"""The OCI runtime: what its command line looks like, and where its binary comes from.

runc protects itself from containers that overwrite it through /proc/self/exe by binding or copying its binary, and
executing that, in every start. It does not where it runs from a sealed memory file, which nobody can write to: so one
is made when the driver opens, and all starts share it. Saves 1 to 2 of 25 ms a start. (Of the rest no part stands out:
the filter of system calls takes 1.5 ms, /sys/fs/cgroup on a legacy host as much; GOMAXPROCS and GOGC change nothing.)
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import structlog

from midge.drivers.container.spec import CONTROL_FD
from midge.errors import DriverError, NotSupported

Kind = Literal["runc", "crun", "runsc"]

VERSION_TIMEOUT_S = 10.0
BINARY_BYTES_MAX = 256 * 1024 * 1024  # more than any runtime has; a wrong path must not fill the memory
_MFD_EXEC = 0x10  # since Linux 6.3 a file meant to be executed says so (memfd_create(2)); refused before
# Numbers under this belong to a container's standard streams and channel.
_SEALED_FD_MIN = 16
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
# Runtimes that look whether they run from a sealed file.
_SELF_PROTECTING: tuple[Kind, ...] = ("runc", "crun")

_log = structlog.get_logger("midge.container")


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """A runtime that answers.

    Attributes:
        path: its binary.
        sealed: descriptor of the sealed copy, or None.
        version: its own first line, such as ``runc version 1.1.5``.
    """

    kind: Kind
    path: Path
    sealed: int | None
    version: str

    @property
    def mounts_overlay(self) -> bool:
        """Whether it mounts an overlay over / by its configuration; gVisor has a file system of its own."""
        return self.kind != "runsc"

    @property
    def shares_kernel(self) -> bool:
        """Whether its namespaces are this kernel's, so that what is set in them from outside is seen inside at once.

        gVisor copies names and addresses when it starts.
        """
        return self.kind != "runsc"

    @property
    def pass_fds(self) -> tuple[int, ...]:
        return () if self.sealed is None else (self.sealed,)

    def command(self, container_id: str, bundle: Path, state: Path, pid_file: Path) -> tuple[str, ...]:
        """Creates and starts a container, and returns while it runs. Init inherits the channel as CONTROL_FD."""
        program = str(self.path) if self.sealed is None else f"/proc/self/fd/{self.sealed}"
        passing = f"--pass-fd={CONTROL_FD}:{CONTROL_FD}" if self.kind == "runsc" else "--preserve-fds=1"
        return (
            program,
            *("--root", str(state)),
            "run",
            "--detach",
            *("--pid-file", str(pid_file)),
            *("--bundle", str(bundle)),
            passing,
            container_id,
        )

    def close(self) -> None:
        if self.sealed is not None:
            os.close(self.sealed)


async def find(name: str) -> Runtime:
    """The runtime of this name or path, made ready.

    Raises:
        NotSupported: it is not installed, does not answer, or is none we know.
    """
    found = shutil.which(name)
    if found is None:
        raise NotSupported(
            f"container runtime {name} is not installed", hint="apt-get install runc (Debian, Ubuntu)"
        )
    kind = kind_of(found)
    sealed = await asyncio.to_thread(_sealed_copy, found) if kind in _SELF_PROTECTING else None
    if sealed is not None:
        try:
            version = await _version(f"/proc/self/fd/{sealed}", (sealed,))
            return Runtime(kind=kind, path=Path(found), sealed=sealed, version=version)
        except (OSError, DriverError) as error:
            os.close(sealed)
            _log.info("runtime does not run from memory; starts take longer", runtime=found, error=str(error))
    try:
        version = await _version(found)
    except (OSError, DriverError) as error:
        raise NotSupported(
            f"container runtime {found} does not answer", hint=f"try: {found} --version"
        ) from error
    return Runtime(kind=kind, path=Path(found), sealed=None, version=version)


def kind_of(path: str) -> Kind:
    """Which command line a runtime understands, by its file's name. Raises: NotSupported."""
    name = Path(path).name
    for kind in ("runsc", "runc", "crun"):
        if kind in name:
            return kind
    raise NotSupported(f"container runtime {name} is not known", hint="use runc, crun or runsc")


def _sealed_copy(path: str) -> int | None:
    """The binary in a file without a name that cannot be written to any more; None where that is not possible."""
    source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(source).st_size
        if size > BINARY_BYTES_MAX:
            return None
        copy = _memory_file(Path(path).name)
        try:
            done = 0
            while done < size and (count := os.sendfile(copy, source, done, size - done)):
                done += count
            fcntl.fcntl(copy, fcntl.F_ADD_SEALS, _SEALS)
            return fcntl.fcntl(copy, fcntl.F_DUPFD_CLOEXEC, _SEALED_FD_MIN)
        finally:
            os.close(copy)
    except OSError as error:
        _log.info("no sealed copy of the runtime; starts take longer", runtime=path, error=str(error))
        return None
    finally:
        os.close(source)


def _memory_file(name: str) -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create(name, flags | _MFD_EXEC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.memfd_create(name, flags)


async def _version(program: str, pass_fds: tuple[int, ...] = ()) -> str:
    process = await asyncio.create_subprocess_exec(
        program,
        "--version",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        pass_fds=pass_fds,
    )
    try:
        async with asyncio.timeout(VERSION_TIMEOUT_S):
            output, _ = await process.communicate()
    except TimeoutError as error:
        process.kill()
        await process.wait()
        raise DriverError(f"{program} --version did not answer within {VERSION_TIMEOUT_S:g} s") from error
    if process.returncode != 0 or not output.strip():
        raise DriverError(f"{program} --version ended with {process.returncode}")
    return output.decode(errors="replace").splitlines()[0].strip()
