"""Many starts and stops, one after the other and all at once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from midge.sys.leaks import HostState
from tests.e2e.conftest import Maker
from tests.e2e.serve import STOP_TIMEOUT_S, App, Machine, Serve, until
from tests.rounds import rounds

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.timeout(1200)]

IMAGE = {"image": "midge/hello:latest"}
ALL_AT_ONCE_S = 300.0  # many at once on a busy host; what counts is that none fails
NETNS_MAX = 8  # free slots the pool keeps, and the kernel's number of them varies with every start
# A server may hold a few connections or database handles more than at another moment.
DESCRIPTORS_SLACK = 8


def descriptors(serve: Serve) -> int:
    return len(list(Path(f"/proc/{serve.pid}/fd").iterdir()))


def grown(before: HostState, after: HostState) -> list[str]:
    """What there is more of. Namespaces are exchanged for new ones, so those are counted."""
    found = [
        thing
        for kind in ("process", "cgroup", "nftables", "file")
        for thing in getattr(after, kind) - getattr(before, kind)
    ]
    for kind in ("netns", "mount", "interface"):
        count = len(getattr(after, kind))
        if count > max(len(getattr(before, kind)), NETNS_MAX):
            found.append(f"{count} of {kind}")
    return found


@pytest.mark.parametrize(
    ("driver", "count"),
    [
        pytest.param("mock", rounds(200, 200)),
        pytest.param("container", rounds(20, 200), marks=pytest.mark.container),
        pytest.param("qemu", rounds(10, 200), marks=pytest.mark.vm),
    ],
)
def test_starting_and_stopping_leaves_nothing(own: Maker, driver: str, count: int) -> None:
    """What is left once everything is destroyed, and the server stopped, the fixture `own` checks."""
    serve = own(driver, "--warm-slots", "0")
    machine = serve.app("rounds").create(IMAGE)
    machine.stop()
    before, open_before = serve.state(), descriptors(serve)
    for _ in range(count):
        machine.start()
        machine.stop()
    until(
        lambda: not grown(before, serve.state()),
        STOP_TIMEOUT_S,
        lambda: "\n".join(grown(before, serve.state())),
    )
    until(lambda: descriptors(serve) <= open_before + DESCRIPTORS_SLACK, STOP_TIMEOUT_S)
    exits = [event for event in machine.events() if event["type"] == "exit"]
    assert exits and all(event["request"]["exit_event"]["requested_stop"] for event in exits)
    assert not [event for event in machine.events() if event["status"] == "failed"]


@pytest.mark.parametrize(
    ("server", "count"),
    [
        pytest.param("mock", rounds(50, 50)),
        pytest.param("container", rounds(16, 50), marks=pytest.mark.container),
        pytest.param("qemu", rounds(12, 50), marks=pytest.mark.vm),
    ],
)
@pytest.mark.parametrize("at_once", ["create", "start"])
def test_many_at_the_same_time_all_succeed(
    at_once: str, server: str, count: int, request: pytest.FixtureRequest, new_app: Callable[[Serve], App]
) -> None:
    serve: Serve = request.getfixturevalue(server)
    app = new_app(serve)
    if at_once == "start":
        machines = [app.create(IMAGE, wait="settled", skip_launch=True) for _ in range(count)]

    def down(machine: Machine) -> None:
        machine.call("POST", "/stop")
        until(lambda: machine.reaches("stopped"), ALL_AT_ONCE_S, pause_s=0)

    def up(number: int) -> Machine:
        if at_once == "create":
            machine = app.create(IMAGE, wait="")
        else:
            machine = machines[number]
            assert machine.call("POST", "/start")["previous_state"] == "created"
        until(lambda: machine.reaches("started"), ALL_AT_ONCE_S, pause_s=0)
        return machine

    with ThreadPoolExecutor(count) as pool:
        machines = list(pool.map(up, range(count)))
    assert {one["state"] for one in serve.call("GET", app.path)} == {"started"}
    addresses = {one["private_ip"] for one in serve.call("GET", app.path)}
    assert len(addresses) == count
    if server != "mock":
        assert all("<title>" in machine.page() for machine in machines)
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(down, machines))
    assert {one["state"] for one in serve.call("GET", app.path)} == {"stopped"}
    assert all(machine.events()[-1]["status"] == "stopped" for machine in machines), "no restart, no failure"
    serve.call("DELETE", f"/v1/apps/{app.name}", expect=202)
