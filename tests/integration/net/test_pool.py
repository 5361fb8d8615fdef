"""The pool's own life: what it makes, keeps, finds again and leaves behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
import uvloop

from midge.errors import Conflict, NoCapacity, NotFound
from midge.net import host, nft, tap
from midge.net import pool as pool_module
from midge.net.naming import instance_tag
from midge.net.pool import NetPool
from tests.deadlines import PATIENCE_S

from .conftest import POOL, Lab, run_ip

pytestmark = [pytest.mark.root, pytest.mark.slow]

A, B = IPv4Address("10.61.0.2"), IPv4Address("10.61.0.3")
FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")


async def until(condition: Callable[[], bool], deadline_s: float = PATIENCE_S) -> None:
    deadline = asyncio.get_running_loop().time() + deadline_s
    for _ in iter(condition, True):
        assert asyncio.get_running_loop().time() < deadline, "it did not come about"
        await asyncio.sleep(0.005)


def addresses(namespace: str) -> str:
    words = ["ip", "netns", "exec", namespace, "ip", "-4", "-o", "addr", "show", "eth0"]
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=PATIENCE_S).stdout


@pytest.mark.anyio
async def test_free_slots_are_made_ahead_and_made_up_for(lab: Lab) -> None:
    config = lab.config(free_low={"tap": 2, "veth": 1}, free_high={"tap": 3, "veth": 2})
    async with NetPool(config) as pool:
        await until(lambda: pool.statistics().free == {"tap": 3, "veth": 2})
        taken = [await pool.take("tap", IPv4Address(f"10.61.1.{n}")) for n in range(1, 3)]
        assert pool.statistics().taken_without_waiting == 2
        await until(lambda: pool.statistics().free["tap"] == 3)
        for slot in taken:
            await pool.give_back(slot)
        await until(lambda: pool.statistics().dirty == 0)
        assert pool.statistics().free["tap"] == 3


def test_the_last_to_leave_does_not_turn_forwarding_off_under_one_that_comes(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.enter("aaaaaa", POOL)
    comes = threading.Thread(target=host.enter, args=("bbbbbb", IPv4Network("10.62.0.0/16")))
    look = host.other_claims

    def look_and_pause(tag: str) -> bool:
        found = look(tag)
        comes.start()
        comes.join(0.2)  # as long as it would need, if nothing held it back
        return found

    monkeypatch.setattr(host, "other_claims", look_and_pause)
    host.leave("aaaaaa", POOL)
    monkeypatch.undo()
    comes.join()
    assert FORWARDING.read_text() == "1\n"
    host.leave("bbbbbb", IPv4Network("10.62.0.0/16"))
    assert FORWARDING.read_text() == "0\n"


@pytest.mark.anyio
async def test_a_tap_slot_is_used_again_and_a_veth_slot_never(lab: Lab) -> None:
    async with NetPool(lab.config()) as pool:
        first = await pool.take("tap", A)
        await pool.give_back(first)
        second = await pool.take("tap", B)
        assert (second.name, second.ip) == (first.name, B)
        veth = await pool.take("veth", A)
        await pool.give_back(veth)
        assert (await pool.take("veth", A)).name != veth.name
        for name in list(pool._taken):
            await pool.give_back(await pool.adopt(name))


@pytest.mark.anyio
async def test_a_reserved_veth_gets_its_address_later_and_once(lab: Lab) -> None:
    async with NetPool(lab.config(free_high={"veth": 2})) as pool:
        slot = await pool.reserve("veth")
        assert (slot.kind, slot.ip) == ("veth", None)
        filled = await pool.assign(slot, A)
        assert f"inet {A}/32" in addresses(slot.name)
        with pytest.raises(Conflict):
            await pool.assign(filled, B)
        await pool.give_back(filled)
        # One that never got an address, and one that does not get it.
        await pool.give_back(await pool.reserve("veth"))
        holder, late = await pool.take("veth", A), await pool.reserve("veth")
        with pytest.raises(Conflict):
            await pool.assign(late, A)
        for one in (late, holder):
            await pool.give_back(one)
        await until(lambda: pool.statistics().dirty == 0)


@pytest.mark.anyio
async def test_a_tap_that_is_still_open_is_not_used_again(lab: Lab) -> None:
    async with NetPool(lab.config()) as pool:
        slot = await pool.take("tap", A)
        held = tap.open_tap(slot.netns_path)
        await pool.give_back(slot)
        assert pool.statistics().free["tap"] == 0
        await until(lambda: pool.statistics().destroyed == 1)
        os.close(held)


@pytest.mark.anyio
async def test_an_address_is_given_out_once(lab: Lab) -> None:
    async with NetPool(lab.config()) as pool:
        slot = await pool.take("tap", A)
        with pytest.raises(Conflict, match="routed already"):
            await pool.take("tap", A)
        await pool.give_back(slot)
        await pool.give_back(await pool.take("tap", A))


@pytest.mark.anyio
async def test_the_limit_of_slots_holds(lab: Lab) -> None:
    async with NetPool(lab.config(slots_max=2, free_high={})) as pool:
        slots = [await pool.take("veth", A), await pool.take("veth", B)]
        with pytest.raises(NoCapacity, match="all 2 network slots"):
            await pool.take("veth", IPv4Address("10.61.0.4"))
        for slot in slots:
            await pool.give_back(slot)


@pytest.mark.anyio
async def test_a_machines_slot_outlives_the_pool_and_is_adopted(lab: Lab) -> None:
    async with NetPool(lab.config()) as pool:
        slots = [await pool.take("tap", A), await pool.take("veth", B)]
    assert nft.exists(lab.tag)
    async with NetPool(lab.config()) as pool:
        assert await pool.sweep({slot.name for slot in slots}) == []
        for slot in slots:
            again = await pool.adopt(slot.name)
            assert (again.kind, again.ip, again.host_ifname) == (slot.kind, slot.ip, slot.host_ifname)
            await pool.give_back(again)
        with pytest.raises(NotFound):
            await pool.adopt(f"mg-{lab.tag}-999")
    assert not nft.exists(lab.tag)


@pytest.mark.anyio
async def test_a_sweep_takes_half_made_slots_and_nothing_of_others(lab: Lab) -> None:
    other = "fffffe" if lab.tag != "fffffe" else "fffffd"
    run_ip("link", "add", f"mg{lab.tag}77", "type", "veth", "peer", "name", "lonely")
    run_ip("link", "add", f"mg{other}1", "type", "veth", "peer", "name", "foreign")
    (lab.outside.parent / f"mg-{lab.tag}-78").touch()
    async with NetPool(lab.config()) as pool:
        slot = await pool.take("tap", A)
        assert await pool.sweep() == [f"mg-{lab.tag}-77", f"mg-{lab.tag}-78"]
        await pool.give_back(slot)
    run_ip("link", "del", f"mg{other}1")


VICTIM = """
import asyncio, structlog, sys
from ipaddress import IPv4Address
from midge.net.config import NetConfig
from midge.net.pool import NetPool

async def main():
    both = {"tap": 4, "veth": 4}
    async with NetPool(NetConfig(tag=sys.argv[1], free_low=both, free_high=both)) as pool:
        kept = await pool.take("tap", IPv4Address("10.61.0.2"))
        # Taps are not taken below: from now on there is one more than the one that is known.
        while not pool.statistics().free["tap"]:
            await asyncio.sleep(0.01)
        print(kept.name, flush=True)
        n = 0
        while True:
            n = n % 100 + 1
            slot = await pool.take("veth", IPv4Address(f"10.61.1.{n}"))
            await pool.give_back(slot)
            print(n, flush=True)

structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
asyncio.run(main())
"""


def killed_in_round(tag: str, rounds: int) -> str:
    """Runs an instance and kills it while it takes and makes slots; returns the name of the slot it had in use."""
    with subprocess.Popen([sys.executable, "-c", VICTIM, tag], stdout=subprocess.PIPE, text=True) as victim:
        assert victim.stdout is not None
        known = victim.stdout.readline().strip()
        for _ in range(rounds):
            victim.stdout.readline()
        victim.send_signal(signal.SIGKILL)
        assert victim.wait() == -signal.SIGKILL
    return known


@pytest.mark.anyio
@pytest.mark.parametrize("rounds", [1, 9, 23])
async def test_after_kill_9_the_next_instance_sweeps_all_but_the_known(lab: Lab, rounds: int) -> None:
    known = killed_in_round(lab.tag, rounds)
    async with NetPool(lab.config()) as pool:
        assert len(await pool.sweep({known})) >= 1
        assert await pool.sweep({known}) == []
        slot = await pool.adopt(known)
        assert slot.ip == A
        await pool.give_back(slot)


@pytest.mark.anyio
async def test_an_overlapping_route_of_the_host_is_named(lab: Lab) -> None:
    run_ip("route", "add", "10.61.128.0/24", "dev", "up0")
    with pytest.raises(Conflict, match=r"overlaps the host's route 10\.61\.128\.0/24 on up0"):
        await NetPool(lab.config()).open()
    run_ip("route", "del", "10.61.128.0/24")


@pytest.mark.anyio
async def test_two_instances_share_a_host_but_no_addresses(lab: Lab, tmp_path: Path) -> None:
    second = instance_tag(tmp_path)
    async with NetPool(lab.config()) as pool:
        with pytest.raises(Conflict, match="overlaps"):
            await NetPool(lab.config(tag=second)).open()
        async with NetPool(lab.config(tag=second, pool=IPv4Network("10.62.0.0/16"))) as other:
            one, two = await pool.take("tap", A), await other.take("tap", IPv4Address("10.62.0.2"))
            assert await other.sweep() == await pool.sweep() == []
            await other.give_back(two)
        assert nft.exists(lab.tag)
        assert FORWARDING.read_text() == "1\n"
        await pool.give_back(one)
    assert FORWARDING.read_text() == "0\n"


@pytest.mark.anyio
async def test_a_host_that_was_a_router_stays_one(lab: Lab) -> None:
    FORWARDING.write_text("1")
    async with NetPool(lab.config()):
        pass
    assert FORWARDING.read_text() == "1\n"


@pytest.mark.anyio
async def test_a_flushed_firewall_comes_back(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "FIREWALL_CHECK_S", 0.02)
    async with NetPool(lab.config()) as pool:
        await nft.apply("flush ruleset")
        await until(lambda: pool.statistics().firewall_restored >= 1)
        assert nft.exists(lab.tag)


@pytest.mark.anyio
async def test_cancelled_takes_leave_nothing(lab: Lab) -> None:
    async with NetPool(lab.config()) as pool:
        tasks = [asyncio.create_task(pool.take("veth", IPv4Address(f"10.61.2.{n}"))) for n in range(1, 25)]
        for n, task in enumerate(tasks):
            await asyncio.sleep(0.0005 * (n % 5))
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if not isinstance(result, BaseException):
                await pool.give_back(result)


@pytest.fixture
def started_uvloop() -> None:
    """What libuv opens once in a process is no leak."""
    uvloop.run(asyncio.sleep(0))


@pytest.mark.usefixtures("started_uvloop", "lab")
def test_200_starts_and_stops_under_uvloop_leave_nothing(lab: Lab) -> None:
    async def churn(pool: NetPool, lane: int) -> None:
        for n in range(20):
            slot = await pool.take("tap" if n % 2 else "veth", POOL[256 * (lane + 1) + n])
            await pool.give_back(slot)

    async def main() -> int:
        config = lab.config(free_low={"tap": 4, "veth": 4}, free_high={"tap": 8, "veth": 8})
        async with NetPool(config) as pool:
            async with asyncio.TaskGroup() as tasks:
                for lane in range(10):
                    tasks.create_task(churn(pool, lane))
            counts = pool.statistics()
        return counts.taken_without_waiting + counts.taken_after_making

    assert uvloop.run(main()) == 200
