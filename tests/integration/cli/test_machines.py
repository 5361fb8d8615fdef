"""Machines by command line, against a real server with a mocked host."""

from __future__ import annotations

import json
import os
from typing import Any

from tests.integration.cli.conftest import Midge


def state(midge: Midge, machine: str) -> str:
    return str(json.loads(midge.ok("machine", "status", machine, "-a", midge.app, "--json"))["state"])


def config(midge: Midge, machine: str) -> dict[str, Any]:
    return dict(json.loads(midge.ok("machine", "status", machine, "-a", midge.app, "--display-config")))


def test_a_detached_run_prints_the_id_of_a_started_machine(midge: Midge) -> None:
    machine = midge.machine("sleep", "inf")
    assert state(midge, machine) == "started"
    assert config(midge, machine)["init"] == {"cmd": ["sleep", "inf"]}


def test_options_stand_before_or_behind_the_image_but_not_in_the_command(midge: Midge) -> None:
    made = midge.ok(
        "machine",
        "create",
        "-q",
        "--name",
        "a1",
        "debian",
        "-a",
        midge.app,
        "-e",
        "A=1",
        "ls",
        "-e",
        "--name",
        "x",
    )
    found = config(midge, made.strip())
    assert found["init"] == {"cmd": ["ls", "-e", "--name", "x"]}
    assert found["env"] == {"A": "1"}


def test_a_double_dash_ends_our_options(midge: Midge) -> None:
    made = midge.ok("machine", "create", "-q", "-a", midge.app, "debian", "--", "--help")
    assert config(midge, made.strip())["init"] == {"cmd": ["--help"]}


def test_stop_start_suspend_restart_destroy(midge: Midge) -> None:
    machine = midge.machine()
    for verb, reached in (
        ("stop", "stopped"),
        ("start", "started"),
        ("restart", "started"),
        ("suspend", "suspended"),
        ("start", "started"),
    ):
        assert midge.ok("machine", verb, machine, "-a", midge.app).strip() == f"{machine} {reached}"
    assert midge("machine", "destroy", machine, "-a", midge.app).exit_code == 1
    refused = midge("machine", "destroy", "--force", machine, "-a", midge.app)
    assert refused.exit_code == 2
    assert "--yes" in refused.stderr
    midge.ok("machine", "destroy", "--force", "--yes", machine, "-a", midge.app)
    assert state(midge, machine) == "destroyed"


def test_verbs_that_change_nothing_succeed(midge: Midge) -> None:
    machine = midge.machine()
    midge.ok("machine", "start", machine, "-a", midge.app)
    midge.ok("machine", "stop", machine, "-a", midge.app)
    midge.ok("machine", "stop", machine, "-a", midge.app)


def test_several_machines_at_once_and_nothing_when_one_is_missing(midge: Midge) -> None:
    one, two = midge.machine(), midge.machine()
    missing = midge("machine", "stop", one, two, "nobody", "-a", midge.app)
    assert missing.exit_code == 3
    assert state(midge, one) == "started"
    midge.ok("machine", "stop", one, two, "-a", midge.app)
    assert (state(midge, one), state(midge, two)) == ("stopped", "stopped")


def test_a_machine_is_found_by_name_prefix_and_without_its_app(midge: Midge) -> None:
    machine = midge.ok(
        "machine", "run", "-q", "-d", "-a", midge.app, "--name", f"n-{midge.app}", "debian"
    ).strip()
    assert midge.ok("machine", "status", "-q", f"n-{midge.app}").strip() == machine
    assert midge.ok("machine", "status", "-q", machine[:10], "-a", midge.app).strip() == machine


def test_an_unknown_machine_brings_the_closest_name(midge: Midge) -> None:
    midge.ok("machine", "create", "--name", "frontend", "-a", midge.app, "debian")
    result = midge("machine", "status", "frontent", "-a", midge.app)
    assert result.exit_code == 3
    assert "hint: did you mean frontend?" in result.stderr
    assert result.stdout == ""


def test_an_unknown_app_is_not_found(midge: Midge) -> None:
    result = midge("machine", "list", "-a", "no-such-app")
    assert result.exit_code == 3
    assert "request: " in result.stderr


def test_the_first_run_without_an_app_makes_one_and_says_so(midge: Midge) -> None:
    midge("app", "destroy", "--yes", "default")
    first = midge("machine", "create", "debian")
    assert first.exit_code == 0
    assert "created app default in organization personal" in first.stderr
    second = midge("machine", "create", "debian")
    assert "created app" not in second.stderr


def test_the_app_comes_from_the_environment_and_from_the_project_file(midge: Midge) -> None:
    machine = midge.machine()
    assert midge.ok("machine", "list", "-q", MIDGE_APP=midge.app).strip() == machine
    assert midge.ok("machine", "list", "-q", FLY_APP=midge.app).strip() == machine
    (midge.cwd / "fly.toml").write_text(f'app = "{midge.app}"\n')
    inner = midge.cwd / "a" / "b"
    inner.mkdir(parents=True)
    assert Midge(midge.env, inner, "").ok("machine", "list", "-q").strip() == machine


def test_a_list_is_json_a_table_or_ids(midge: Midge) -> None:
    machine = midge.machine()
    listed = json.loads(midge.ok("machine", "list", "-a", midge.app, "--json"))
    assert [entry["id"] for entry in listed] == [machine]
    header, row = midge.ok("machine", "list", "-a", midge.app).splitlines()
    assert header.split() == ["NAME", "ID", "STATE", "REGION", "IMAGE", "SIZE", "AGE"]
    assert row.split()[1:6] == [machine, "started", "local", "debian", "shared-1x256MiB"]
    assert midge.ok("machine", "list", "-a", midge.app, "--state", "stopped", "-q") == ""
    assert machine in midge.ok("machine", "list", "--all", "-q")


def test_lists_filter_by_metadata(midge: Midge) -> None:
    midge.machine()
    wanted = midge.ok("machine", "create", "-q", "-a", midge.app, "-m", "role=db", "debian").strip()
    assert midge.ok("machine", "list", "-q", "-a", midge.app, "--metadata", "role=db").strip() == wanted
    assert midge.ok("machine", "list", "-q", "--metadata", "role=db").strip() == wanted


def test_an_update_shows_what_changes_and_needs_a_yes(midge: Midge) -> None:
    machine = midge.machine()
    unasked = midge("machine", "update", machine, "-a", midge.app, "--memory", "512mb", "-e", "A=1")
    assert unasked.exit_code == 2
    assert "~ guest.memory_mb: 256 -> 512" in unasked.stderr
    assert '+ env.A: "1"' in unasked.stderr
    midge.ok("machine", "update", "--yes", machine, "-a", midge.app, "--memory", "512mb", "-e", "A=1")
    found = config(midge, machine)
    assert found["env"] == {"A": "1"}
    assert found["guest"]["memory_mb"] == 512
    assert state(midge, machine) == "started"


def test_an_update_that_changes_nothing_does_nothing(midge: Midge) -> None:
    machine = midge.machine()
    result = midge("machine", "update", "--yes", machine, "-a", midge.app, "--memory", "256")
    assert result.exit_code == 0
    assert "nothing to do" in result.stderr


def test_a_dry_run_prints_the_changes_on_stdout(midge: Midge) -> None:
    machine = midge.machine()
    printed = midge.ok("machine", "update", "--dry-run", machine, "-a", midge.app, "--image", "alpine")
    assert printed == '~ image: "debian" -> "alpine"\n'
    assert config(midge, machine)["image"] == "debian"


def test_a_clone_has_the_same_configuration(midge: Midge) -> None:
    machine = midge.ok("machine", "create", "-q", "-a", midge.app, "--cpus", "2", "debian").strip()
    copy = midge.ok("machine", "clone", "-q", machine, "-a", midge.app).strip()
    assert copy != machine
    assert config(midge, copy) == config(midge, machine)


def test_files_and_ports_get_into_the_configuration(midge: Midge) -> None:
    (midge.cwd / "motd").write_bytes(b"hello\xff")
    made = midge.ok(
        *("machine", "create", "-q", "-a", midge.app, "debian"),
        *("--file-local", f"/etc/motd={midge.cwd / 'motd'}", "--file-literal", "/etc/x=a=b"),
        *("-p", "443:8080/tls/http", "--autostop", "suspend", "--no-autostart"),
    )
    found = config(midge, made.strip())
    assert found["files"] == [
        {"guest_path": "/etc/motd", "raw_value": "aGVsbG//"},
        {"guest_path": "/etc/x", "raw_value": "YT1i"},
    ]
    (service,) = found["services"]
    assert service["ports"] == [{"port": 443, "handlers": ["tls", "http"]}]
    assert service["internal_port"] == 8080
    assert service["autostop"] == "suspend"
    assert service["autostart"] is False


def test_events_come_oldest_first_and_say_how_a_process_ended(midge: Midge) -> None:
    machine = midge.machine()
    midge.ok("machine", "stop", machine, "-a", midge.app)
    lines = midge.ok("machine", "events", machine, "-a", midge.app).splitlines()
    assert lines[0].split() == ["TIME", "EVENT", "STATUS", "SOURCE", "DETAIL"]
    assert lines[1].split()[1:4] == ["launch", "created", "user"]
    assert "requested_stop" in lines[-1]


def test_waiting_for_a_state_that_holds_ends_at_once(midge: Midge) -> None:
    machine = midge.machine()
    assert (
        midge.ok("machine", "wait", machine, "-a", midge.app, "--state", "started")
        .strip()
        .endswith("started")
    )


def test_a_wait_that_runs_out_of_time_says_how_to_go_on(midge: Midge) -> None:
    machine = midge.machine()
    result = midge(
        "machine", "wait", machine, "-a", midge.app, "--state", "suspended", "--wait-timeout", "1s"
    )
    assert result.exit_code == 124
    assert f"midge machine wait {machine} -a {midge.app} --state suspended" in result.stderr


def test_exec_returns_output_and_code_unchanged(midge: Midge) -> None:
    machine = midge.machine()
    result = midge("machine", "exec", "-a", midge.app, machine, "echo", "-n", "--json", "hi")
    assert (result.exit_code, result.stdout) == (0, "-n --json hi\n")
    assert midge("machine", "exec", "-a", midge.app, machine, "sh", "-c", "exit 42").exit_code == 42
    missing = midge("machine", "exec", "-a", midge.app, machine, "nope")
    assert (missing.exit_code, missing.stderr) == (127, "nope: command not found\n")


def test_exec_tells_its_own_failure_from_the_commands(midge: Midge) -> None:
    machine = midge.machine()
    midge.ok("machine", "stop", machine, "-a", midge.app)
    stopped = midge("machine", "exec", machine, "-a", midge.app, "true")
    assert stopped.exit_code == 125
    assert "cannot run true in machine" in stopped.stderr
    assert midge("machine", "exec", "nobody", "-a", midge.app, "true").exit_code == 125
    assert midge("machine", "exec", machine, "-a", midge.app, "--no-such-flag", "true").exit_code == 2


def test_exec_passes_environment_and_directory(midge: Midge) -> None:
    machine = midge.machine()
    assert midge("machine", "exec", "-a", midge.app, "-e", "A=1", machine, "env").stdout == "A=1\n"
    assert midge("machine", "exec", "-a", midge.app, "--workdir", "/srv", machine, "pwd").stdout == "/srv\n"


def test_exec_kills_a_command_that_takes_too_long(midge: Midge) -> None:
    machine = midge.machine()
    result = midge("machine", "exec", "-a", midge.app, "--timeout", "1s", machine, "sleep", "30")
    assert result.exit_code == 137
    assert "ran out of time" in result.stderr


def test_a_terminal_is_refused_where_there_is_none(midge: Midge) -> None:
    machine = midge.machine()
    result = midge("machine", "exec", "-it", machine, "-a", midge.app, "sh", input=os.urandom(1))
    assert result.exit_code == 2
    assert "--tty needs a terminal" in result.stderr


def test_errors_are_json_on_stderr_when_asked(midge: Midge) -> None:
    result = midge("machine", "status", "ffffffffffffff", "-a", midge.app, "--json")
    assert result.exit_code == 3
    error = json.loads(result.stderr)["error"]
    assert error["code"] == "not_found"
    assert error["request_id"]
    assert error["exit_code"] == 3
    assert result.stdout == ""


def test_apps_are_listed_and_destroyed_with_their_machines(midge: Midge) -> None:
    midge.machine()
    assert midge.app in midge.ok("app", "list", "-q").splitlines()
    assert midge("app", "destroy", midge.app).exit_code == 2
    midge.ok("app", "destroy", "--yes", midge.app)
    assert midge.app not in midge.ok("apps", "ls", "-q").splitlines()


def test_a_wrong_token_is_an_auth_failure(midge: Midge) -> None:
    result = midge("app", "list", MIDGE_API_TOKEN="nonsense")
    assert result.exit_code == 4


def test_status_version_and_doctor_see_the_server(midge: Midge) -> None:
    shown = midge.ok("status")
    assert "Ready:" in shown
    told = json.loads(midge.ok("version", "--json"))
    assert told["client"] == told["server"]
    assert told["driver"] == "mock"
    found = json.loads(
        midge("doctor", "--json", "server", "server-token", "server-version", "server-clock").stdout
    )
    assert {check["name"]: check["state"] for check in found["checks"]} == {
        "server": "ok",
        "server-token": "ok",
        "server-version": "ok",
        "server-clock": "ok",
    }
