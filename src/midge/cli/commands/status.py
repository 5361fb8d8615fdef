"""`midge status`: is the server ready, and what does it run."""

from __future__ import annotations

from typing import Any

from midge.cli import exits, text
from midge.cli.failure import doing
from midge.cli.options import command, watch_option
from midge.cli.session import Session
from midge.cli.watch import repeat
from midge.errors import Forbidden, Unauthorized


@command("status")
@watch_option
def status(session: Session, watch: bool) -> int:
    """Show whether the server is ready, and what it runs. Exit code 1 when it is not ready."""
    ready: list[bool] = []

    def show() -> None:
        with doing("read the server's status"):
            told = session.client.server.ready()
            details = _details(session)
        ready.append(bool(told.get("ready")))
        if session.out.json:
            document = {"url": session.client.endpoint.url.value, **told, "status": details}
            (session.out.record if watch else session.out.document)(document)
        else:
            _show(session, told, details)

    repeat(session, show, watch=watch)
    return exits.OK if ready and ready[-1] else exits.FAILED


def _details(session: Session) -> dict[str, Any] | None:
    """What only the server's owner may see."""
    try:
        return session.client.server.status()
    except (Unauthorized, Forbidden) as error:
        session.out.detail(f"no details: {error}")
        return None


def _kept(figures: dict[str, int]) -> str:
    """What waits for starts and resumes, in words."""
    words = [_several(figures["warm_slots"], "warm slot")] if "warm_slots" in figures else []
    if "parked_vms" in figures:
        parked = _several(figures["parked_vms"], "parked VM")
        words.append(f"{parked} ({text.memory(figures.get('parked_memory_mb', 0))})")
    return ", ".join(words)


def _several(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _show(session: Session, told: dict[str, Any], details: dict[str, Any] | None) -> None:
    pairs = {
        "Server": session.client.endpoint.url.value,
        "From": session.client.endpoint.url.origin,
        "Ready": "yes" if told.get("ready") else "no",
    }
    if details is not None:
        host = details["host"]
        states = ", ".join(f"{count} {state}" for state, count in sorted(host["machines"].items()) if count)
        used, total = host["memory_reserved_mb"], host["memory_total_mb"]
        pairs |= {
            "Version": details["version"],
            "Uptime": text.short_duration(details["uptime_s"]),
            "Host": host["name"],
            "Region": host["region"],
            "Driver": host["driver"],
            **({"Kernel": host["kernel"]} if host.get("kernel") else {}),
            "Apps": str(details["apps"]),
            "Machines": states or "none",
            "Memory": f"{text.memory(used)} of {text.memory(total)} reserved",
            "Cpus": str(host["cpus"]),
            **({"Kept ready": kept} if (kept := _kept(host.get("kept", {}))) else {}),
        }
    session.out.pairs(pairs)
    broken = [check for check in told.get("checks", []) if not check["ok"]]
    if broken:
        session.out.line()
        session.out.table(["CHECK", "REASON"], [[check["name"], check.get("reason", "")] for check in broken])
