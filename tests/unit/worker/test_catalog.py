"""Waiting for a machine, and what the catalog counts."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from midge.clock import SystemClock
from midge.errors import DeadlineExceeded, NotFound, Unavailable
from midge.worker import catalog as catalogs
from midge.worker.catalog import Catalog
from midge.worker.record import Machine
from tests.unit.worker.records import machine

pytestmark = pytest.mark.anyio
ID = "1857156b526dd8"


@pytest.fixture
def catalog() -> Catalog:
    catalog = Catalog(SystemClock())
    catalog.publish(machine(state="stopped"))
    return catalog


def move(catalog: Catalog, state: Any, event_id: str = "", **fields: Any) -> Machine:
    before = catalog.get(ID)
    new = replace(before, state=state, seq=before.seq + 1, **fields)
    catalog.publish(new, event_id)
    return new


async def waiting(
    catalog: Catalog, *states: str, version: str = "", next_: bool = False
) -> asyncio.Task[Any]:
    wait = catalog.wait_next if next_ else catalog.wait
    task = asyncio.ensure_future(wait(ID, states, version, 5.0))
    await asyncio.sleep(0)
    return task


async def test_a_state_that_is_there_answers_at_once(catalog: Catalog) -> None:
    assert (await catalog.wait(ID, ["stopped"], "", 0)).state == "stopped"


async def test_settled_is_any_state_that_lasts(catalog: Catalog) -> None:
    assert (await catalog.wait(ID, ["settled"], "", 0)).state == "stopped"
    move(catalog, "starting")
    task = await waiting(catalog, "settled")
    move(catalog, "failed")
    assert (await task).state == "failed"


async def test_states_passed_through_count(catalog: Catalog) -> None:
    task = await waiting(catalog, "starting")
    move(catalog, "starting", "E1")
    move(catalog, "started", "E2")
    found = await task
    assert (found.state, found.event_id) == ("starting", "E1")


async def test_time_runs_out_with_the_state_it_is_in(catalog: Catalog) -> None:
    with pytest.raises(DeadlineExceeded, match="desired state, started, currently stopped"):
        await catalog.wait(ID, ["started"], "", 0.001)


async def test_failed_and_destroyed_end_the_wait_early(catalog: Catalog) -> None:
    task = await waiting(catalog, "started")
    move(catalog, "failed")
    with pytest.raises(DeadlineExceeded, match="currently failed"):
        await task
    with pytest.raises(DeadlineExceeded, match="currently failed"):
        await catalog.wait(ID, ["started"], "", 60)
    assert (await catalog.wait(ID, ["failed"], "", 0)).state == "failed"
    move(catalog, "destroyed", ipv4="")
    with pytest.raises(DeadlineExceeded, match="currently destroyed"):
        await catalog.wait(ID, ["started"], "", 60)


async def test_an_older_version_is_replaced(catalog: Catalog) -> None:
    task = await waiting(catalog, "started", version="01V1")
    move(catalog, "replacing", version="01V2")
    with pytest.raises(DeadlineExceeded, match="currently replaced"):
        await task
    with pytest.raises(DeadlineExceeded, match="currently replaced"):
        await catalog.wait(ID, ["started"], "01V1", 60)


async def test_a_version_whose_update_was_undone_is_not_waited_for_any_longer(catalog: Catalog) -> None:
    move(catalog, "replacing", version="01V2")
    task = await waiting(catalog, "stopped", version="01V2")
    move(catalog, "started", version="01V1")
    with pytest.raises(DeadlineExceeded, match="currently started"):
        await task


async def test_a_version_to_come_is_waited_for(catalog: Catalog) -> None:
    task = await waiting(catalog, "stopped", version="01V2")
    move(catalog, "stopped")
    await asyncio.sleep(0)
    assert not task.done()
    move(catalog, "stopped", version="01V2")
    assert (await task).version == "01V2"


async def test_wait_next_does_not_count_where_the_machine_is(catalog: Catalog) -> None:
    task = await waiting(catalog, "stopped", next_=True)
    assert not task.done()
    move(catalog, "starting")
    move(catalog, "stopped", "E9")
    assert (await task).event_id == "E9"


async def test_a_forgotten_machine_ends_the_wait(catalog: Catalog) -> None:
    task = await waiting(catalog, "started")
    catalog.forget(ID)
    with pytest.raises(NotFound):
        await task
    with pytest.raises(NotFound):
        await catalog.wait(ID, ["started"], "", 1)
    assert (len(catalog), catalog.reserved_mb, catalog.addresses) == (0, 0, set())


async def test_who_gives_up_leaves_nothing(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogs, "WAITERS_MAX", 1)
    task = await waiting(catalog, "started")
    with pytest.raises(Unavailable, match="more than 1 requests wait"):
        await catalog.wait(ID, ["started"], "", 1)
    task.cancel()
    await asyncio.wait([task])
    again = await waiting(catalog, "started")
    move(catalog, "started")
    assert (await again).state == "started"


def test_memory_is_spoken_for_from_start_to_stop(catalog: Catalog) -> None:
    assert catalog.reserved_mb == 0
    for state, reserved_mb in [("starting", 256), ("started", 256), ("stopping", 256), ("stopped", 0)]:
        move(catalog, state)
        assert catalog.reserved_mb == reserved_mb
    move(catalog, "replacing", memory_mb=512)
    assert catalog.reserved_mb == 512
    assert {state: n for state, n in catalog.by_state.items() if n} == {"replacing": 1}


def test_lists_by_id_with_filters_and_pages(catalog: Catalog) -> None:
    for index, app in enumerate(["a", "b", "a"]):
        catalog.publish(machine(id=f"{index}", app=app, ipv4=f"10.61.1.{index}", metadata={"n": str(index)}))
    catalog.publish(machine(id="3", app="a", state="destroyed", ipv4=""))

    def ids(**filters: Any) -> list[str]:
        return [found.id for found in catalog.select(**filters)]

    assert ids(app="a") == ["0", "2"]
    assert ids(app="a", include_deleted=True) == ["0", "2", "3"]
    assert ids(app="a", states=["destroyed"]) == ["3"]
    assert ids(after_id="0", limit=2) == ["1", ID]
    assert ids(metadata={"n": "2"}) == ["2"]
    assert ids(region="elsewhere") == []
