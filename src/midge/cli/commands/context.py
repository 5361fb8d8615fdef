"""`midge context`: names for servers."""

from __future__ import annotations

import click

from midge.cli import terminal
from midge.cli.failure import doing
from midge.cli.options import command
from midge.cli.session import Session, read_secret
from midge.client.contexts import Context
from midge.client.endpoint import check_url


@command("ls")
def list_contexts(session: Session) -> None:
    """List the servers you named."""
    stored = session.context_file().read()
    if session.out.json:
        session.out.document(
            [
                {
                    "name": name,
                    "url": context.url,
                    "org": context.org,
                    "app": context.app,
                    "ca": context.ca,
                    "has_token": bool(context.token),
                    "current": name == stored.current,
                }
                for name, context in sorted(stored.by_name.items())
            ]
        )
    elif session.out.quiet:
        for name in sorted(stored.by_name):
            session.out.line(name)
    else:
        rows = [
            [
                name,
                "*" if name == stored.current else "",
                context.url,
                context.org,
                context.app,
                "yes" if context.token else "no",
            ]
            for name, context in sorted(stored.by_name.items())
        ]
        session.out.table(["NAME", "CURRENT", "URL", "ORG", "APP", "TOKEN"], rows)


@command("use")
@click.argument("name", help="As `midge context ls` shows it.")
def use(session: Session, name: str) -> None:
    """Choose the server that commands talk to."""
    file = session.context_file()
    file.write(file.read().using(name))
    _say(session, name, f"commands now talk to {name}")


@command("add")
@click.argument("name", help="Letters, digits, - and _.")
@click.argument("address", metavar="URL", help="Such as https://midge.example:4280.")
@click.option("--with-token", metavar="-", default="", help="Only '-': read its token from stdin.")
@click.option("-o", "--org", default="", metavar="ORG", help="The organization to use there.")
@click.option("-a", "--app", default="", metavar="APP", help="The app to use there.")
@click.option(
    "--ca", default="", metavar="FILE", help="Trust the certificates in this PEM file, not the system's."
)
@click.option("--use", "chosen", is_flag=True, help="Talk to it from now on.")
def add(
    session: Session, name: str, address: str, with_token: str, org: str, app: str, ca: str, chosen: bool
) -> None:
    """Name a server, or change what its name stands for. The first one is chosen at once."""
    if with_token not in ("", "-"):
        raise click.UsageError(
            "--with-token takes only '-': a token on the command line is visible to others"
        )
    check_url(address, "the command line")
    file = session.context_file()
    stored = file.read()
    before = stored.by_name.get(name)
    token = _secret(session) if with_token else (before.token if before and before.url == address else "")
    with doing(f"name the server {address}"):
        stored = stored.with_context(name, Context(url=address, token=token, org=org, app=app, ca=ca))
        file.write(stored.using(name) if chosen else stored)
    _say(session, name, f"{name} is {address}" + ("" if token else "; it has no token"))


@command("rm")
@click.argument("names", nargs=-1, required=True, metavar="NAME...", help="As `midge context ls` shows them.")
def remove(session: Session, names: tuple[str, ...]) -> None:
    """Forget servers, and their tokens."""
    file = session.context_file()
    stored = file.read()
    for name in names:
        stored = stored.without(name)
    file.write(stored)
    for name in names:
        _say(session, name, f"{name} is forgotten")


def _secret(session: Session) -> str:
    if terminal.stdin_is_terminal():
        import getpass

        return getpass.getpass("token: ").strip()
    return read_secret()


def _say(session: Session, name: str, text: str) -> None:
    if session.out.json:
        session.out.record({"name": name})
    else:
        session.out.line(name if session.out.quiet else text)
