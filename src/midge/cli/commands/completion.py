"""`midge completion`: scripts that ask `midge` itself for completions."""

from __future__ import annotations

import click

from midge.cli.options import command
from midge.cli.session import Session

_INSTALL = {
    "bash": 'add to ~/.bashrc:  eval "$(midge completion bash)"',
    "zsh": 'add to ~/.zshrc:  eval "$(midge completion zsh)"',
    "fish": "midge completion fish > ~/.config/fish/completions/midge.fish",
}


@command("completion")
@click.argument("shell", type=click.Choice(list(_INSTALL)), help="The shell to complete in.")
def completion(session: Session, shell: str) -> None:
    """Print a completion script for a shell.

    \b
    bash: eval "$(midge completion bash)" in ~/.bashrc
    zsh:  eval "$(midge completion zsh)" in ~/.zshrc
    fish: midge completion fish > ~/.config/fish/completions/midge.fish
    """
    from click.shell_completion import get_completion_class

    from midge.cli.main import root

    kind = get_completion_class(shell)
    assert kind is not None
    session.out.line(kind(root, {}, "midge", "_MIDGE_COMPLETE").source())
    if session.out.redraws():
        session.out.note(_INSTALL[shell])
