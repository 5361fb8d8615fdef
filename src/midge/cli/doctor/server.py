"""Checks of the server that commands talk to."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime
from pathlib import Path

from midge import __version__
from midge.cli.session import Session
from midge.client import server as requests
from midge.doctor.check import Finding, Host, fail, ok, skip, warn
from midge.errors import Forbidden, MidgeError, NotFound, Unauthorized, chain

# Difference between two clocks that tokens and certificates bear, in seconds.
SKEW_MAX_S = 30.0


def reachable(host: Host) -> Finding:
    try:
        endpoint = host.session.endpoint()
    except NotFound as error:
        return skip(error.message, error.hint)
    except MidgeError as error:
        return fail(chain(error), error.hint)
    try:
        told = host.session.client.server.ready()
    except MidgeError as error:
        return warn(chain(error), error.hint or "midge serve")
    if not told.get("ready"):
        reasons = ", ".join(
            f"{c['name']}: {c.get('reason', '')}" for c in told.get("checks", []) if not c["ok"]
        )
        return fail(f"{endpoint.url.value} is not ready: {reasons}", "midge status")
    return ok(f"{endpoint.url.value} (from {endpoint.url.origin}) is ready")


def server_data_dir(session: Session) -> Path | None:
    """Where the server that commands talk to keeps its data, if it is on this host and tells."""
    try:
        if not session.endpoint().is_loopback:
            return None
        told = str(session.client.server.config().get("data_dir", ""))
    except MidgeError:
        return None
    # A port of this host may be forwarded to another one, whose directories are not here.
    return Path(told).absolute() if told and Path(told).is_dir() else None


def token(host: Host) -> Finding:
    if not _answers(host):
        return skip("no server answers")
    try:
        host.session.client.server.status()
    except Unauthorized as error:
        return fail(chain(error), "set MIDGE_API_TOKEN, or `midge context add NAME URL --with-token -`")
    except Forbidden:
        return ok("accepted; it reaches a part of the server only")
    except MidgeError as error:
        return warn(chain(error), "midge status")
    return ok("accepted")


def versions(host: Host) -> Finding:
    if not _answers(host):
        return skip("no server answers")
    server = str(host.session.client.server.version().get("version", ""))
    if server.split(".")[:2] != __version__.split(".")[:2]:
        return warn(f"client {__version__}, server {server}", "use the same version on both sides")
    return ok(f"client {__version__}, server {server}")


def skew(host: Host) -> Finding:
    if not _answers(host):
        return skip("no server answers")
    answer = host.session.client.transport.send(requests.version())
    try:
        there = parsedate_to_datetime(answer.headers.get("date", "")).timestamp()
    except ValueError:
        return skip("the server does not tell its time")
    seconds = abs(time.time() - there)
    if seconds > SKEW_MAX_S:
        return warn(f"{seconds:.0f} s between this clock and the server's", "timedatectl set-ntp true")
    return ok(f"the server's clock agrees within {SKEW_MAX_S:.0f} s")


def _answers(host: Host) -> bool:
    try:
        host.session.client.server.version()
    except MidgeError:
        return False
    return True
