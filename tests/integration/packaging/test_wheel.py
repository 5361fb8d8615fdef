"""The wheel holds everything a host needs, and no compiler is needed to use it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from midge import __version__, binaries

BUILD_TIMEOUT_S = 300

# The first test builds, which counts.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(BUILD_TIMEOUT_S + 60)]

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the tree, with the binaries that are there."""
    try:
        built = binaries.find("midge-init").parent
    except binaries.BinaryMissing as error:
        pytest.skip(str(error))
    tree = tmp_path_factory.mktemp("tree")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, tree / name)
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "_bin")
    shutil.copytree(ROOT / "src", tree / "src", ignore=ignored)
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tree / "dist", tree],
        env={**os.environ, "MIDGE_BIN_DIR": str(built)},
        check=True,
        capture_output=True,
        timeout=BUILD_TIMEOUT_S,
    )
    [path] = (tree / "dist").glob("*.whl")
    return path


def test_it_is_for_one_platform_and_any_python(wheel: Path) -> None:
    assert wheel.name.startswith(f"midge-{__version__}-py3-none-linux_")


def test_it_has_binaries_migrations_and_kernel_configuration(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        executable = archive.getinfo("midge/_bin/midge-init").external_attr >> 16
    assert {"midge/_bin/midge-init", "midge/_bin/midge-shim", "midge/kernel/trimmed.config"} <= names
    assert {"midge/store/migrations/host/001_machines.sql", "midge/py.typed"} <= names
    assert executable & 0o111


def test_installed_it_runs_without_the_source(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    for binary in (target / "midge" / "_bin").iterdir():
        binary.chmod(0o755)  # as pip does by the archive's modes, which zipfile ignores
    code = (
        "from midge import binaries; import midge; print(midge.__file__); print(binaries.find('midge-shim'))"
    )
    done = subprocess.run(
        # Without `site`, which would find the checkout that is installed for development.
        [sys.executable, "-S", "-c", code],
        env={"PATH": os.defpath, "PYTHONPATH": f"{target}:{sysconfig.get_path('purelib')}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    package, shim = done.stdout.splitlines()
    assert package.startswith(str(target)) and shim.startswith(str(target))
