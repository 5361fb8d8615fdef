"""Buffers that a guest has given to its devices and that hold nothing yet, in a guest that stands still.

A guest's virtio-serial driver fills two receive queues with a page for each entry, and on this board a queue has 1024
of them: 8 MiB of a small guest's memory, with whatever the pages held before. What lies in a buffer that the device has
not used means nothing (Virtual I/O Device Version 1.2, section 2.7: only what the used ring returns has been written).
So a template can leave it out, and with it the copy in each VM made of it.

A queue's addresses come from QEMU, its entries from the guest's memory: the latter is read as hostile input.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import msgspec

from midge.drivers.qemu.qmp import QmpError

DEVICES_MAX = 16  # of a guest; there are four
QUEUES_MAX = 16  # of a device; virtio-serial has six
ENTRIES_MAX = 32_768  # of a queue, by the specification
# Memory above is not at its address in the memory file: the board has a hole below 4 GiB. Buffers there stay.
LOW_MEMORY_BYTES = 2 * 1024**3

_DESCRIPTOR = struct.Struct("<QIHH")  # address, length, flags, next
_NEXT, _WRITE, _INDIRECT = 1, 2, 4  # flags: goes on at `next`; the device writes; a table of descriptors
_INDEX = struct.Struct("<H")
_INDICES = 1 << 16  # they count modulo this
_RING = 4  # offset of the first entry of an available ring: flags and index are before


class Monitor(Protocol):
    """As much of `Qmp` as is used here."""

    async def execute(self, command: str, **arguments: Any) -> Any: ...


class Queue(msgspec.Struct, frozen=True, rename="kebab"):
    """A split virtqueue, as ``x-query-virtio-queue-status`` tells it. Addresses are the guest's."""

    vring_num: int
    vring_desc: int
    vring_avail: int
    last_avail_idx: int  # where the device goes on


async def queues(qmp: Monitor) -> list[Queue]:
    """The queues of all of a guest's devices; none with a QEMU that does not tell (before 7.2)."""
    found = []
    try:
        for device in (await qmp.execute("x-query-virtio"))[:DEVICES_MAX]:
            path = device["path"]
            count = (await qmp.execute("x-query-virtio-status", path=path))["num-vqs"]
            for number in range(min(count, QUEUES_MAX)):
                status: Any = await qmp.execute("x-query-virtio-queue-status", path=path, queue=number)
                found.append(msgspec.convert(status, Queue))
    except (QmpError, msgspec.ValidationError, KeyError, TypeError):
        return []
    return [queue for queue in found if queue.vring_desc and 0 < queue.vring_num <= ENTRIES_MAX]


def blank(memory: Path, found: list[Queue]) -> int:
    """Writes zeros to what devices may write to and have not, in the memory file of a guest that stands still.

    Returns the number of bytes. Blocks.
    """
    fd = os.open(memory, os.O_RDWR | os.O_CLOEXEC)
    try:
        size = min(os.fstat(fd).st_size, LOW_MEMORY_BYTES)
        with mmap.mmap(fd, size) as guest:
            buffers = {buffer for queue in found for buffer in unused(guest, queue)}
            for start, length in buffers:
                guest[start : start + length] = bytes(length)
    finally:
        os.close(fd)
    return sum(length for _, length in buffers)


def unused(guest: mmap.mmap | bytes, queue: Queue) -> Iterator[tuple[int, int]]:
    """Address and length of each buffer that the device may write to and has not taken yet."""
    size = len(guest)
    if not (0 <= queue.vring_desc <= size - _DESCRIPTOR.size * queue.vring_num):
        return
    if not (0 <= queue.vring_avail <= size - _RING - _INDEX.size * queue.vring_num):
        return
    (end,) = _INDEX.unpack_from(guest, queue.vring_avail + _INDEX.size)
    waiting = (end - queue.last_avail_idx) % _INDICES
    if waiting > queue.vring_num:
        return
    for index in range(queue.last_avail_idx, queue.last_avail_idx + waiting):
        slot = queue.vring_avail + _RING + _INDEX.size * (index % queue.vring_num)
        yield from _writable(guest, queue, _INDEX.unpack_from(guest, slot)[0])


def _writable(guest: mmap.mmap | bytes, queue: Queue, head: int) -> Iterator[tuple[int, int]]:
    """Of one chain of descriptors."""
    number = head
    for _ in range(queue.vring_num):
        if number >= queue.vring_num:
            return
        place = queue.vring_desc + _DESCRIPTOR.size * number
        address, length, flags, number = _DESCRIPTOR.unpack_from(guest, place)
        if flags & _WRITE and not flags & _INDIRECT and address + length <= len(guest):
            yield address, length
        if not flags & _NEXT:
            return
