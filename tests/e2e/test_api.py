"""The life of a virtual machine through plain HTTP. Every answer has a request id: `Serve.request` sees to it."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from midge.net.resolver import host_nameservers
from tests.e2e.serve import GUEST_TIMEOUT_S, App, Machine, Serve, until
from tests.integration.cli.conftest import Midge
from tests.integration.cli.terminal import terminal

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.vm]

IMAGE = "midge/hello:latest"
CLOCK_TICK_MS = 20  # figures in /proc are in hundredths of a second, each rounded
CLOCK_SKEW_MS = 3000
# Whoever has read its first line may send it the signal.
TALKING = "trap 'echo got usr1' USR1; echo COLOUR=$COLOUR; while :; do sleep 0.1; done"


def shell(script: str, **more: Any) -> dict[str, Any]:
    return {"image": IMAGE, "init": {"exec": ["/bin/sh", "-c", script]}, **more}


@pytest.fixture
def app(qemu: Serve, new_app: Callable[[Serve], App]) -> App:
    return new_app(qemu)


@pytest.fixture
def web(app: App) -> Machine:
    return app.create({"image": IMAGE})


def test_from_create_to_destroy(app: App) -> None:
    machine = app.create(shell(TALKING, env={"COLOUR": "red"}), wait="settled", skip_launch=True, name="life")
    assert machine.get()["state"] == "created"
    first = machine.get()["version"]
    assert machine.start()["previous_state"] == "created"
    until(lambda: machine.logs() == ["COLOUR=red"], GUEST_TIMEOUT_S)
    machine.stop()
    machine.start()
    until(lambda: machine.logs() == ["COLOUR=red"] * 2, GUEST_TIMEOUT_S)
    machine.call("POST", "/restart")
    until(lambda: machine.logs() == ["COLOUR=red"] * 3, GUEST_TIMEOUT_S)
    machine.wait("started")
    updated = machine.call("POST", "", {"config": shell(TALKING, env={"COLOUR": "blue"})})
    assert updated["version"] != first
    machine.call("GET", "/wait", params={"state": "started", "version": updated["version"]})
    until(lambda: machine.logs()[-1] == "COLOUR=blue", GUEST_TIMEOUT_S)
    assert [one["version"] for one in machine.call("GET", "/versions")] == [updated["version"], first]
    old = machine.call("GET", f"?version={first}")
    assert (old["state"], old["config"]["env"]) == ("replaced", {"COLOUR": "red"})
    machine.call("DELETE", "", expect=412)
    machine.call("DELETE", "?force=true")
    machine.wait("destroyed")
    assert machine.get()["state"] == "destroyed"
    assert app.serve.call("GET", app.path) == []
    _check_story(machine)


def _check_story(machine: Machine) -> None:
    events = machine.events()
    assert [event["timestamp"] for event in events] == sorted(event["timestamp"] for event in events)
    story = [(event["type"], event["status"]) for event in events]
    milestones = [
        ("launch", "created"),
        ("start", "started"),
        ("exit", "stopped"),
        ("start", "started"),
        ("restart", "restarting"),
        ("update", "replacing"),
        ("destroy", "destroying"),
        ("destroy", "destroyed"),
    ]
    place = 0
    for milestone in milestones:
        assert milestone in story[place:], (milestone, story)
        place += story[place:].index(milestone) + 1


def test_a_signal_reaches_the_process(app: App) -> None:
    machine = app.create(shell(TALKING))
    until(lambda: len(machine.logs()) == 1, GUEST_TIMEOUT_S)
    machine.call("POST", "/signal", {"signal": "SIGUSR1"})
    until(lambda: machine.logs()[-1] == "got usr1", GUEST_TIMEOUT_S)
    assert machine.get()["state"] == "started"


def test_a_stop_asks_first_and_kills_after_its_timeout(app: App) -> None:
    machine = app.create(shell("trap '' INT TERM; echo deaf; while :; do sleep 0.1; done"))
    until(lambda: machine.logs() == ["deaf"], GUEST_TIMEOUT_S)
    begun = time.monotonic()
    machine.call("POST", "/stop", {"signal": "SIGTERM", "timeout": "1s"})
    machine.wait("stopped")
    assert time.monotonic() - begun >= 1
    (end,) = [event["request"]["exit_event"] for event in machine.events() if event["type"] == "exit"]
    assert end["requested_stop"] is True
    assert end["exit_code"] == 137


def test_a_command_that_a_suspend_ends_is_answered_with_the_state(web: Machine) -> None:
    with ThreadPoolExecutor(1) as pool:
        sleeping = {"command": ["sh", "-c", "echo > /dev/shm/begun; sleep 600"], "timeout": 60}
        running = pool.submit(web.call, "POST", "/exec", sleeping, expect=412)
        until(lambda: web.exec("test", "-e", "/dev/shm/begun")["exit_code"] == 0, GUEST_TIMEOUT_S)
        web.call("POST", "/suspend")
        answer = running.result(GUEST_TIMEOUT_S)
    assert answer["code"] == "failed_precondition"
    assert "suspend" in answer["error"]
    web.wait("suspended")
    assert "suspended" in web.call("POST", "/exec", {"command": ["true"]}, expect=412)["error"]


def test_a_machine_asks_its_hosts_nameservers(web: Machine) -> None:
    nameservers = host_nameservers()
    if not nameservers:
        pytest.skip("this host has no nameserver that its machines could reach")
    lines = web.exec("cat", "/etc/resolv.conf")["stdout"].splitlines()
    assert lines == [f"nameserver {address}" for address in nameservers]


def test_exec_returns_output_code_and_passes_stdin(web: Machine) -> None:
    done = web.exec("sh", "-c", "cat; echo bad >&2; exit 5", stdin="in\n")
    assert (done["exit_code"], done["stdout"], done["stderr"]) == (5, "in\n", "bad\n")
    assert web.exec("no-such-program")["exit_code"] == 127
    assert web.exec("/etc/passwd")["exit_code"] == 126
    assert web.exec("sh", "-c", "kill -9 $$")["exit_signal"] == 9
    assert web.call("POST", "/exec", {"cmd": "echo 'a  b' c"})["stdout"] == "a  b c\n"


def test_exec_ends_a_command_that_takes_too_long(web: Machine) -> None:
    # Longer than the answer and the deadline may take: it does not end by itself.
    answer = web.call("POST", "/exec", {"command": ["sleep", "600"], "timeout": 1}, expect=408)
    assert "did not end within 1 s" in answer["error"]
    until(lambda: not any("sleep 600" in one["command"] for one in web.call("GET", "/ps")), GUEST_TIMEOUT_S)


def test_a_terminal_of_the_command_line_is_one_in_the_machine(web: Machine) -> None:
    serve = web.serve
    user = Midge(serve.env, serve.base, web.app.name)
    with terminal(user, "machine", "exec", "-it", web.id, "sh") as tty:
        tty.until_raw()
        tty.type(b"stty size; tty; echo $((6*7))\n")
        tty.until(b"30 100")
        tty.until(b"/dev/pts/")
        tty.until(b"42")
        tty.type(b"exit 9\n")
        assert tty.wait() == 9


def _servers(machine: Machine) -> list[Any]:
    return [one for one in machine.call("GET", "/ps") if "httpd" in one["command"]]


def test_ps_shows_who_listens(web: Machine) -> None:
    web.page()
    # It has a process for each page, which may not have ended yet when the page is here.
    until(lambda: len(_servers(web)) == 1, GUEST_TIMEOUT_S)
    asked_ms = time.time() * 1000
    (server,) = _servers(web)
    answered_ms = time.time() * 1000
    assert [socket["address"].rpartition(":")[2] for socket in server["listen_sockets"]] == ["8080"]
    assert server["rss"] > 0
    assert 0 <= server["cpu"] <= server["rtime"] + CLOCK_TICK_MS
    assert asked_ms - CLOCK_SKEW_MS < server["stime"] + server["rtime"] < answered_ms + CLOCK_SKEW_MS


def test_metadata_changes_without_a_new_version(web: Machine) -> None:
    version = web.get()["version"]
    web.call("POST", "/metadata/role", {"value": "db"}, expect=204)
    web.call("PATCH", "/metadata", {"metadata": {"zone": "a", "role": "web"}}, expect=204)
    assert web.call("GET", "/metadata") == {"role": "web", "zone": "a"}
    web.call("DELETE", "/metadata/zone", expect=204)
    assert web.call("GET", "/metadata/role") == {"value": "web"}
    listed = web.serve.call("GET", f"{web.app.path}?metadata.role=web")
    assert [one["id"] for one in listed] == [web.id]
    assert web.get()["version"] == version


def test_a_lease_keeps_others_out(web: Machine) -> None:
    nonce = web.call("POST", "/lease", {"ttl": 60, "description": "mine"}, expect=201)["data"]["nonce"]
    refused = web.call("POST", "/stop", expect=409)
    assert "lease" in refused["error"]
    web.call("POST", "/lease", {"ttl": 60}, expect=409)
    assert web.get()["state"] == "started"
    assert web.call("GET", "/lease")["data"]["description"] == "mine"
    holder = {"fly-machine-lease-nonce": nonce}
    web.call("POST", "/stop", headers=holder)
    web.wait("stopped")
    web.call("DELETE", "/lease", headers=holder)
    web.call("GET", "/lease", expect=404)
    web.start()


def test_cordon_and_uncordon(web: Machine) -> None:
    web.call("POST", "/cordon")
    assert web.get()["cordoned"] is True
    web.call("POST", "/uncordon")
    assert web.get()["cordoned"] is False


def test_a_suspended_machine_goes_on_where_it_was(app: App) -> None:
    machine = app.create(
        shell("(i=0; while :; do echo tick $i; i=$((i+1)); sleep 0.2; done) & exec httpd -f -p 8080 -h /www")
    )
    machine.page()
    boot = machine.exec("cat", "/proc/sys/kernel/random/boot_id")["stdout"]
    assert machine.exec("sh", "-c", "echo kept > /tmp/note")["exit_code"] == 0
    machine.call("POST", "/suspend")
    machine.wait("suspended")
    seen = len(machine.logs())
    machine.call("POST", "/exec", {"command": ["true"]}, expect=412)
    assert machine.start()["previous_state"] == "suspended"
    assert machine.exec("cat", "/tmp/note")["stdout"] == "kept\n"
    assert machine.exec("cat", "/proc/sys/kernel/random/boot_id")["stdout"] == boot
    until(lambda: len(machine.logs()) > seen, GUEST_TIMEOUT_S)
    found = machine.logs()
    assert found == [f"tick {number}" for number in range(len(found))]
    assert "<title>" in machine.page()


def test_a_process_that_fails_is_started_again_as_its_policy_says(app: App) -> None:
    config = shell("echo up; exit 3", restart={"policy": "on-failure", "max_retries": 1})
    machine = app.create(config, wait="")

    def ends() -> list[tuple[int, bool]]:
        exits = [event["request"]["exit_event"] for event in machine.events() if event["type"] == "exit"]
        return [(end["exit_code"], end["restarting"]) for end in exits]

    # It may be stopped for a moment between its runs, too.
    until(lambda: len(ends()) == 2, GUEST_TIMEOUT_S)
    machine.wait("stopped")
    assert ends() == [(3, True), (3, False)]
    assert machine.logs() == ["up", "up"]


def test_a_new_machine_has_its_identity_and_fresh_disks(app: App) -> None:
    one, two = app.create({"image": IMAGE}, name="one"), app.create({"image": IMAGE}, name="two")
    for machine in (one, two):
        assert machine.exec("hostname")["stdout"].strip() == machine.id
        assert machine.exec("sh", "-c", "echo $FLY_MACHINE_ID")["stdout"].strip() == machine.id
    random = [machine.exec("head", "-c", "16", "/dev/urandom")["stdout"] for machine in (one, two)]
    assert random[0] != random[1]
    one.exec("sh", "-c", "echo x > /root/file")
    one.stop()
    one.start()
    assert one.exec("cat", "/root/file")["exit_code"] == 1
    asked_s = time.time()
    told_s = float(one.exec("date", "+%s")["stdout"])
    assert asked_s - CLOCK_SKEW_MS / 1000 < told_s < time.time() + CLOCK_SKEW_MS / 1000
