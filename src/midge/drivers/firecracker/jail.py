"""What one VMM sees of the host: a directory that the jailer makes its root.

    BASE/firecracker/ID/          root's, 0700: nobody else gets here from outside
      root/                       the VMM's, 0700; its "/" once the jailer has changed root
        kernel initramfs          hard links, for a guest that boots
        memory state              hard links, for a guest that is restored
        lower upper               hard links: the image, shared and read-only, and the machine's own disk
        run/                      api.sock and v.sock, which the VMM makes
        save/                     where it writes snapshots
        dev/ firecracker …        made by the jailer: kvm, net/tun, urandom, a copy of the program, its pid

Every jail has the same names inside, so a snapshot of one is right in any other: nothing has to be overridden when it
is loaded. What lies on another file system is bind-mounted instead, read-only.

The VMM owns its jail and may put anything anywhere in it once a guest has taken it over, links to other places
included. So whatever the host opens there afterwards is opened step by step without following links, and looked at
before it is used.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from midge.drivers.vmm_user import FIRECRACKER_UID_BASE, UIDS
from midge.errors import DriverError, NotSupported
from midge.sys.syscalls import MNT_DETACH, MS_BIND, MS_RDONLY, MS_REMOUNT, LinuxSyscalls, Syscalls

TEMPLATE_UID = FIRECRACKER_UID_BASE + UIDS  # of no slot
API_SOCKET = "api.sock"
VSOCK_SOCKET = "v.sock"
SOCKET_PATH_MAX = 107  # bytes of a unix socket's path, without the final zero
ID_CHARS_MAX = 64  # of the jailer
SEALED_MODE = 0o444  # of a snapshot's files: shared with VMMs of any user, changed by none

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_REASONS_TO_MOUNT = (errno.EXDEV, errno.EMLINK, errno.EPERM)


@dataclass(frozen=True, slots=True)
class Jail:
    """Paths of one jail, and everything that is done in it. Holds no resources. All of it blocks.

    Attributes:
        base: of all jails; the jailer's --chroot-base-dir.
        program: file name of the VMM's program.
        id: of the jail; unique among those that exist.
        uid: user and group of the VMM.
    """

    base: Path
    program: str
    id: str
    uid: int
    syscalls: Syscalls = field(default_factory=LinuxSyscalls)

    @property
    def folder(self) -> Path:
        return self.base / self.program / self.id

    @property
    def root(self) -> Path:
        return self.folder / "root"

    @property
    def api_socket(self) -> Path:
        return self.root / "run" / API_SOCKET

    @property
    def vsock(self) -> Path:
        return self.root / "run" / VSOCK_SOCKET

    @property
    def pid_file(self) -> Path:
        """Where the jailer leaves the VMM's pid."""
        return self.root / f"{self.program}.pid"

    def make(self) -> None:
        """An empty jail, whatever was there before. Raises: OSError."""
        self.remove()
        self.folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder.mkdir(mode=0o700)
        for folder in (self.root, self.root / "run", self.root / "save"):
            folder.mkdir(mode=0o700)
            os.chown(folder, self.uid, self.uid)

    def add(self, source: Path, name: str) -> None:
        """Puts a file into the jail, as a hard link or else bound to its place. Raises: OSError, DriverError."""
        target = self.root / name
        try:
            target.hardlink_to(source)
        except OSError as error:
            if error.errno not in _REASONS_TO_MOUNT:
                raise
            target.touch(mode=0o400)
            self.syscalls.mount(source, target, flags=MS_BIND)
            self.syscalls.mount("none", target, flags=MS_BIND | MS_REMOUNT | MS_RDONLY)
        found = target.stat()
        owned = found.st_uid == self.uid and found.st_mode & stat.S_IRUSR
        if not (owned or found.st_mode & stat.S_IROTH):
            raise DriverError(f"{source} cannot be read by a VMM", hint=f"chmod a+r {source}")

    def add_writable(self, source: Path, name: str) -> None:
        """As `add`, for a file of the VMM's own; it has to be on the jails' file system. Raises: OSError."""
        try:
            (self.root / name).hardlink_to(source)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            raise NotSupported(
                f"{source} and {self.base} are on different file systems",
                hint="keep jails and machines in one data directory",
            ) from error

    def writable_copy_target(self, name: str) -> int:
        """A new file in save/ that belongs to the VMM; returns its descriptor. Raises: OSError."""
        self.discard(name)
        with self._opened("save") as folder:
            fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder)
        os.fchown(fd, self.uid, self.uid)
        return fd

    def take(self, name: str, target: Path) -> None:
        """Moves a file the VMM has written in save/ out of the jail, to root alone and read-only.

        The VMM must not run meanwhile. Raises: DriverError if it is not a plain file of the VMM's; OSError.
        """
        with self._opened("save") as folder:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
            try:
                found = os.fstat(fd)
                # A second link would be a file that somebody else can still change, or was never the VMM's.
                if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1 or found.st_uid != self.uid:
                    raise DriverError(f"{self.root}/save/{name} is not what a VMM writes there")
                os.fchown(fd, 0, 0)
                os.fchmod(fd, SEALED_MODE)
            finally:
                os.close(fd)
            os.rename(name, target, src_dir_fd=folder)

    def discard(self, name: str) -> None:
        """Removes a file in save/; nothing if it is not there. Raises: OSError."""
        with self._opened("save") as folder, contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)

    def connect(self, name: str = API_SOCKET) -> socket.socket:
        """A connection to a socket in run/, without following links, however long its path. Raises: OSError."""
        with self._opened("run") as folder:
            fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            found = os.fstat(fd)
            if not stat.S_ISSOCK(found.st_mode) or found.st_uid != self.uid:
                raise DriverError(f"{self.root}/run/{name} is not the VMM's socket")
            connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connected.connect(f"/proc/self/fd/{fd}")
                connected.setblocking(False)
            except BaseException:
                connected.close()
                raise
            return connected
        finally:
            os.close(fd)

    def remove(self) -> None:
        """Removes the jail and what is mounted in it. The VMM must have ended. Repeatable.

        Raises:
            DriverError: something of it stays.
        """
        for target in _mounts_below(self.folder):
            with contextlib.suppress(OSError):
                self.syscalls.umount(target, MNT_DETACH)
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.folder.exists():
            raise DriverError(
                f"{self.folder} cannot be removed", hint=f"see what is left: ls -lR {self.folder}"
            )

    @contextlib.contextmanager
    def _opened(self, name: str) -> Iterator[int]:
        root = os.open(self.root, _DIRECTORY)
        try:
            folder = os.open(name, _DIRECTORY, dir_fd=root)
        finally:
            os.close(root)
        try:
            yield folder
        finally:
            os.close(folder)


def check_base(base: Path, program: str, id_chars: int) -> None:
    """Whether jails can be under `base`. Raises: NotSupported.

    Args:
        id_chars: length of the longest id.
    """
    longest = max(len(API_SOCKET), len(VSOCK_SOCKET))
    needed = len(os.fsencode(base / program)) + 1 + id_chars + len("/root/run/") + longest
    if needed > SOCKET_PATH_MAX:
        raise NotSupported(
            f"{base} is {needed - SOCKET_PATH_MAX} bytes too long for the sockets of jails",
            hint="use a data directory with a shorter path",
        )
    flags = os.statvfs(base).f_flag
    for flag, name in ((os.ST_NODEV, "nodev"), (os.ST_NOEXEC, "noexec")):
        if flags & flag:
            raise NotSupported(
                f"{base} is mounted with {name}: a jail needs device nodes and a program",
                hint=f"mount it without {name}, or use another data directory",
            )


def leftovers(base: Path, program: str) -> list[str]:
    """Ids of all jails there are."""
    with contextlib.suppress(FileNotFoundError):
        return sorted(path.name for path in (base / program).iterdir())
    return []


def _mounts_below(folder: Path) -> list[Path]:
    """Mount points in a folder, the last one mounted first."""
    inside = os.fsencode(folder) + b"/"
    points = []
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        # proc(5): blanks, tabs, newlines and backslashes are octal.
        point = line.split(b" ")[4]
        for code, char in ((b"\\040", b" "), (b"\\011", b"\t"), (b"\\012", b"\n"), (b"\\134", b"\\")):
            point = point.replace(code, char)
        if point.startswith(inside):
            points.append(Path(os.fsdecode(point)))
    return points[::-1]
