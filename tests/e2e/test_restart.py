"""The server dies, is stopped and comes back; machines run on meanwhile."""

from __future__ import annotations

import socket
import subprocess
from typing import Any

import pytest

from tests.e2e.conftest import Maker
from tests.e2e.serve import GUEST_TIMEOUT_S, READY_TIMEOUT_S, App, Machine, Serve, until

pytestmark = [pytest.mark.slow, pytest.mark.root]

IMAGE = "midge/hello:latest"
KNOCK_PORT = 9000
LINES = 1000
BOTH = [
    pytest.param("qemu", marks=pytest.mark.vm),
    pytest.param("container", marks=pytest.mark.container),
]

WAITING = 'midge_driver_kept{what="warm_slots"} 2.0'

# Counts in its log while it serves pages.
TICKING = "(i=0; while :; do echo tick $i; i=$((i+1)); sleep 0.2; done) & exec httpd -f -p 8080 -h /www"
# Waits for somebody to knock at a port, then prints and ends.
ENDING = f"nc -l -p {KNOCK_PORT} >/dev/null; seq {LINES}; exit 7"


def shell(script: str, **more: Any) -> dict[str, Any]:
    return {"image": IMAGE, "init": {"exec": ["/bin/sh", "-c", script]}, "restart": {"policy": "no"}, **more}


def knock(address: str) -> bool:
    try:
        socket.create_connection((address, KNOCK_PORT), timeout=2).close()
    except OSError:
        return False
    return True


def starts(machine: Machine) -> list[str]:
    return [phases["start_id"] for phases in machine.call("GET", "/phases")]


def shims(serve: Serve) -> int:
    return sum("midge-shim" in process for process in serve.state().process)


def ticks(machine: Machine) -> list[str]:
    return [line for line in machine.logs() if line.startswith("tick ")]


@pytest.mark.parametrize("driver", BOTH)
def test_machines_outlive_a_killed_server(own: Maker, driver: str) -> None:
    # Warm slots would come and go among the processes that are counted here.
    serve = own(driver, "--warm-slots", "0")
    app = serve.app("outlive")
    staying, ending = app.create(shell(TICKING)), app.create(shell(ENDING))
    assert "<title>" in staying.page()
    # One for each, once those of a template, or of whatever else led to a start, have ended.
    until(lambda: shims(serve) == 2, GUEST_TIMEOUT_S)
    before = starts(staying)
    address, staying_address = ending.get()["private_ip"], staying.get()["private_ip"]
    assert staying_address != address

    serve.kill()
    until(lambda: knock(address), GUEST_TIMEOUT_S)
    until(lambda: shims(serve) == 1, GUEST_TIMEOUT_S)
    with socket.create_connection((staying_address, 8080), timeout=GUEST_TIMEOUT_S) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert connection.recv(12).endswith(b"200")

    serve.start()
    _check_adopted(staying, before)
    _check_ended(ending)


def _check_adopted(machine: Machine, before: list[str]) -> None:
    assert machine.get()["state"] == "started"
    assert starts(machine) == before
    assert [event["status"] for event in machine.events() if event["type"] == "start"][-1:] == ["started"]
    assert machine.exec("echo", "here")["stdout"] == "here\n"
    seen = len(ticks(machine))
    until(lambda: len(ticks(machine)) > seen, GUEST_TIMEOUT_S)
    found = ticks(machine)
    assert found == [f"tick {number}" for number in range(len(found))]


def _check_ended(machine: Machine) -> None:
    machine.wait("stopped")
    exits = [event["request"]["exit_event"] for event in machine.events() if event["type"] == "exit"]
    assert [(end["exit_code"], end["requested_stop"], end["oom_killed"]) for end in exits] == [
        (7, False, False)
    ]
    assert machine.logs() == [str(number) for number in range(1, LINES + 1)]


@pytest.mark.parametrize("driver", BOTH)
def test_a_server_that_is_told_to_stop_leaves_machines_running(own: Maker, driver: str) -> None:
    serve = own(driver)
    machine = serve.app("stays").create(shell(TICKING))
    machine.page()
    before, address = starts(machine), machine.get()["private_ip"]
    assert serve.terminate() == 0
    with socket.create_connection((address, 8080), timeout=GUEST_TIMEOUT_S) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert connection.recv(12).endswith(b"200")
    serve.start()
    _check_adopted(machine, before)


@pytest.mark.container
def test_containers_that_waited_are_gone_after_a_killed_server_is_back(own: Maker) -> None:
    serve = own("container", "--warm-slots", "2")
    machine = serve.app("waits").create(shell(TICKING))
    before = starts(machine)
    until(lambda: WAITING in serve.call("GET", "/metrics"), GUEST_TIMEOUT_S)
    serve.kill()
    assert shims(serve) == 3, "of the machine, and of two that wait"
    serve.start()
    until(lambda: shims(serve) == 1, GUEST_TIMEOUT_S)
    _check_adopted(machine, before)


@pytest.mark.parametrize("driver", BOTH)
def test_a_server_killed_again_and_again_while_it_works_loses_nothing(own: Maker, driver: str) -> None:
    serve = own(driver)
    app = serve.app("again")
    kept = app.create(shell(TICKING))
    begun = [app.create(shell("sleep inf"), wait="", skip_launch=True) for _ in range(3)]
    for machine in begun:
        machine.wait("settled")
        serve.call("POST", f"{machine.path}/metadata/tried", {"value": "1"}, expect=204)
        _start_and_kill(serve, machine)
        serve.start()
    for machine in begun:
        state = machine.wait("settled")["state"]
        assert state in ("created", "started"), state
        machine.start()
        assert machine.exec("true")["exit_code"] == 0
    assert kept.get()["state"] == "started"


def _start_and_kill(serve: Serve, machine: Machine) -> None:
    """Kills the server in the middle of a start."""
    asking = subprocess.Popen(
        serve.midge_command("machine", "start", "-d", "-a", machine.app.name, machine.id),
        env=serve.env,
        cwd=serve.base,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: machine.get()["state"] in ("starting", "started"), GUEST_TIMEOUT_S, pause_s=0)
        serve.kill()
    finally:
        asking.kill()
        asking.wait()


def refused(serve: Serve) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        serve.command(), env=serve.env, capture_output=True, text=True, timeout=READY_TIMEOUT_S, check=False
    )


def test_a_second_server_on_the_same_data_is_refused(own: Maker) -> None:
    serve = own("mock")
    second = refused(serve)
    assert second.returncode == 5
    assert f"in use by another midge serve, process {serve.pid}" in second.stderr
    assert serve.call("GET", "/healthz") == {"status": "ok"}
    assert serve.ok("status")


def test_data_of_a_newer_layout_is_refused_and_left_alone(own: Maker) -> None:
    serve = own("mock")
    version = serve.data_dir / "VERSION"
    written = version.read_text()
    serve.terminate()
    version.write_text("99\n")
    before = sorted(serve.data_dir.rglob("*"))
    done = refused(serve)
    assert done.returncode == 1
    assert "has layout 99, this midge knows" in done.stderr
    assert "hint: start the newer midge again" in done.stderr
    assert sorted(serve.data_dir.rglob("*")) == before
    version.write_text(written)


def test_a_machine_of_a_dead_server_is_managed_by_the_next(own: Maker) -> None:
    serve = own("mock")
    app: App = serve.app("next")
    machine = app.create({"image": IMAGE})
    serve.kill()
    serve.start()
    machine.stop()
    machine.start()
    machine.call("DELETE", "?force=true")
    machine.wait("destroyed")
