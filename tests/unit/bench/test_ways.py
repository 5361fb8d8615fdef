from __future__ import annotations

from pathlib import Path

import pytest

from midge.bench import crowd, memory, suspended
from midge.bench.context import Context, Options
from midge.bench.errors import CannotMeasure
from midge.bench.floor import peers
from midge.bench.floor.qemu import blank_of, template_of
from midge.bench.model import Report
from midge.bench.pool import MACHINES_A_ROUND_MAX, Pool, pool_from
from midge.bench.quiet import busy_share, cpu_times
from midge.bench.ways import Ways, way
from midge.drivers.pool_settings import ParkedSettings, PoolSettings

SLOT = [("journal", 1.0), ("slot", 2.0), ("guest", 9.0)]
WAITING = [("journal", 1.0), ("restore", 2.0), ("guest", 90.0)]
NEW = [("journal", 1.0), ("spawn", 8.0), ("restore", 9.0), ("guest", 99.0)]


def context(driver: str = "qemu", **options: object) -> Context:
    from midge.bench.http import Server
    from midge.bench.target import Target

    target = Target(server=Server("http://127.0.0.1:1", "t"), driver=driver, variant="", app="a")
    return Context(
        bench="start", target=target, api=None,  # type: ignore[arg-type]  # nothing is asked
        options=Options(**options), report=Report(), note=lambda text: None,  # type: ignore[arg-type]  # by name
    )  # fmt: skip


# ── ways ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("phases", "name"),
    [
        (SLOT, "warm slot"),
        (WAITING, "waiting VMM"),
        (NEW, "new VMM"),
        ([("journal", 1.0), ("launch", 2.0)], ""),
    ],
)
def test_the_way_of_a_start_is_told_by_its_phases(phases: list[tuple[str, float]], name: str) -> None:
    assert way(phases) == name


def test_a_resume_has_other_ways() -> None:
    assert way(WAITING, resumed=True) == "restore"
    assert way([("parked", 2.0)], resumed=True) == "parked"
    assert way([("thaw", 2.0)], resumed=True) == ""


def test_series_are_named_after_their_way_and_compared_with_the_same_one() -> None:
    ctx, ways = context(), Ways("qemu")
    ways.add(NEW, first_byte=100.0)
    ways.add(SLOT, first_byte=10.0)
    ways.add(SLOT, first_byte=20.0)
    ways.record(ctx, floors={"first byte": "floor{way}"}, notes={"first byte": "seen"})
    found = [(m.name, m.samples, m.floor, m.note) for m in ctx.report.measurements]
    assert found == [
        ("first byte, warm slot", [10.0, 20.0], "floor, warm slot", "seen"),
        ("first byte, new VMM", [100.0], "floor, new VMM", "seen"),
    ]
    assert [phases.way for phases in ctx.report.phases] == ["warm slot", "new VMM"]


def test_a_driver_with_one_way_has_no_names_for_it() -> None:
    ctx, ways = context("mock"), Ways("mock", resumed=True)
    ways.add(WAITING, resumed=1.0)
    ways.record(ctx)
    assert [m.name for m in ctx.report.measurements] == ["resumed"]


def test_a_way_that_is_not_known_is_said() -> None:
    ctx, ways = context(), Ways("qemu")
    ways.add(None, first_byte=1.0)
    ways.record(ctx)
    assert "way is not known" in ctx.report.skipped[0].reason


# ── what a server keeps ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_round_takes_every_slot_and_one_more() -> None:
    pool = Pool(per_key=2, parked=4)
    assert [pool.starts(driver) for driver in ("qemu", "container", "mock")] == [5, 3, 1]
    assert pool.suspends() == 5
    assert Pool(per_key=500, parked=500).starts("qemu") == MACHINES_A_ROUND_MAX


def test_a_pool_is_what_the_server_says_or_would_be_set_to() -> None:
    assert pool_from({}) == Pool(per_key=PoolSettings().per_key, parked=ParkedSettings().vms_max)
    assert pool_from({"warm_slots": 0, "parked_max": 0}) == Pool(per_key=0, parked=0)


# ── quiet ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_time_in_which_nothing_ran_is_not_busy() -> None:
    before = cpu_times("cpu  100 0 50 800 50 0 0 0 0 0\ncpu0 1 2 3\n")
    after = cpu_times("cpu  110 0 50 870 70 0 0 0 0 0\n")
    assert before == (150, 1000)
    assert busy_share(before, after) == pytest.approx(0.1)
    assert busy_share(before, before) == 0.0


# ── many at once ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_crowd_that_queued_has_a_load_of_one() -> None:
    assert crowd.load([50 * 10 / 2], single_ms=10.0, count=50, cpus=2) == 1.0


def test_a_crowd_is_compared_with_single_ones_of_the_way_most_went() -> None:
    ctx = context()
    found = [crowd.One(5.0, "warm slot"), crowd.One(30.0, "new VMM"), crowd.One(30.0, "new VMM")]
    crowd.record(ctx, "started", found, {"warm slot": [1.0], "new VMM": [10.0]})
    by_name = {m.name: m.samples for m in ctx.report.measurements}
    assert by_name["started, 3 at once"] == [5.0, 30.0, 30.0]
    assert by_name["started, 3 at once: failed"] == [0.0]
    # p99 of one processor's share: 30 ms × CPUs / (3 × 10 ms)
    import os

    assert by_name["started, 3 at once: load"] == [float(os.cpu_count() or 1)]


def test_those_that_failed_are_counted_and_named() -> None:
    ctx = context()
    crowd.record(ctx, "started", [crowd.One(5.0), crowd.One(0.0, error="no room")], {})
    by_name = {m.name: m.samples for m in ctx.report.measurements}
    assert (by_name["started, 2 at once"], by_name["started, 2 at once: failed"]) == ([5.0], [1.0])
    assert "no room" in ctx.report.skipped[0].reason


# ── rounds ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_rounds_warm_up_first_and_end_with_their_time() -> None:
    assert list(context().rounds(2, warm_up=1)) == [-1, 0, 1]
    assert list(context().rounds(100, time_s=-1.0)) == [0, 1, 2]
    assert len(list(context(samples=5).rounds(100, time_s=-1.0))) == 5  # who says how many gets as many


# ── files of the drivers ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_template_is_told_by_its_size(tmp_path: Path) -> None:
    for name, size in (("a", 100), ("b", 200), (".half", 100)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "memory").write_bytes(b"x" * size)
        (tmp_path / name / "seal").touch()
    assert template_of(tmp_path, 100) == tmp_path / "a"
    with pytest.raises(CannotMeasure, match="0 templates"):
        template_of(tmp_path, 300)


def test_a_blank_disk_is_told_by_its_size(tmp_path: Path) -> None:
    (tmp_path / "blank2-8192m.ext4").write_bytes(b"x" * 10)
    assert blank_of(tmp_path, 10).name == "blank2-8192m.ext4"
    with pytest.raises(CannotMeasure, match="no blank disk"):
        blank_of(tmp_path, 11)


def test_a_snapshot_is_durable_when_its_record_says_so(tmp_path: Path) -> None:
    seal = tmp_path / "seal"
    assert suspended.recorded_ns(seal) == 0
    seal.write_bytes(b'{"metadata":{"durable_at_ns":0}}\nmac\n')
    assert suspended.recorded_ns(seal) == 0
    seal.write_bytes(b'{"metadata":{"durable_at_ns":7}}\nmac\n')
    assert suspended.recorded_ns(seal) == 7
    seal.write_bytes(b"half")
    assert suspended.recorded_ns(seal) == 0


def test_what_rests_takes_what_its_files_take(tmp_path: Path) -> None:
    assert memory.resting_mb(tmp_path / "none", tmp_path, "m1") == 0
    (tmp_path / "suspended-m1").write_bytes(b"x" * (1 << 20))
    assert memory.resting_mb(tmp_path / "none", tmp_path, "m1") >= 1
    assert memory.resting_mb(tmp_path / "none", tmp_path / "gone", "m1") == 0


def test_podman_has_a_place_of_its_own(tmp_path: Path) -> None:
    engine = peers.podman(tmp_path, tmp_path / "run")
    assert str(tmp_path / "root") in engine.words and str(tmp_path / "run" / "root") in engine.words
    assert "file" in Path(engine.env["CONTAINERS_CONF"]).read_text()
    assert engine.create[:2] == ("--network", "none")
