"""`midge app`: apps hold machines."""

from __future__ import annotations

import click

from midge.cli import settings
from midge.cli.ask import confirm
from midge.cli.exits import UsageFailure
from midge.cli.failure import doing
from midge.cli.options import command, org_option, watch_option, yes_option
from midge.cli.session import Session
from midge.cli.watch import repeat


@command("create")
@click.argument("name", required=False, default="", help="Made up by the server when left out.")
@click.option("--generate-name", is_flag=True, hidden=True)
@click.option("--network", default="", metavar="NAME", help="The private network of its machines.")
@org_option
def create(session: Session, name: str, generate_name: bool, network: str, org: str) -> None:
    """Create an app."""
    with doing(f"create app {name}".rstrip()):
        made = session.client.apps.create(name, settings.org(session, org).value, network=network)
    if session.out.json:
        session.out.document(made)
    elif session.out.quiet:
        session.out.line(made["name"])
    else:
        session.out.line(f"app {made['name']} created")
        session.out.note(f"next: midge machine run debian echo hi -a {made['name']}")


@command("list")
@org_option
@watch_option
def list_apps(session: Session, org: str, watch: bool) -> None:
    """List the apps of an organization."""
    owner = settings.org(session, org).value

    def show() -> None:
        with doing(f"list the apps of {owner}"):
            found = session.client.apps.list(owner)
        if session.out.json:
            (session.out.record if watch else session.out.document)(found)
        elif session.out.quiet:
            for app in found:
                session.out.line(app["name"])
        else:
            rows = [
                [
                    app["name"],
                    app.get("status", ""),
                    str(app.get("machine_count", "")),
                    app.get("network", ""),
                ]
                for app in found
            ]
            session.out.table(["NAME", "STATUS", "MACHINES", "NETWORK"], rows)

    repeat(session, show, watch=watch)


@command("destroy")
@click.argument("names", nargs=-1, metavar="[APP]...", help="Their names.")
@click.option("-a", "--app", "app", default="", hidden=True)
@yes_option
def destroy(session: Session, names: tuple[str, ...], app: str, yes: bool) -> None:
    """Destroy apps and all their machines, running or not. There is no way back."""
    if not names and app:
        names = (app,)
    if not names:
        raise UsageFailure("no app is named", hint="`midge app destroy NAME`")
    for name in names:
        with doing(f"destroy app {name}"):
            found = session.client.apps.get(name)
            count = found.get("machine_count", 0)
            if not yes:
                confirm(session, f"Destroy app {name} and its {count} machine(s)?")
            session.client.apps.destroy(name)
        if session.out.json:
            session.out.record({"name": name, "destroyed": True})
        else:
            session.out.line(name if session.out.quiet else f"app {name} destroyed")
