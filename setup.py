"""Puts the Rust binaries into the wheel: whoever installs it needs no compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
BINARIES = ("midge-init", "midge-shim")


class BuildWithRust(build_py):
    """Compiles the workspace and copies its binaries beside the package's modules."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return  # a checkout uses rust/target/release as it is
        built = self._binaries()
        target = Path(self.build_lib) / "midge" / "_bin"
        target.mkdir(parents=True, exist_ok=True)
        for name in BINARIES:
            shutil.copy2(built / name, target / name)
            (target / name).chmod(0o755)

    def _binaries(self) -> Path:
        ready = os.environ.get("MIDGE_BIN_DIR")
        if ready:
            return Path(ready)
        if shutil.which("cargo") is None:
            raise SystemExit(
                "cargo is needed to build midge from source: install Rust (rustup.rs), or install a wheel"
            )
        subprocess.run(["cargo", "build", "--release", "--locked"], cwd=ROOT / "rust", check=True)
        return ROOT / "rust" / "target" / "release"


class PlatformWheel(bdist_wheel):
    """The binaries are of one platform, but of no Python in particular: they are static programs."""

    def get_tag(self) -> tuple[str, str, str]:
        _, _, platform = super().get_tag()
        return "py3", "none", platform


class BinaryDistribution(Distribution):
    """Installed where a platform's files go, as packages with compiled parts are."""

    def has_ext_modules(self) -> bool:
        return True


setup(cmdclass={"build_py": BuildWithRust, "bdist_wheel": PlatformWheel}, distclass=BinaryDistribution)
