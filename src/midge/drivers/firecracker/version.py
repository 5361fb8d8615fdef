"""Which Firecracker this is, and what it can do.

Firecracker refuses request bodies with members it does not know, so what a newer one takes must not be sent to an
older one. Supported are 1.10 (the first that resets vsock connections reliably after a restore) up to the next
major version. Source: Firecracker's changelog.
"""

from __future__ import annotations

import asyncio
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from midge.errors import NotSupported

OLDEST = (1, 10, 0)
BEFORE = (2, 0, 0)
VERSION_TIMEOUT_S = 10.0
INSTALL_HINT = (
    "install firecracker and jailer of one release, 1.10 or newer, in PATH: "
    "https://github.com/firecracker-microvm/firecracker/releases"
)
# Releases whose faults machines would run into.
FAULTY: dict[tuple[int, int, int], str] = {
    (1, 16, 0): "vsock connections hang after a restore (its issues 5969 and 6100)",
    (1, 16, 1): "vsock connections hang after a pause (its issue 6100)",
}

_VERSION = re.compile(r"^(?:Firecracker|Jailer) v?(\d+)\.(\d+)\.(\d+)(\S*)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Version:
    """`numbers` to compare, `text` as the program says it: templates and snapshots belong to exactly one text."""

    numbers: tuple[int, int, int]
    text: str

    @property
    def network_overrides(self) -> bool:
        """Whether a restore can use another tap than the snapshot names."""
        return self.numbers >= (1, 12, 0)

    @property
    def vsock_override(self) -> bool:
        """Whether a restore can put the vsock's socket elsewhere than the snapshot says."""
        return self.numbers >= (1, 16, 0)


@dataclass(frozen=True, slots=True)
class Programs:
    """Firecracker and the jailer of the same release. The paths are free of links: the jailer names jails by them."""

    firecracker: Path
    jailer: Path
    version: Version


def parse_version(output: str) -> Version | None:
    """The version in what ``--version`` prints: ``Firecracker v1.10.1``."""
    match = _VERSION.search(output)
    if match is None:
        return None
    numbers = (int(match[1]), int(match[2]), int(match[3]))
    return Version(numbers, ".".join(map(str, numbers)) + match[4])


def unsupported(version: Version) -> str:
    """Why this version is not supported; empty if it is."""
    if version.numbers < OLDEST:
        return f"firecracker {version.text} is too old: 1.10 is the oldest supported"
    if version.numbers >= BEFORE:
        return f"firecracker {version.text} is newer than what is supported: 1.x"
    fault = FAULTY.get(version.numbers)
    return f"firecracker {version.text} is not supported: {fault}" if fault else ""


async def find(firecracker: str, jailer: str) -> Programs:
    """Finds both programs and asks for their versions.

    Raises:
        NotSupported: one is missing, does not answer, or has a version that is not supported.
    """
    vmm, launcher = _locate(firecracker), _locate(jailer)
    version, jailer_version = await _ask(vmm), await _ask(launcher)
    if reason := unsupported(version):
        raise NotSupported(reason, hint=INSTALL_HINT)
    if jailer_version.numbers != version.numbers:
        raise NotSupported(
            f"firecracker is {version.text} and jailer is {jailer_version.text}", hint=INSTALL_HINT
        )
    if "firecracker" not in vmm.name:
        raise NotSupported(
            f"{vmm} has not `firecracker` in its file name, which jailer insists on", hint=INSTALL_HINT
        )
    return Programs(vmm, launcher, version)


def _locate(name: str) -> Path:
    found = shutil.which(name)
    if found is None:
        raise NotSupported(f"{name} is not installed", hint=INSTALL_HINT)
    return Path(found).resolve()


async def _ask(path: Path) -> Version:
    process = await asyncio.create_subprocess_exec(
        path, "--version", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(VERSION_TIMEOUT_S):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        output = b""
    version = parse_version(output.decode(errors="replace"))
    if version is None:
        raise NotSupported(f"{path} --version does not answer as firecracker does", hint=INSTALL_HINT)
    return version
