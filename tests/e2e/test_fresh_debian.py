"""README's first commands on a Debian 12 that has nothing but git and make."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from midge.net.naming import instance_tag
from midge.sys.leaks import diff, snapshot
from tests.e2e.serve import STOP_TIMEOUT_S, until
from tests.integration.images.conftest import needs
from tests.subnets import subnet_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.vm,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        not os.environ.get("MIDGE_SOAK"), reason="installs a compiler and much else: `make soak` does"
    ),
]

REPOSITORY = Path(__file__).parents[2]
SUITE = "bookworm"
MAKE_ROOT_TIMEOUT_S = 300.0
# A download of some 200 MB, a build, and an emulated guest that boots.
COMMANDS_TIMEOUT_S = 1200.0
# Where the newcomer is in the new root, and where a mirror of the repository lies there.
HOME = Path("/root")
ORIGIN = Path("/srv/midge.git")
# How the host reaches the registries its owner has chosen; nothing else of its environment is passed on.
PASSED_ON = ("PIP_", "CARGO_", "SSL_CERT_", "REQUESTS_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
# Files of that kind, and where they belong in the new root.
CARGO_HOME = Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo")
SETTINGS = {
    Path("/etc/resolv.conf"): Path("/etc/resolv.conf"),
    Path("/etc/hosts"): Path("/etc/hosts"),
    Path("/etc/pip.conf"): Path("/etc/pip.conf"),
    Path.home() / ".config/pip/pip.conf": HOME / ".config/pip/pip.conf",
    CARGO_HOME / "config.toml": HOME / ".cargo/config.toml",
    # Debian's package ca-certificates adds these to its own.
    Path("/usr/local/share/ca-certificates"): Path("/usr/local/share/ca-certificates"),
}
# All it mounts and starts ends with its first process.
ENTER = r"""
mount --make-rprivate /
mount -t proc proc "$0/proc"
mount --rbind /sys "$0/sys"
mount --rbind /dev "$0/dev"
mount -t tmpfs run "$0/run"
exec chroot "$0" "$@"
"""


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Path]:
    """The new root, which knows where to get packages from as this host does."""
    needs("mmdebstrap", "unshare")
    root = tmp_path / "root"
    apt = tmp_path / "apt.conf"
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout
    apt.write_text("".join(f"{line}\n" for line in dump.splitlines() if line.startswith("Acquire::")))
    made = subprocess.run(
        [
            *("mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", "--include=git,make"),
            *(f"--aptopt={apt}", SUITE, str(root), *map(str, package_sources())),
        ],
        capture_output=True,
        text=True,
        timeout=MAKE_ROOT_TIMEOUT_S,
        check=False,
    )
    try:
        if made.returncode != 0:
            pytest.skip(f"mmdebstrap cannot make a Debian here (no network?): {made.stderr[-400:]}")
        for source, target in SETTINGS.items():
            copy(source, root / target.relative_to("/"))
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


def package_sources() -> list[Path]:
    """The files that say where this host gets Debian 12 from; none where it is another system."""
    files = (Path("/etc/apt/sources.list"), Path("/etc/apt/sources.list.d/debian.sources"))
    return [file for file in files if file.exists() and SUITE in file.read_text()]


def copy(source: Path, target: Path) -> None:
    if not source.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        target.unlink(missing_ok=True)
        shutil.copyfile(source, target)


def push_work_tree(origin: Path) -> None:
    """A repository to clone from, with the work tree's changes of known files as its last commit."""
    git = ["git", "-C", str(REPOSITORY), "-c", "user.name=test", "-c", "user.email=test@localhost"]
    changed = subprocess.run([*git, "stash", "create"], capture_output=True, text=True, check=True).stdout
    subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", origin], check=True)
    last = changed.strip() or "HEAD"
    subprocess.run([*git, "push", "--quiet", str(origin), f"{last}:refs/heads/main"], check=True)


def readme_commands() -> str:
    """The first shell lines there, with the repository's address filled in."""
    block = re.search(r"```sh\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    assert block is not None
    commands = block[1].replace("<this repository>", str(ORIGIN))
    assert str(ORIGIN) in commands and "make up" in commands
    return commands


def environment(**more: str) -> dict[str, str]:
    passed_on = {name: value for name, value in os.environ.items() if name.upper().startswith(PASSED_ON)}
    passed_on.pop("CARGO_HOME", None)
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {**passed_on, "PATH": path, "HOME": str(HOME), **more}


def run_in(root: Path, script: str, env: dict[str, str]) -> str:
    """What a shell in that root prints, which must succeed."""
    done = subprocess.run(
        [
            *("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", ENTER, str(root)),
            *("sh", "-exc", f"cd {HOME}\n{script}"),
        ],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=COMMANDS_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def test_the_commands_of_the_readme_need_git_and_make_only(fresh: Path, tmp_path: Path) -> None:
    push_work_tree(fresh / ORIGIN.relative_to("/"))
    # A folder of its own, since names on the host come from the path of the data.
    data = HOME / f"of-test-{os.getpid()}" / "data"
    (fresh / data.relative_to("/")).mkdir(parents=True)
    env = environment(
        MIDGE_DATA_DIR=str(data),
        MIDGE_SUBNET=subnet_for(tmp_path),
        MIDGE_LISTEN="127.0.0.1:0",
        MIDGE_ACCELERATION="tcg",
    )
    markers = [instance_tag(data), str(fresh), str(data)]
    before = snapshot(markers)
    output = run_in(fresh, f"{readme_commands()}\nmake up\nmake down\n", env)
    for step in ("start it again, until it answers", "the platform runs already", "midge has stopped"):
        assert step in output

    def left() -> list[str]:
        return diff(before, snapshot(markers))

    until(lambda: not left(), STOP_TIMEOUT_S, lambda: "\n".join(left()))
