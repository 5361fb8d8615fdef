"""What a suspend asks of the init, on a real kernel: processes that stand still until the clock is right."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import pytest

from midge.guest.protocol import FrameType
from tests.integration.init.guest import NONCE
from tests.integration.init.vm import VmGuest, configure

pytestmark = [pytest.mark.slow, pytest.mark.vm, pytest.mark.timeout(600)]

STILL_S = 1.0
# One process in the root group, one in a group of its own, and one in a group that the machine has frozen itself.
# All is ready when both have noted a time: a pause before the first one is not seen.
SPINNERS = """
spin() { while :; do read up rest </proc/uptime; echo $up; done >/dev/shm/$1; }
cd /sys/fs/cgroup; mkdir own paused
(spin own) & echo $! >own/cgroup.procs
sleep 1000 & echo $! >paused/cgroup.procs; echo 1 >paused/cgroup.freeze
(until [ -s /dev/shm/root ] && [ -s /dev/shm/own ]; do sleep 0.05; done; echo ready) &
spin root
"""


def said(machine: VmGuest, stream: int, script: str) -> str:
    machine.exec_output.pop(stream, None)
    machine.exec(stream, ["sh", "-c", script])
    assert machine.exec_exit(stream)["exit_code"] == 0, machine.exec_output[stream]
    return machine.exec_output[stream]["stdout"].decode()


def longest_pause_s(text: str) -> float:
    times = [float(line) for line in text.split()[:-1]]
    return max(later - earlier for earlier, later in pairwise(times))


def _paused(machine: VmGuest, script: str) -> bool:
    return longest_pause_s(said(machine, 2, script)) >= STILL_S * 0.9


def spinning(boot: Callable[..., VmGuest]) -> VmGuest:
    machine = boot()
    configure(machine, SPINNERS)
    machine.expect(FrameType.RUNNING)
    machine.until(lambda: b"ready" in machine.output["stdout"], "ready")
    return machine


def test_processes_stand_still_from_quiesce_to_resume(boot: Callable[..., VmGuest]) -> None:
    machine = spinning(boot)
    machine.send(FrameType.QUIESCE, {"freeze": True})
    machine.expect(FrameType.QUIESCED)
    time.sleep(STILL_S / 2)  # what is shown is that nothing happens
    machine.send(FrameType.HELLO, {"version": 1, "nonce": NONCE, "resume": True})
    machine.expect(FrameType.HELLO_ACK)
    time.sleep(STILL_S / 2)
    machine.send(FrameType.RESUME, {"wall_clock_ns": 2_100_000_000 * 10**9})
    machine.expect(FrameType.RESUMED)
    assert said(machine, 1, "date +%Y") == "2036\n"
    for name in ("root", "own"):
        script = f"cat /dev/shm/{name}"
        machine.eventually(partial(_paused, machine, script), f"pause of {name}")
    groups = "/sys/fs/cgroup/paused/cgroup.freeze /sys/fs/cgroup/own/cgroup.freeze"
    assert said(machine, 3, f"cat {groups}") == "1\n0\n"


def test_groups_are_soon_as_they_were(boot: Callable[..., VmGuest]) -> None:
    machine = spinning(boot)
    for stream in (1, 2):
        machine.send(FrameType.QUIESCE, {"freeze": True})
        machine.expect(FrameType.QUIESCED)
        machine.send(FrameType.HELLO, {"version": 1, "nonce": NONCE, "resume": True})
        machine.expect(FrameType.HELLO_ACK)
        machine.send(FrameType.RESUME, {"wall_clock_ns": 2_100_000_000 * 10**9})
        machine.expect(FrameType.RESUMED)
        # Some of the kernel's own end while they are listed.
        groups = "cat /proc/[0-9]*/cgroup 2>/dev/null; :"
        script = f"while [ -d /sys/fs/cgroup/midge.suspended ]; do sleep 0.1; done; {groups}"
        assert set(said(machine, stream, script).split()) == {"0::/", "0::/own", "0::/paused"}


def test_a_save_that_failed_lets_processes_go_on(boot: Callable[..., VmGuest]) -> None:
    machine = spinning(boot)
    machine.send(FrameType.QUIESCE, {"freeze": True})
    machine.expect(FrameType.QUIESCED)
    machine.hello("another")
    before = said(machine, 1, "tail -n 1 /dev/shm/root")
    machine.eventually(lambda: said(machine, 2, "tail -n 1 /dev/shm/root") != before, "turns")


def test_nobody_stands_still_for_ever(boot: Callable[..., VmGuest]) -> None:
    machine = boot()
    configure(machine, "while sleep 0.2; do echo turn; done")
    machine.expect(FrameType.RUNNING)
    machine.until(lambda: b"turn" in machine.output["stdout"], "a turn")
    machine.send(FrameType.QUIESCE, {"freeze": True})
    machine.expect(FrameType.QUIESCED)
    machine.send(FrameType.HELLO, {"version": 1, "nonce": NONCE, "resume": True})
    machine.expect(FrameType.HELLO_ACK)
    machine.output["stdout"].clear()
    # A worker that died before it said RESUME.
    machine.until(lambda: b"turn" in machine.output["stdout"], "a turn")
