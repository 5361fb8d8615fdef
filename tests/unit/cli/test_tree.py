"""The table of commands is complete, and nothing is imported that is not needed."""

from __future__ import annotations

import json
import subprocess
import sys

import click
import pytest

from midge.cli import globals as global_options
from midge.cli.lazy import Group, walk
from midge.cli.main import root
from tests.unit.cli.conftest import FakeServer

COMMANDS = list(walk(root))
IDS = [" ".join(path) for path, _, _ in COMMANDS]

# The only short flags, with the meaning they have wherever they appear.
SHORT = {
    "-a": "app", "-b": "bind", "-C": "cmd", "-d": "detach", "-e": "env", "-f": ("follow", "force"), "-h": "help",
    "-i": "stdin", "-j": "json", "-m": "metadata", "-n": ("name", "limit", "tail", "samples"), "-o": "org",
    "-p": "ports", "-q": "quiet", "-r": "region", "-s": "signal", "-t": ("tty", "timeout"), "-v": "verbose",
    "-w": "watch", "-y": "yes",
}  # fmt: skip


@pytest.mark.parametrize(("path", "entry", "command"), COMMANDS, ids=IDS)
def test_every_command_has_the_help_its_group_shows(
    path: tuple[str, ...], entry: object, command: click.Command
) -> None:
    from midge.cli.lazy import Entry

    assert isinstance(entry, Entry)
    first = (command.help or "").splitlines()[0]
    assert first.startswith(entry.help.removesuffix(".")), f"{first!r} is not {entry.help!r}"
    assert entry.help.endswith(".")
    assert len(entry.help) <= 64


@pytest.mark.parametrize(("path", "entry", "command"), COMMANDS, ids=IDS)
def test_every_parameter_is_explained(path: tuple[str, ...], entry: object, command: click.Command) -> None:
    for param in command.params:
        if not getattr(param, "hidden", False):
            assert getattr(param, "help", None), f"{path} {param.name}"


@pytest.mark.parametrize(("path", "entry", "command"), COMMANDS, ids=IDS)
def test_short_flags_mean_the_same_everywhere(
    path: tuple[str, ...], entry: object, command: click.Command
) -> None:
    for param in command.params:
        for flag in param.opts:
            if len(flag) == 2 and flag.startswith("-"):
                meant = SHORT[flag]
                assert (param.name or "").removeprefix("global_") in (
                    (meant,) if isinstance(meant, str) else meant
                )


@pytest.mark.parametrize(("path", "entry", "command"), COMMANDS, ids=IDS)
def test_every_command_takes_the_global_options(
    path: tuple[str, ...], entry: object, command: click.Command
) -> None:
    names = {param.name for param in command.params if global_options.is_global(param)}
    assert names == {param.name for param in global_options.make()}


@pytest.mark.parametrize(
    "path", [path for path, _, command in COMMANDS if not isinstance(command, Group)], ids=" ".join
)
def test_help_is_printed_for_every_command(path: tuple[str, ...], midge: FakeServer) -> None:
    result = midge(*path, "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: midge {' '.join(path)} ")
    assert result.stderr == ""


def test_the_help_of_a_group_looks_like_this(midge: FakeServer) -> None:
    assert midge("context", "--help").stdout == (
        "Usage: midge context [OPTIONS] COMMAND [ARGS]...\n"
        "\n"
        "  Name servers and choose between them.\n"
        "\n"
        "Options:\n"
        "  -h, --help  Show this message and exit.\n"
        "\n"
        "Commands:\n"
        "  ls   List the servers you named.\n"
        "  use  Choose the server that commands talk to.\n"
        "  add  Name a server.\n"
        "  rm   Forget servers, and their tokens.\n"
    )


@pytest.mark.parametrize("alias", [("machines", "ls"), ("m", "list"), ("apps", "ls"), ("images", "list")])
def test_plurals_and_other_names_work(alias: tuple[str, ...], midge: FakeServer) -> None:
    assert midge(*alias, "--help").exit_code == 0


def test_the_command_line_describes_itself(midge: FakeServer) -> None:
    document = json.loads(midge("help", "--json").stdout)
    named: list[str] = []

    def collect(command: dict[str, object]) -> None:
        named.append(str(command["name"]))
        for child in command.get("commands", []):  # type: ignore[attr-defined]  # JSON
            collect(child)

    collect(document)
    assert sorted(named) == sorted(["midge", *(" ".join(("midge", *path)) for path, _, _ in COMMANDS)])
    assert {entry["code"] for entry in document["exit_codes"]} >= {0, 1, 2, 3, 4, 5, 124, 125, 126, 127, 130}


def test_help_of_one_command(midge: FakeServer) -> None:
    assert midge("help", "machine", "run").stdout.startswith("Usage: midge machine run ")
    assert midge("help", "machine", "rnu").exit_code == 2
    assert midge("help", "version", "x").exit_code == 2


def imported(*args: str, **env: str) -> set[str]:
    """The modules that one call imports."""
    code = (
        "import sys\nfrom midge.cli.main import root\n"
        f"try:\n    root.main({list(args)!r})\nexcept SystemExit:\n    pass\n"
        "print('\\n'.join(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={"HOME": "/nonexistent", **env},
        check=True,
    )
    return set(done.stderr.split())


HEAVY = {
    "httpx2",
    "starlette",
    "uvicorn",
    "uvloop",
    "rich",
    "structlog",
    "websockets",
    "apsw",
    "msgspec",
    "asyncio",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "args",
    [["--version"], ["--help"], ["machine", "--help"], ["version", "--client"], ["completion", "bash"]],
    ids=str,
)
def test_cheap_commands_import_nothing_heavy(args: list[str]) -> None:
    assert imported(*args) & HEAVY <= ({"asyncio"} if args[0] == "completion" else set())


@pytest.mark.slow
def test_completion_imports_commands_but_no_client_and_no_server() -> None:
    modules = imported("help", "--json", _MIDGE_COMPLETE="bash_complete", COMP_WORDS="midge ", COMP_CWORD="1")
    modules |= imported("help", "--json")
    assert not modules & (HEAVY - {"asyncio", "msgspec"})


@pytest.mark.slow
def test_a_command_imports_no_server() -> None:
    assert not imported("machine", "list") & {"starlette", "uvicorn", "uvloop", "rich", "structlog", "apsw"}
