"""Writes docs/cli.md from what the command line says about itself (`midge help --json`).

python scripts/gen_cli_docs.py          write the file
python scripts/gen_cli_docs.py --check  exit 1 if it is not up to date
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from midge.cli.describe import describe
from midge.cli.main import root
from midge.cli.session import Session

Json = dict[str, Any]

TARGET = Path(__file__).resolve().parents[1] / "docs" / "cli.md"


def render(document: Json) -> str:
    """The page, Markdown."""
    lines = [
        "# Command line",
        "",
        "Made from `midge help --json` by `scripts/gen_cli_docs.py`: change the commands, not this file.",
        "",
        "What was asked for goes to stdout, everything else to stderr. Every command takes the options below, before",
        "or after its name; with `--json` stdout has one document, or one a line for streams, and an error is a",
        "document on stderr. A flag wins over the environment, that over `fly.toml`, that over the context.",
        "",
        *_table("Global options", document["global_options"]),
        "## Exit codes",
        "",
        "| code | meaning |",
        "|---|---|",
        *(f"| {entry['code']} | {entry['meaning']} |" for entry in document["exit_codes"]),
        "",
    ]
    for command in _walk(document["commands"]):
        lines += _command(command)
    return "\n".join(lines).rstrip() + "\n"


def _walk(commands: list[Json]) -> Iterator[Json]:
    for command in commands:
        yield command
        yield from _walk(command.get("commands", []))


def _command(command: Json) -> list[str]:
    level = "##" if command["name"].count(" ") == 1 else "###"
    lines = [f"{level} {command['name']}", ""]
    if "commands" in command:
        return [*lines, command["help"], ""]
    lines += ["```", command["usage"], "```", "", *_help(command["help"]), ""]
    if command["aliases"]:
        lines += ["Also: " + ", ".join(f"`{alias}`" for alias in command["aliases"]), ""]
    if command["arguments"]:
        lines += ["| argument | |", "|---|---|"]
        lines += [f"| `{_cell(a['name'])}` | {_cell(a['help'])} |" for a in command["arguments"]]
        lines += [""]
    return lines + _table("", command["options"])


def _help(text: str) -> list[str]:
    """Lines that are indented are kept as they are."""
    found: list[str] = []
    for paragraph in text.split("\n\n"):
        verbatim = "\n" in paragraph
        found += (
            ["```", *(line.strip() for line in paragraph.splitlines()), "```", ""]
            if verbatim
            else [paragraph, ""]
        )
    return found[:-1]


def _table(title: str, options: list[Json]) -> list[str]:
    if not options:
        return []
    lines = [f"## {title}", ""] if title else []
    lines += ["| option | |", "|---|---|"]
    for option in options:
        flags = ", ".join(f"`{flag}`" for flag in option["flags"])
        value = (
            "" if option["value"] is None else f" `{_cell('|'.join(option['choices'] or [option['value']]))}`"
        )
        notes = [_cell(option["help"])]
        if option["default"] not in (None, [], ""):
            default = option["default"]
            notes.append(f"Default: {', '.join(default) if isinstance(default, list) else default}.")
        if option["env"]:
            notes.append("Environment: " + ", ".join(f"`{name}`" for name in option["env"]) + ".")
        lines.append(f"| {flags}{value} | {' '.join(notes)} |")
    return [*lines, ""]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def current() -> str:
    context = click.Context(root, info_name="midge", obj=Session(env={}))
    return render(describe(root, context))


def main() -> int:
    text = current()
    if "--check" in sys.argv[1:]:
        if TARGET.exists() and TARGET.read_text("utf-8") == text:
            return 0
        print(f"{TARGET} is not up to date: run python scripts/gen_cli_docs.py", file=sys.stderr)
        return 1
    TARGET.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
