"""The command line as data: what the documentation, tests and other programs are made from."""

from __future__ import annotations

import re
from typing import Any

import click

from midge import __version__
from midge.cli import exits
from midge.cli import globals as global_options
from midge.cli.lazy import Group

Json = dict[str, Any]

_ENV = re.compile(r"\s*\[env: ([A-Z_, ]+)[^\]]*\]")


def describe(command: click.Command, context: click.Context) -> Json:
    """A command and everything below it; for the root also the global options and the exit codes."""
    document = _command(command, context, aliases=())
    if context.parent is None:
        document |= {
            "version": __version__,
            "global_options": [
                _option(p)
                for p in command.params
                if isinstance(p, click.Option) and global_options.is_global(p)
            ],
            "exit_codes": [{"code": code, "meaning": meaning} for code, meaning in exits.TABLE],
        }
    return document


def _command(command: click.Command, context: click.Context, *, aliases: tuple[str, ...]) -> Json:
    document: Json = {
        "name": context.command_path,
        "summary": command.get_short_help_str(limit=200),
        "help": _text(command.help or ""),
        "aliases": list(aliases),
        "usage": " ".join([context.command_path, *command.collect_usage_pieces(context)]),
        "arguments": [_argument(p, context) for p in command.params if isinstance(p, click.Argument)],
        "options": [
            _option(p)
            for p in command.params
            if isinstance(p, click.Option) and not p.hidden and not global_options.is_global(p)
        ],
    }
    if isinstance(command, Group):
        document["commands"] = [_child(command, name, context) for name in command.list_commands(context)]
    return document


def _child(group: Group, name: str, context: click.Context) -> Json:
    child = group.get_command(context, name)
    assert child is not None
    entry = group.table[name]
    document = _command(child, click.Context(child, info_name=name, parent=context), aliases=entry.aliases)
    return {"section": entry.section, **document}


def _argument(param: click.Argument, context: click.Context) -> Json:
    return {
        "name": param.make_metavar(context),
        "required": param.required,
        "variadic": param.nargs == -1,
        "help": getattr(param, "help", None) or "",
    }


def _option(param: click.Option) -> Json:
    text = param.help or ""
    names = _ENV.search(text)
    default = param.default
    plain = (
        default
        if isinstance(default, str | int | float | bool)
        else list(default)
        if isinstance(default, tuple)
        else None
    )
    return {
        "flags": [*param.opts, *param.secondary_opts],
        "value": None if param.is_flag else (param.metavar or param.type.name.upper()),
        "choices": list(param.type.choices) if isinstance(param.type, click.Choice) else None,
        "multiple": param.multiple,
        "default": plain if plain not in ("", False) else None,
        "env": [name.strip() for name in names[1].split(",")] if names else [],
        "help": _ENV.sub("", text).strip(),
    }


def _text(text: str) -> str:
    """Paragraphs on one line each; marked ones as they are."""
    paragraphs = []
    for paragraph in text.split("\n\n"):
        verbatim = paragraph.lstrip().startswith("\b")
        paragraphs.append(paragraph.replace("\b\n", "").rstrip() if verbatim else " ".join(paragraph.split()))
    return "\n\n".join(paragraphs)
