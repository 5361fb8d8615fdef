"""Which memory of a guest its devices may write to."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from midge.drivers.qemu import rings
from midge.drivers.qemu.rings import Queue

DESCRIPTORS, AVAILABLE, BUFFERS = 0x1000, 0x2000, 0x8000
ENTRIES = 8
NEXT, WRITE, INDIRECT = 1, 2, 4


def queue(**changes: int) -> Queue:
    fields = {"vring_num": ENTRIES, "vring_desc": DESCRIPTORS, "vring_avail": AVAILABLE, "last_avail_idx": 0}
    return Queue(**{**fields, **changes})


def guest(
    descriptors: list[tuple[int, int, int, int]], available: list[int], *, end: int | None = None
) -> bytearray:
    """Memory with a queue in it; `end` is the index after the last entry that is available."""
    memory = bytearray(b"\xaa" * 0x10000)
    for number, descriptor in enumerate(descriptors):
        struct.pack_into("<QIHH", memory, DESCRIPTORS + 16 * number, *descriptor)
    struct.pack_into("<HH", memory, AVAILABLE, 0, len(available) if end is None else end)
    for number, head in enumerate(available):
        struct.pack_into("<H", memory, AVAILABLE + 4 + 2 * number, head)
    return memory


def test_buffers_the_device_has_not_taken_are_found() -> None:
    receive = [(BUFFERS + 0x1000 * n, 0x1000, WRITE, 0) for n in range(3)]
    memory = guest(receive, [2, 0, 1])
    assert list(rings.unused(memory, queue(last_avail_idx=1))) == [
        (BUFFERS, 0x1000),
        (BUFFERS + 0x1000, 0x1000),
    ]


def test_indices_go_round() -> None:
    receive = [(BUFFERS + 0x1000 * n, 0x1000, WRITE, 0) for n in range(ENTRIES)]
    memory = guest(receive, [3, 0, 0, 0, 0, 0, 0, 5], end=1)
    found = list(rings.unused(memory, queue(last_avail_idx=0xFFFF)))
    assert found == [(BUFFERS + 0x5000, 0x1000), (BUFFERS + 0x3000, 0x1000)]


def test_what_the_device_only_reads_is_left_alone() -> None:
    chain = [
        (BUFFERS, 16, NEXT, 1),
        (BUFFERS + 0x1000, 512, NEXT | WRITE, 2),
        (BUFFERS + 0x2000, 1, WRITE, 0),
    ]
    assert list(rings.unused(guest(chain, [0]), queue())) == [(BUFFERS + 0x1000, 512), (BUFFERS + 0x2000, 1)]
    table = [(BUFFERS, 64, INDIRECT | WRITE, 0)]
    assert list(rings.unused(guest(table, [0]), queue())) == []


def test_nothing_is_found_beyond_the_memory() -> None:
    assert list(rings.unused(guest([(0xFFFF, 2, WRITE, 0)], [0]), queue())) == []
    assert list(rings.unused(guest([], []), queue(vring_desc=0xFFF0))) == []
    assert list(rings.unused(guest([], []), queue(vring_avail=1 << 40))) == []


@given(
    st.binary(min_size=256, max_size=256), st.integers(0, 1 << 16), st.integers(1, 64), st.integers(0, 300)
)
def test_hostile_memory_ends_and_stays_inside(memory: bytes, index: int, entries: int, place: int) -> None:
    hostile = Queue(vring_num=entries, vring_desc=place, vring_avail=256 - place, last_avail_idx=index)
    for start, length in rings.unused(memory, hostile):
        assert 0 <= start <= start + length <= len(memory)


def test_only_those_buffers_are_blanked(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    memory = guest([(BUFFERS, 0x1000, WRITE, 0)], [0])
    path.write_bytes(memory)
    assert rings.blank(path, [queue()]) == 0x1000
    memory[BUFFERS : BUFFERS + 0x1000] = bytes(0x1000)
    assert path.read_bytes() == memory


class Monitor:
    """Answers as QEMU does."""

    def __init__(self, *, known: bool = True) -> None:
        self.known = known

    async def execute(self, command: str, **arguments: object) -> object:
        if not self.known:
            raise rings.QmpError(f"{command}: The command {command} has not been found")
        if command == "x-query-virtio":
            return [{"name": "virtio-net", "path": "/machine/net"}]
        if command == "x-query-virtio-status":
            return {"name": "virtio-net", "num-vqs": 2}
        used = {
            "vring-num": ENTRIES,
            "vring-desc": DESCRIPTORS,
            "vring-avail": AVAILABLE,
            "last-avail-idx": 3,
        }
        return {**used, "queue-index": 0} if arguments["queue"] == 0 else {**used, "vring-desc": 0}


@pytest.mark.anyio
async def test_queues_that_are_set_up_are_asked_of_qemu() -> None:
    assert await rings.queues(Monitor()) == [queue(last_avail_idx=3)]


@pytest.mark.anyio
async def test_a_qemu_that_does_not_tell_has_none() -> None:
    assert await rings.queues(Monitor(known=False)) == []
