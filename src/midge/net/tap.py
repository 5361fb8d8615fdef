"""Tap devices: the guest's side of a machine's network."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path

from midge.net.netns import entered

TUN_DEVICE = Path("/dev/net/tun")
TAP_NAME = "tap0"

# linux/if_tun.h
_TUNSETOFFLOAD = 0x4004_54D0
_TUNSETTXFILTER = 0x4004_54D1
_TUNSETSNDBUF = 0x4004_54D4
_TUNDETACHFILTER = 0x4010_54D6
_TUNSETVNETHDRSZ = 0x4004_54D8
_TUNSETVNETLE = 0x4004_54DC
_TUNSETVNETBE = 0x4004_54DE
_TUNSETSTEERINGEBPF = 0x8004_54E0
_TUNSETFILTEREBPF = 0x8004_54E1
_TUNSETIFF = 0x4004_54CA
_TUNSETPERSIST = 0x4004_54CB
_TUNSETOWNER = 0x4004_54CC
_IFF_TAP = 0x0002
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000
_FLAGS = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
# What the kernel gives a new tap: no limit on frames underway, and struct virtio_net_hdr without buffer count.
_SNDBUF_BYTES = 2**31 - 1
_VNET_HEADER_BYTES = 10
_IFREQ = struct.Struct("16sH22x")


def create_tap(owner_uid: int | None) -> None:
    """Makes a persistent `tap0` in the calling thread's namespace, which process of `owner_uid` may open.

    One queue, with virtio-net headers (checksum and segmentation offload). Raises: OSError.
    """
    fd = _attach()
    try:
        if owner_uid is not None:
            fcntl.ioctl(fd, _TUNSETOWNER, owner_uid)
        fcntl.ioctl(fd, _TUNSETPERSIST, 1)
    finally:
        os.close(fd)


def open_tap(netns: Path) -> int:
    """Opens the `tap0` of a namespace, for a VMM that takes a file descriptor (``-netdev tap,fd=N``).

    Blocks, and moves the calling thread for a moment: use a thread. The caller closes the descriptor, which is
    close-on-exec. Frames to the guest are dropped for the first moment, until the kernel's link watcher has seen the
    carrier: milliseconds, no guest comes up faster. Raises: OSError; EBUSY if somebody has it open.
    """
    with entered(netns):
        return _attach()


def reset_tap(netns: Path) -> None:
    """Undoes what a process that had the `tap0` of a namespace open can have left in it.

    Frames still queued went when it was closed. What stays on a persistent device are offloads, header size, socket
    filters and send buffer. Blocks, as `open_tap`. Raises: OSError; EBUSY if the tap is still open somewhere.
    """
    defaults = [
        (_TUNDETACHFILTER, bytes(16)),
        (_TUNSETTXFILTER, bytes(4)),
        (_TUNSETSNDBUF, _int(_SNDBUF_BYTES)),
        (_TUNSETVNETHDRSZ, _int(_VNET_HEADER_BYTES)),
        (_TUNSETVNETLE, _int(0)),
        (_TUNSETVNETBE, _int(0)),
        (_TUNSETSTEERINGEBPF, _int(-1)),
        (_TUNSETFILTEREBPF, _int(-1)),
    ]
    fd = open_tap(netns)
    try:
        fcntl.ioctl(fd, _TUNSETOFFLOAD, 0)
        for request, value in defaults:
            try:
                fcntl.ioctl(fd, request, value)
            except OSError as error:
                # EINVAL, ENOTTY: an older kernel without this setting has nothing to reset.
                if error.errno not in (errno.EINVAL, errno.ENOTTY):
                    raise
    finally:
        os.close(fd)


def _int(value: int) -> bytes:
    return struct.pack("=i", value)


def _attach() -> int:
    fd = os.open(TUN_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _TUNSETIFF, _IFREQ.pack(TAP_NAME.encode(), _FLAGS))
    except OSError:
        os.close(fd)
        raise
    return fd
