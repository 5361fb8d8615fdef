"""Kernel command lines, by what runs the guest.

Every parameter is in `PARAMETERS` with the reason it is there; nothing is added anywhere else, but for what a
machine's own configuration asks for. The figures were measured with QEMU 7.2 on Linux 6.1 guests.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

import msgspec

from midge.errors import InvalidInput

Acceleration = Literal["kvm", "tcg"]

# COMMAND_LINE_SIZE of x86 is 2048 with the final zero; VMMs that describe devices on the command line append
# virtio_mmio.device=, some 40 bytes each, for up to 16 devices.
BYTES_MAX = 2047 - 16 * 40

Where = Literal["always", "tcg", "kvm", "no-acpi", "console", "no-console"]


class Parameter(msgspec.Struct, frozen=True):
    """A parameter, when it is given, and why."""

    text: str
    where: Where
    why: str


PARAMETERS: tuple[Parameter, ...] = (
    # --- how a guest ends
    Parameter("panic=-1", "always", "a panic ends the guest at once: the host sees an exit, not a hang"),
    Parameter("reboot=t", "always", "a reboot is a triple fault; there is no firmware or keyboard to ask"),
    # --- console
    Parameter("console=ttyS0", "console", "kernel messages and init's early output go to the serial port"),
    Parameter("8250.nr_uarts=0", "no-console", "no probing for a serial port that is not there"),
    Parameter("quiet", "always", "each character on a console is an exit to the VMM"),
    Parameter("loglevel=1", "always", "as above, for warnings; a panic is printed all the same"),
    # --- time and interrupts
    Parameter(
        "tsc=reliable", "always", "no watchdog on the clock source; a pause of the guest would trip it"
    ),
    Parameter("no_timer_check", "always", "no test of the timer interrupt against old broken boards"),
    Parameter("nowatchdog", "always", "a paused guest is not locked up"),
    Parameter(
        "rcupdate.rcu_expedited=1",
        "always",
        "waiting for readers takes two or three ticks otherwise, 30 ms at 100 Hz: at a freeze, in mounts and networks",
    ),
    # --- what guests do not have
    Parameter("pci=off", "always", "microVMs have no PCI bus to probe"),
    Parameter("acpi=off", "no-acpi", "devices are on the command line, processors in the MP table"),
    Parameter("cgroup_no_v1=all", "always", "cgroups v2 and nothing else, whatever an image tries to mount"),
    Parameter("audit=0", "always", "nobody reads audit records, which cost at each system call"),
    Parameter("apparmor=0", "always", "no policy is loaded in guests, yet each hook would be called"),
    Parameter("selinux=0", "always", "as above"),
    # --- random numbers
    Parameter("random.trust_cpu=on", "always", "random numbers at once, by RDRAND; every fork reseeds"),
    # --- speed under software emulation
    Parameter(
        "mitigations=off", "tcg", "the emulator does not speculate; page-table isolation would flush its TLB"
    ),
    Parameter(
        "norandmaps",
        "tcg",
        "translated code is found by its address: at new addresses it is translated again",
    ),
    Parameter("randomize_kstack_offset=off", "tcg", "reads the time stamp counter at each system call"),
    Parameter("init_on_alloc=0", "tcg", "clearing memory that is cleared again is not cheap here"),
)

# For what depends on them: a guest that was booted with others is another one.
PARAMETERS_ID = hashlib.sha256(msgspec.json.encode(PARAMETERS)).hexdigest()[:16]


def build(
    acceleration: Acceleration,
    *,
    acpi: bool = True,
    console: bool = False,
    tsc_khz: int | None = None,
    extra: Sequence[str] = (),
) -> str:
    """The command line for guests under `acceleration`.

    Args:
        acpi: the VMM describes its devices by ACPI; otherwise it appends virtio_mmio.device= parameters.
        console: there is a serial port for the kernel's messages.
        tsc_khz: frequency of the time stamp counter, if the guest cannot ask for it (`midge.kernel.tsc`).
        extra: parameters of the kernel or the machine; they come last and so have the last word.

    Raises:
        InvalidInput: one of `extra` has white space or control characters outside quotes, or the line is too long.
    """
    given: set[Where] = {"always", acceleration, "console" if console else "no-console"}
    if not acpi:
        given.add("no-acpi")
    words = [parameter.text for parameter in PARAMETERS if parameter.where in given]
    if tsc_khz is not None:
        words.append(f"tsc_early_khz={tsc_khz}")
    for word in extra:
        _check(word)
        words.append(word)
    line = " ".join(words)
    if len(line.encode()) > BYTES_MAX:
        raise InvalidInput(
            f"kernel command line has {len(line.encode())} bytes, the limit is {BYTES_MAX}",
            hint="remove some of the machine's kernel_args",
        )
    return line


def _check(word: str) -> None:
    outside_quotes = "".join(word.split('"')[::2])
    if not word or not word.isprintable() or " " in outside_quotes or word.count('"') % 2:
        raise InvalidInput(
            f"{word[:64]!r} is no kernel parameter", hint='write name or name=value; quote spaces: name="a b"'
        )
    if word in ("--", "---"):
        # All that follows would become arguments of init.
        raise InvalidInput("a kernel parameter may not be --", hint="init.exec sets a machine's program")
