"""Groups whose commands are imported when they are called, and commands that all take the same global options."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

import click

from midge.cli import globals as global_options


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a command is, and the line about it in its group's help.

    Attributes:
        target: ``module:attribute`` of a command, imported when needed; or a nested table.
        help: one line; a test compares it with the command's own.
        section: heading in the group's help.
        aliases: other names, not shown.
    """

    target: str | Mapping[str, Entry]
    help: str
    section: str = "Commands"
    aliases: tuple[str, ...] = ()
    hidden: bool = False
    details: str = field(default="", repr=False)


class Command(click.Command):
    """A command with the global options, which it takes out before its own function is called.

    `remote`: its exit code is that of a remote command, see `midge.cli.exits`.
    """

    def __init__(self, *args: Any, remote: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.remote = remote
        self.params = [*self.params, *global_options.make()]

    def invoke(self, ctx: click.Context) -> Any:
        global_options.take(ctx)
        ctx.meta["midge.remote"] = self.remote
        return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _format_options(self, ctx, formatter)


class PassThrough(Command):
    """A command whose last argument is another command line.

    Our options may stand before and behind the first `leading` arguments (``run IMAGE --name web CMD``), but what
    follows the first word of the other command line, or ``--``, is never ours.
    """

    def __init__(self, *args: Any, leading: int = 1, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.leading = leading
        self.allow_interspersed_args = False

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ours: list[str] = []
        words: list[str] = []
        rest = args
        while True:
            options, rest, ended = self._leading_options(ctx, rest)
            ours += options
            if ended or not rest or len(words) == self.leading:
                break
            words.append(rest[0])
            rest = rest[1:]
        return super().parse_args(ctx, [*ours, "--", *words, *rest])

    def _leading_options(self, ctx: click.Context, args: list[str]) -> tuple[list[str], list[str], bool]:
        """The options `args` begins with, what follows, and whether ``--`` stood between."""
        helper = click.Command(
            self.name,
            params=[
                *(param for param in self.get_params(ctx) if isinstance(param, click.Option)),
                click.Argument(["rest"], nargs=-1, type=click.UNPROCESSED),
            ],
        )
        helper.allow_interspersed_args = False
        parser = helper.make_parser(ctx)
        values, _, _ = parser.parse_args(list(args))
        found = values.get("rest")
        rest = list(found) if isinstance(found, list | tuple) else []
        consumed = args[: len(args) - len(rest)]
        ended = bool(consumed) and consumed[-1] == "--"
        return (consumed[:-1] if ended else consumed), rest, ended


class Group(click.Group):
    """A group over a table of entries. Unknown names get the closest ones as a hint."""

    def __init__(self, name: str, table: Mapping[str, Entry], **kwargs: Any) -> None:
        super().__init__(name, no_args_is_help=True, **kwargs)
        self.table = table
        self.params = [*self.params, *global_options.make()]
        self._canonical = {alias: name for name, entry in table.items() for alias in (name, *entry.aliases)}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name, entry in self.table.items() if not entry.hidden]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        name = self._canonical.get(cmd_name)
        if name is None:
            return None
        entry = self.table[name]
        if not isinstance(entry.target, str):
            text = entry.help + ("\n\n" + entry.details if entry.details else "")
            return Group(name, entry.target, help=text, hidden=entry.hidden)
        module, _, attribute = entry.target.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        given = args[0]
        if given not in self._canonical and not given.startswith("-") and not ctx.resilient_parsing:
            raise click.NoSuchCommand(
                given, f"no command {given!r} in `{ctx.command_path}`", self._close(given), ctx
            )
        _, command, rest = super().resolve_command(ctx, args)
        # Usage lines show the canonical name, whatever alias was typed.
        return self._canonical.get(given), command, rest

    def invoke(self, ctx: click.Context) -> Any:
        global_options.take(ctx)
        return super().invoke(ctx)

    def _close(self, given: str) -> list[str]:
        close = get_close_matches(given, self._canonical, n=3)
        return list(dict.fromkeys(self._canonical[name] for name in close))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """From the table: no command is imported for its group's help."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            entry = self.table[name]
            sections.setdefault(entry.section, []).append((name, entry.help))
        for section, rows in sections.items():
            with formatter.section(section):
                formatter.write_dl(rows)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _format_options(self, ctx, formatter)
        self.format_commands(ctx, formatter)


def walk(
    group: Group, prefix: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Entry, click.Command]]:
    """Every entry below `group` with its path and its command; imports them all."""
    context = click.Context(group)
    for name, entry in group.table.items():
        command = group.get_command(context, name)
        assert command is not None
        yield (*prefix, name), entry, command
        if isinstance(command, Group):
            yield from walk(command, (*prefix, name))


def _format_options(command: click.Command, ctx: click.Context, formatter: click.HelpFormatter) -> None:
    """The global options in full at the root alone; elsewhere a line that names them."""
    own: list[tuple[str, str]] = []
    shared: list[tuple[str, str]] = []
    for param in command.get_params(ctx):
        record = param.get_help_record(ctx)
        if record is not None and not isinstance(param, click.Argument):
            (shared if global_options.is_global(param) else own).append(record)
    with formatter.section("Options"):
        formatter.write_dl(own)
    if ctx.parent is None:
        with formatter.section("Global options"):
            formatter.write_dl(shared)
    elif not isinstance(command, Group):
        names = " ".join(record[0].split(" ")[0].rstrip(",") for record in shared)
        formatter.write_paragraph()
        formatter.write_text(f"Global options: {names} (see `midge --help`)")
