"""A root file system made of busybox, and the script that turns it into a container without any runtime."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
INIT = REPOSITORY / "rust/target/release/midge-init"
BUSYBOX = Path("/bin/busybox")

PASSWD = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:App:/home/app:/bin/sh\n"
GROUP = "root:x:0:\napp:x:1001:\nwheel:x:10:app\naudio:x:29:app\n"

# Runs as PID 1 of new namespaces: a /dev and /proc of the container's own, then the init in its root.
CONTAINER_SCRIPT = """\
set -e
mount --make-rprivate /
mount -t proc proc "$1/proc"
mount -t tmpfs tmpfs "$1/dev"
mkdir "$1/dev/pts" "$1/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620 devpts "$1/dev/pts"
ln -s pts/ptmx "$1/dev/ptmx"
ln -s /proc/self/fd "$1/dev/fd"
for device in "null 1 3" "zero 1 5" "urandom 1 9" "tty 5 0"; do
    set -- "$1" $device
    mknod -m 666 "$1/dev/$2" c "$3" "$4"
done
exec chroot "$1" /midge-init --container
"""


def missing_tool() -> str | None:
    """Why a machine cannot run here, if so."""
    if os.geteuid() != 0:
        return "needs root for namespaces and mounts"
    if not INIT.exists():
        return "needs midge-init: cargo build --release in rust/"
    if not BUSYBOX.exists():
        return "needs busybox-static"
    if shutil.which("unshare") is None:
        return "needs unshare"
    return None


def build(path: Path) -> Path:
    """Creates the tree, with the init inside."""
    for name in ("bin", "dev", "etc", "home/app", "proc", "root", "run", "sys", "tmp", "var", "usr/bin"):
        (path / name).mkdir(parents=True)
    (path / "tmp").chmod(0o1777)
    os.chown(path / "home/app", 1000, 1001)
    (path / "var/run").symlink_to("/run")
    shutil.copy(BUSYBOX, path / "bin/busybox")
    subprocess.run(["chroot", str(path), "/bin/busybox", "--install", "-s", "/bin"], check=True)
    (path / "etc/passwd").write_text(PASSWD)
    (path / "etc/group").write_text(GROUP)
    shutil.copy(INIT, path / "midge-init")
    return path
