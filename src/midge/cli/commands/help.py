"""`midge help`: the command line describes itself, for people and for programs."""

from __future__ import annotations

import click

from midge.cli.describe import describe
from midge.cli.lazy import Group
from midge.cli.options import command
from midge.cli.session import Session


@command("help")
@click.argument("path", nargs=-1, metavar="[COMMAND]...", help="Such as: machine run.")
def help_command(session: Session, path: tuple[str, ...]) -> None:
    """Describe a command, or with --json all of them.

    For programs: every command, argument, flag and variable, and the exit codes.
    """
    from midge.cli.main import root

    found: click.Command = root
    context = click.Context(root, info_name="midge", obj=session)
    for name in path:
        if not isinstance(found, Group):
            raise click.UsageError(f"`{context.command_path}` has no commands", context)
        _, child, _ = found.resolve_command(context, [name])
        assert child is not None
        context = click.Context(child, info_name=name, parent=context)
        found = child
    if session.out.json:
        session.out.document(describe(found, context))
    else:
        session.out.line(found.get_help(context))
