"""`midge machine run --shell`: a machine for as long as somebody works in it."""

from __future__ import annotations

from typing import Any

from midge.cli import terminal
from midge.cli.commands.machine.config_options import ConfigOptions
from midge.cli.commands.machine.create import app_for_new, configuration
from midge.cli.commands.machine.exec import execute
from midge.cli.commands.machine.run import wait_started
from midge.cli.failure import doing
from midge.cli.session import Session
from midge.cli.targets import Target
from midge.errors import MidgeError, NotFound

DEFAULT_IMAGE = "debian"

# What keeps the machine up: every image with a shell has a sleep, and every sleep takes seconds. 68 years.
KEEP_UP = ["/bin/sleep", "2147483647"]

# How long to wait until the machine is gone, in seconds: it is killed, not asked.
DESTROY_TIMEOUT_S = 15.0

# The best shell the image has, as a login shell.
SHELL = ["/bin/sh", "-c", "command -v bash >/dev/null 2>&1 && exec bash -l; exec sh -l"]


def run_shell(
    session: Session,
    image: str,
    cmd: tuple[str, ...],
    app: str,
    org: str,
    place: dict[str, Any],
    options: ConfigOptions,
    timeout_s: float,
) -> int:
    """The shell's exit code; `cmd` runs instead of a shell when given. The machine is destroyed in any case."""
    config = configuration(session, image or ("" if options.config else DEFAULT_IMAGE), (), options)
    config["init"] = {**config["init"], "exec": KEEP_UP}
    config |= {"restart": {"policy": "no"}, "auto_destroy": True}
    owner = app_for_new(session, app, org)
    with doing(f"run a shell in {config['image']}"):
        machine = session.client.machines.create(owner, config, **place)
    target = Target(owner, machine["id"], machine["name"], machine["state"])
    try:
        with doing("start a machine for the shell"):
            wait_started(session, target, timeout_s)
        return execute(session, target, list(cmd) or SHELL, stdin=True, tty=terminal.stdin_is_terminal())
    finally:
        _destroy(session, target)


def _destroy(session: Session, target: Target) -> None:
    """Says so when it fails: nobody would look for it. An error on the way here stays the one that is shown."""
    machines = session.client.machines
    try:
        machines.destroy(target.app, target.id, force=True)
        machines.wait(target.app, target.id, ("destroyed",), timeout_s=DESTROY_TIMEOUT_S)
    except NotFound:
        return
    except MidgeError as error:
        session.out.warn(
            f"machine {target.id} could not be destroyed: {error}; do it with `{target.command('destroy', '--force')}`"
        )
