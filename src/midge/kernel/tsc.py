"""Measures the frequency of the host's time stamp counter.

Under software emulation a guest reads the host's counter but has nobody to ask for its frequency. Measuring it
against an emulated timer fails when the host is busy, and a guest without PIT then waits for ever. So the host
tells it, by ``tsc_early_khz=``. (KVM guests learn it from kvm-clock.)
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import time

# rdtsc; shl rdx, 32; or rax, rdx; ret
_READ_TSC = bytes.fromhex("0f31 48c1e220 4809d0 c3")

_INTERVAL_S = 0.05
# Of so many readings of counter and clock together the one is taken that was interrupted least.
_READINGS = 50

# The command line is part of a template's identity, so the figure must not differ with each measurement: two
# differ by some 1 ppm, this step is some 4 ppm, and clocks are kept right by other means.
_STEP_KHZ = 10


def measure_khz() -> int | None:
    """The frequency in kHz, to the nearest 10, in some 50 ms; None on processors other than x86-64. Blocks."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return None
    with mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as page:
        page.write(_READ_TSC)
        entry = ctypes.c_char.from_buffer(page)
        read_tsc = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(entry))

        def reading() -> tuple[int, int]:
            best: tuple[int, int, int] | None = None
            for _ in range(_READINGS):
                before = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
                ticks = read_tsc()
                width = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW) - before
                if best is None or width < best[0]:
                    best = (width, before + width // 2, ticks)
            assert best is not None
            return best[1], best[2]

        start_ns, start_ticks = reading()
        time.sleep(_INTERVAL_S)
        end_ns, end_ticks = reading()
        # The page cannot be unmapped while something points into it.
        del entry
    return nearest_step((end_ticks - start_ticks) * 1_000_000 / (end_ns - start_ns))


def nearest_step(khz: float) -> int:
    return round(khz / _STEP_KHZ) * _STEP_KHZ
