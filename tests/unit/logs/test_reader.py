"""Reading logs: records, tails over rotated files, following."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from midge.logs.files import READ_BYTES
from midge.logs.inotify import FileWatch
from midge.logs.reader import LogReader
from midge.logs.record import LogRecord, format_record, join_pieces, parse_record
from tests.deadlines import PATIENCE_S

pytestmark = pytest.mark.anyio

BASE_NS = 1_795_255_200_000_000_000


class Writer:
    """A log as a shim writes it."""

    def __init__(self, path: Path, keep: int = 3) -> None:
        self.path = path
        self.keep = keep
        self.count = 0
        path.touch()

    def write(self, count: int, size: int = 10) -> None:
        with self.path.open("ab") as file:
            for _ in range(count):
                file.write(format_record(LogRecord(BASE_NS + self.count, "stdout", self.text(size), True)))
                self.count += 1

    def text(self, size: int) -> bytes:
        return f"{self.count}".encode().ljust(size, b".")

    def rotate(self) -> None:
        for number in range(self.keep - 1, 0, -1):
            old = Path(f"{self.path}.{number}")
            if old.exists():
                old.rename(f"{self.path}.{number + 1}")
        self.path.rename(f"{self.path}.1")
        self.path.touch()


@pytest.fixture
def writer(tmp_path: Path) -> Writer:
    return Writer(tmp_path / "log")


@pytest.fixture
def at_rest(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Set whenever a reader that follows has found nothing more and waits."""
    rests = asyncio.Event()
    wait = FileWatch.wait

    async def told(self: FileWatch) -> None:
        rests.set()
        await wait(self)

    monkeypatch.setattr(FileWatch, "wait", told)
    return rests


def _numbers(records: list[LogRecord]) -> list[int]:
    return [record.time_ns - BASE_NS for record in records]


async def _take(records: AsyncIterator[LogRecord], count: int) -> list[int]:
    async with asyncio.timeout(PATIENCE_S):
        return _numbers([await anext(records) for _ in range(count)])


@given(
    st.builds(
        LogRecord,
        st.integers(0, 2**62),
        st.sampled_from(["stdout", "stderr"]),
        st.binary(max_size=50).map(lambda b: b.replace(b"\n", b"")),
        st.booleans(),
    )
)
def test_records_there_and_back(record: LogRecord) -> None:
    assert parse_record(format_record(record)[:-1]) == record


@given(st.binary(max_size=80))
def test_anything_else_is_no_record(line: bytes) -> None:
    assert parse_record(line) is None


def test_pieces_are_joined_per_stream() -> None:
    def rec(n: int, stream: str, data: bytes, complete: bool) -> LogRecord:
        return LogRecord(n, "stderr" if stream == "e" else "stdout", data, complete)

    joined = join_pieces(
        [
            rec(1, "o", b"a", False),
            rec(2, "e", b"err", True),
            rec(3, "o", b"b", True),
            rec(4, "o", b"open", False),
        ]
    )
    assert [(r.time_ns, r.data, r.complete) for r in joined] == [
        (2, b"err", True),
        (1, b"ab", True),
        (4, b"open", False),
    ]


async def test_no_log_is_empty(tmp_path: Path) -> None:
    assert await LogReader(tmp_path / "log").tail(5) == []


@pytest.mark.parametrize("size", [3, 1000, 16_000])
async def test_tail_over_rotated_files(writer: Writer, size: int) -> None:
    for _ in range(3):
        writer.write(20, size)
        writer.rotate()
    writer.write(20, size)
    reader = LogReader(writer.path)
    for count in (0, 1, 20, 21, 79, 80, 200):
        assert _numbers(await reader.tail(count)) == list(range(80))[80 - min(count, 80) :]
    assert _numbers(await reader.tail(100, since_ns=BASE_NS + 55)) == list(range(56, 80))
    assert _numbers(await reader.tail(3, since_ns=BASE_NS + 55)) == [77, 78, 79]


async def test_tail_skips_half_a_record_and_garbage(writer: Writer) -> None:
    writer.write(2)
    with writer.path.open("ab") as file:
        file.write(b"\xff" * (2 * READ_BYTES) + b"\n")
    writer.write(1)
    with writer.path.open("ab") as file:
        file.write(b"2026-11-21T10:0")
    assert _numbers(await LogReader(writer.path).tail(9)) == [0, 1, 2]


async def test_follow_from_now_on(writer: Writer, at_rest: asyncio.Event) -> None:
    writer.write(5)
    records = LogReader(writer.path).follow()
    first = asyncio.ensure_future(anext(records))
    await at_rest.wait()
    assert not first.done()
    writer.write(2)
    assert (await first).time_ns == BASE_NS + 5
    assert await _take(records, 1) == [6]
    await records.aclose()  # type: ignore[attr-defined]  # an async generator


async def test_follow_waits_for_a_log_that_is_not_there_yet(tmp_path: Path, at_rest: asyncio.Event) -> None:
    records = LogReader(tmp_path / "log").follow()
    first = asyncio.ensure_future(anext(records))
    await at_rest.wait()
    Writer(tmp_path / "log").write(1)
    assert (await first).time_ns == BASE_NS


async def test_follow_since_a_time_over_rotated_files(writer: Writer) -> None:
    for _ in range(3):
        writer.write(10)
        writer.rotate()
    writer.write(10)
    records = LogReader(writer.path).follow(since_ns=BASE_NS + 13)
    assert await _take(records, 26) == list(range(14, 40))
    everything = LogReader(writer.path).follow(since_ns=0)
    assert await _take(everything, 40) == list(range(40))


async def test_rotation_loses_and_repeats_nothing(writer: Writer) -> None:
    records = LogReader(writer.path).follow(since_ns=0)
    writer.write(1)
    got = await _take(records, 1)
    for burst in range(12):
        writer.write(burst + 1)
        if burst % 2:
            writer.rotate()
            writer.write(3)
        if burst % 4 == 3:
            got += await _take(records, writer.count - len(got))
    assert got == list(range(writer.count))


async def test_gap_of_a_rotation_under_way_is_no_end(writer: Writer) -> None:
    for _ in range(3):
        writer.write(2)
        writer.rotate()
    writer.write(2)
    for gap in ("log.3", "log.2", "log.1", "log"):
        path = writer.path.with_name(gap)
        number = int(path.suffix[1:] or 0)
        path.rename(writer.path.with_name(f"log.{number + 1}"))
        assert _numbers(await LogReader(writer.path).tail(99)) == list(range(8))
        records = LogReader(writer.path).follow(since_ns=0)
        assert await _take(records, 8 if gap != "log" else 6) == list(range(8 if gap != "log" else 6))


async def test_a_reader_that_is_left_behind_goes_on_with_the_oldest(writer: Writer) -> None:
    records = LogReader(writer.path).follow(since_ns=0)
    writer.write(1)
    assert await _take(records, 1) == [0]
    for _ in range(6):
        writer.rotate()
        writer.write(1)
    assert await _take(records, 4) == [3, 4, 5, 6]


async def test_half_a_record_is_not_given_and_may_be_taken_back(
    writer: Writer, at_rest: asyncio.Event
) -> None:
    records = LogReader(writer.path).follow(since_ns=0)
    writer.write(1)
    assert await _take(records, 1) == [0]
    size = writer.path.stat().st_size
    with writer.path.open("ab") as file:
        file.write(b"2026-11-21T10:00:00.0000")
    pending = asyncio.ensure_future(anext(records))
    await at_rest.wait()
    with writer.path.open("r+b") as file:
        file.truncate(size)
    writer.write(1)
    assert (await pending).time_ns == BASE_NS + 1


@pytest.mark.parametrize("size", [10, 3000])
async def test_the_first_record_after_a_time_is_found_in_whatever_file_it_is(
    writer: Writer, size: int
) -> None:
    for _ in range(3):
        writer.write(READ_BYTES // (size + 40) * 3, size=size)
        writer.rotate()
    writer.write(5)
    reader = LogReader(writer.path)
    last = writer.count - 1
    for wanted in (0, 1, last // 3, last // 3 + 1, last // 2, last - 6, last - 5, last - 1, last):
        found = await reader.first(BASE_NS + wanted - 1)
        assert found is not None and found.time_ns - BASE_NS == wanted
    assert await reader.first(BASE_NS + last) is None
    assert await LogReader(writer.path.parent / "none").first(0) is None
