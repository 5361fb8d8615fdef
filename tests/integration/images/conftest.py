"""A real registry on loopback."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deadlines import PATIENCE_S

# As it says where it listens, a port the kernel chose.
_LISTENING = re.compile(r"listening on 127\.0\.0\.1:(\d+)\D")


def needs(*programs: str) -> None:
    """Skips the test when a program is missing or we are not root."""
    missing = [name for name in programs if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    if os.geteuid() != 0:
        pytest.skip("needs root")


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of an empty registry."""
    needs("docker-registry", "skopeo")
    base = tmp_path_factory.mktemp("registry")
    (base / "config.yml").write_text(
        f"version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {base}/data\nhttp:\n  addr: 127.0.0.1:0\n"
    )
    with (base / "log").open("wb") as log:
        process = subprocess.Popen(
            ["docker-registry", "serve", str(base / "config.yml")], stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + PATIENCE_S
        while (listens := _LISTENING.search((base / "log").read_text())) is None:
            assert process.poll() is None, (base / "log").read_text()
            assert time.monotonic() < deadline, "the registry does not listen"
            time.sleep(0.05)
        yield f"127.0.0.1:{listens[1]}"
    finally:
        process.kill()
        process.wait()


async def run(*command: str | Path) -> None:
    """Runs a program to its end."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    _, stderr = await process.communicate()
    assert process.returncode == 0, f"{command[0]}: {stderr.decode('utf-8', 'replace')}"


def push(layout: Path, reference: str, *options: str, source: str | None = None) -> None:
    """Copies an OCI layout into the registry."""
    command = ["skopeo", "copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false", *options]
    subprocess.run(
        [*command, source or f"oci:{layout}", f"docker://{reference}"], check=True, timeout=PATIENCE_S
    )
