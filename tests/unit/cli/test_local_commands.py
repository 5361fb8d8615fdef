"""Commands that need no server: contexts, settings, completion, versions, ports."""

from __future__ import annotations

import json
import stat
import subprocess
from pathlib import Path

import pytest

from midge import __version__
from midge.cli.commands.proxy import parse_ports
from midge.cli.exits import UsageFailure
from midge.cli.options import Duration, Memory
from midge.client.contexts import ContextFile
from tests.unit.cli.conftest import FakeServer

LAB = "https://lab.example:4280"


@pytest.fixture
def plain(midge: FakeServer) -> FakeServer:
    """Without a server in the environment."""
    del midge.env["MIDGE_URL"]
    return midge


def test_contexts_are_added_listed_used_and_removed(plain: FakeServer) -> None:
    assert plain("context", "add", "lab", LAB, "--with-token", "-", input="secret\n").exit_code == 0
    assert plain("context", "add", "other", "http://10.0.0.1:4280").exit_code == 0
    listed = json.loads(plain("context", "ls", "--json").stdout)
    assert [(c["name"], c["current"], c["has_token"]) for c in listed] == [
        ("lab", True, True),
        ("other", False, False),
    ]
    assert plain("context", "use", "other").exit_code == 0
    assert plain("context", "ls", "-q").stdout == "lab\nother\n"
    assert plain("context", "rm", "lab", "other").exit_code == 0
    assert plain("context", "ls", "-q").stdout == ""


def test_a_context_file_is_private_and_no_token_is_shown(plain: FakeServer) -> None:
    plain("context", "add", "lab", LAB, "--with-token", "-", input="secret\n")
    file = ContextFile.of_user(plain.env).path
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    for args in (
        ["context", "ls"],
        ["context", "ls", "--json"],
        ["config", "show"],
        ["config", "show", "--json"],
    ):
        assert "secret" not in plain(*args).output


def test_a_context_that_is_changed_keeps_its_token_only_at_its_address(plain: FakeServer) -> None:
    plain("context", "add", "lab", LAB, "--with-token", "-", input="secret\n")
    plain("context", "add", "lab", LAB, "--org", "o")
    assert ContextFile.of_user(plain.env).read().by_name["lab"].token == "secret"
    plain("context", "add", "lab", "http://elsewhere")
    assert ContextFile.of_user(plain.env).read().by_name["lab"].token == ""


def test_an_unknown_context_brings_the_closest(plain: FakeServer) -> None:
    plain("context", "add", "production", LAB)
    result = plain("app", "list", "--context", "prodution")
    assert result.exit_code == 3
    assert "did you mean production?" in result.stderr


def test_settings_say_where_they_come_from(plain: FakeServer) -> None:
    plain("context", "add", "lab", LAB, "--org", "lab-org", "--app", "lab-app")
    (plain.cwd / "fly.toml").write_text("app = 'from-file'\n")
    shown = json.loads(plain("config", "show", "--json", FLY_REGION="fra").stdout)
    assert shown["url"] == {"value": LAB, "origin": "context lab"}
    assert shown["org"] == {"value": "lab-org", "origin": "context lab"}
    assert shown["app"] == {"value": "from-file", "origin": str(plain.cwd / "fly.toml")}
    assert shown["region"] == {"value": "fra", "origin": "FLY_REGION"}
    assert (
        json.loads(plain("config", "show", "--json", MIDGE_APP="env").stdout)["app"]["origin"] == "MIDGE_APP"
    )


def test_settings_are_shown_without_any_server(plain: FakeServer) -> None:
    shown = plain("config", "show", "--origin").stdout
    assert shown.splitlines()[0].split() == ["NAME", "VALUE", "ORIGIN"]
    assert "nowhere" in shown


def test_a_damaged_project_file_is_named(plain: FakeServer) -> None:
    (plain.cwd / "fly.toml").write_text("app = ")
    result = plain("machine", "list")
    assert result.exit_code == 2
    assert "fly.toml" in result.stderr


def test_version_needs_no_server(plain: FakeServer) -> None:
    told = json.loads(plain("version", "--json").stdout)
    assert told == {"client": __version__, "server": None, "api": None, "driver": None, "region": None}
    assert plain("version", "--client").stdout == f"Client:  {__version__}\n"
    assert plain("--version").stdout == f"midge {__version__}\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_call_midge(plain: FakeServer, shell: str) -> None:
    assert "_MIDGE_COMPLETE" in plain("completion", shell).stdout


def test_the_bash_script_is_bash(plain: FakeServer, tmp_path: Path) -> None:
    script = tmp_path / "midge.bash"
    script.write_text(plain("completion", "bash").stdout)
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0


@pytest.mark.parametrize(("text", "ports"), [("8080:80", (8080, 80)), ("80", (80, 80)), ("0:22", (0, 22))])
def test_ports_to_forward(text: str, ports: tuple[int, int]) -> None:
    assert parse_ports(text) == ports


@pytest.mark.parametrize("text", ["", ":", "a", "80:", ":80", "80:0", "70000", "1:2:3", "٨٠"])
def test_ports_that_are_none(text: str) -> None:
    with pytest.raises(UsageFailure):
        parse_ports(text)


@pytest.mark.parametrize(("text", "mib"), [("512", 512), ("512MB", 512), ("2gb", 2048), ("1.5g", 1536)])
def test_sizes_of_memory(text: str, mib: int) -> None:
    assert Memory().convert(text, None, None) == mib


@pytest.mark.parametrize(("text", "seconds"), [("90", 90.0), ("90s", 90.0), ("1m30s", 90.0), ("250ms", 0.25)])
def test_durations(text: str, seconds: float) -> None:
    assert Duration().convert(text, None, None) == seconds


@pytest.mark.parametrize("option", [["--memory", "much"], ["--wait-timeout", "soon"], ["--cpus", "0"]])
def test_options_that_make_no_sense_are_usage_errors(midge: FakeServer, option: list[str]) -> None:
    assert midge("machine", "run", *option, "debian").exit_code == 2


def test_kernels_of_an_empty_directory(plain: FakeServer, tmp_path: Path) -> None:
    assert json.loads(plain("kernel", "ls", "--kernels-dir", str(tmp_path), "--json").stdout) == []


def test_serve_refuses_settings_that_make_no_sense(plain: FakeServer) -> None:
    result = plain("serve", "--listen", "0.0.0.0:4280")
    assert result.exit_code == 2
    assert "--allow-plaintext-listen" in result.stderr


def test_watching_as_json_is_one_document_a_line(midge: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    midge.answers = {"GET /v1/apps": {"apps": [{"name": "web"}]}}
    looks = []

    def pause(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("midge.cli.watch.time.sleep", pause)
    result = midge("app", "list", "-w", "--json")
    assert result.exit_code == 0
    assert result.stdout == '[{"name":"web"}]\n' * 2
