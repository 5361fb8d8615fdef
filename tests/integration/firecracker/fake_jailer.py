"""A jailer that makes the jail's folders as the real one does, and leaves it to the VMM to enter.

It stands for both programs: the tests install it as `jailer` and as `firecracker`, each with a line that says so.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

VERSION = "1.12.1"


def main(program: str) -> None:
    if "--version" in sys.argv:
        sys.stdout.write(f"{program} v{VERSION}\n")
        return
    own, theirs = sys.argv[1 : sys.argv.index("--")], sys.argv[sys.argv.index("--") + 1 :]
    parser = argparse.ArgumentParser()
    for name in ("id", "exec-file", "uid", "gid", "chroot-base-dir"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--resource-limit", action="append")
    parser.add_argument("--new-pid-ns", action="store_true", required=True)
    args = parser.parse_args(own)
    executable = Path(args.exec_file).resolve()
    root = Path(args.chroot_base_dir) / executable.name / args.id / "root"
    uid, gid = int(args.uid), int(args.gid)
    for folder in (root, root / "dev", root / "dev" / "net", root / "run"):
        folder.mkdir(exist_ok=True, mode=0o700)
        os.chown(folder, uid, gid)
    pid_file = os.open(root / f"{executable.name}.pid", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    pid = os.fork()
    if pid == 0:
        # Python has to be loaded before the root is changed, so the program does that itself.
        os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
        words = [sys.executable, "-m", "midge.testing.fake_firecracker", "--id", args.id]
        os.execv(sys.executable, [*words, "--jail", str(root), "--uid", str(uid), *theirs])
    os.write(pid_file, str(pid).encode())
