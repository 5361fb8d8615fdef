"""Many starts and stops, one after the other and all at once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from midge.sys.leaks import HostState
from tests.e2e.conftest import Maker
from tests.e2e.serve import App, Machine, Serve, until

pytestmark = [pytest.mark.slow, pytest.mark.root]

IMAGE = {"image": "midge/hello:latest"}
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
    ("driver", "rounds"),
    [
        pytest.param("mock", 200),
        pytest.param("container", 20, marks=pytest.mark.container),
        pytest.param("qemu", 10, marks=pytest.mark.vm),
    ],
)
def test_starting_and_stopping_leaves_nothing(own: Maker, driver: str, rounds: int) -> None:
    """What is left once everything is destroyed, and the server stopped, the fixture `own` checks."""
    serve = own(driver, "--warm-slots", "0")
    machine = serve.app("rounds").create(IMAGE)
    machine.stop()
    before, open_before = serve.state(), descriptors(serve)
    for _ in range(rounds):
        machine.start()
        machine.stop()
    until(lambda: not grown(before, serve.state()), 10, lambda: "\n".join(grown(before, serve.state())))
    assert descriptors(serve) <= open_before + DESCRIPTORS_SLACK
    exits = [event for event in machine.events() if event["type"] == "exit"]
    assert exits and all(event["request"]["exit_event"]["requested_stop"] for event in exits)
    assert not [event for event in machine.events() if event["status"] == "failed"]


@pytest.mark.parametrize(
    ("server", "count"),
    [
        pytest.param("mock", 50),
        pytest.param("container", 16, marks=pytest.mark.container),
        pytest.param("qemu", 8, marks=pytest.mark.vm),
    ],
)
def test_concurrent_starts_all_succeed(
    server: str, count: int, request: pytest.FixtureRequest, new_app: Callable[[Serve], App]
) -> None:
    serve: Serve = request.getfixturevalue(server)
    app = new_app(serve)
    machines = [app.create(IMAGE, wait="settled", skip_launch=True) for _ in range(count)]

    def start(machine: Machine) -> str:
        return str(machine.start()["previous_state"])

    with ThreadPoolExecutor(count) as pool:
        assert list(pool.map(start, machines)) == ["created"] * count
    assert {one["state"] for one in serve.call("GET", app.path)} == {"started"}
    addresses = {one["private_ip"] for one in serve.call("GET", app.path)}
    assert len(addresses) == count
    if server != "mock":
        assert all("<title>" in machine.page() for machine in machines)
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(Machine.stop, machines))
    assert {one["state"] for one in serve.call("GET", app.path)} == {"stopped"}
    serve.call("DELETE", f"/v1/apps/{app.name}", expect=202)
