"""System calls a container is refused. Pure.

A list of what is denied, not of what is allowed: libseccomp compiles the list anew at every start, and one of 350
allowed calls takes 4 ms for one architecture and 25 ms for three, this one 1.5 ms for two. The capabilities a container
lacks refuse most of these already; the filter holds where they do not reach: user namespaces, in which everybody has
all capabilities, and calls without a capability of their own.
"""

from __future__ import annotations

import errno
from typing import Any

# Linux ABI numbers (include/uapi/linux/sched.h, include/linux/socket.h).
_CLONE_NEW = 0x7E02_0000  # NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_AF_VSOCK = 40

# What belongs to the one kernel that all containers and the host share.
_KERNEL = (
    "acct",
    "bpf",
    "clock_adjtime",
    "clock_settime",
    "delete_module",
    "finit_module",
    "init_module",
    "ioperm",
    "iopl",
    "kexec_file_load",
    "kexec_load",
    "lookup_dcookie",
    "nfsservctl",
    "perf_event_open",
    "quotactl",
    "quotactl_fd",
    "reboot",
    "settimeofday",
    "swapoff",
    "swapon",
    "syslog",
    "uselib",
    "vhangup",
)
# Key rings are not divided by namespaces; handles open files outside the root; the rest has a history of holes.
_REACH = (
    "add_key",
    "fanotify_init",
    "io_uring_enter",
    "io_uring_register",
    "io_uring_setup",
    "keyctl",
    "open_by_handle_at",
    "request_key",
    "userfaultfd",
)
_MOUNTS = (
    "fsconfig",
    "fsmount",
    "fsopen",
    "fspick",
    "mount",
    "mount_setattr",
    "move_mount",
    "open_tree",
    "pivot_root",
    "umount",
    "umount2",
)
_NAMESPACES = ("setns", "unshare")

# The filter for each architecture, with the ones its kernel also runs: a program of an architecture that is not
# listed is killed, so a 64-bit x86 kernel needs the 32-bit one too, or its programs would get around or not run.
ARCHITECTURES = {
    "x86_64": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
    "aarch64": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
}


def profile(machine: str) -> dict[str, Any] | None:
    """The `linux.seccomp` member of config.json for a kernel such as ``x86_64``; None for one we do not know."""
    architectures = ARCHITECTURES.get(machine)
    if architectures is None:
        return None
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": architectures,
        "syscalls": [
            _deny([*_KERNEL, *_REACH, *_MOUNTS, *_NAMESPACES], errno.EPERM),
            # Its flags lie in memory, where a filter cannot look: C libraries then fall back to clone.
            _deny(["clone3"], errno.ENOSYS),
            *(_deny(["clone"], errno.EPERM, _has_bit(0, bit)) for bit in _bits(_CLONE_NEW)),
            _deny(["socket"], errno.EPERM, {"index": 0, "value": _AF_VSOCK, "op": "SCMP_CMP_EQ"}),
        ],
    }


def _deny(names: list[str], number: int, argument: dict[str, Any] | None = None) -> dict[str, Any]:
    rule: dict[str, Any] = {"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": number}
    if argument is not None:
        rule["args"] = [argument]
    return rule


def _has_bit(index: int, bit: int) -> dict[str, Any]:
    return {"index": index, "value": bit, "valueTwo": bit, "op": "SCMP_CMP_MASKED_EQ"}


def _bits(mask: int) -> list[int]:
    return [1 << position for position in range(mask.bit_length()) if mask >> position & 1]
