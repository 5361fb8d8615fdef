"""Waiting for a machine, in front of a user who may go away."""

from __future__ import annotations

from midge.cli.progress import step
from midge.cli.session import Session
from midge.cli.targets import Target


def wait_for(
    session: Session,
    target: Target,
    states: tuple[str, ...],
    timeout_s: float,
    *,
    version: str = "",
    from_event_id: str = "",
) -> str:
    """The state reached.

    Ctrl-C leaves the machine alone and says how to wait on.

    Raises:
        WaitTimeout, StateUnreachable: see `midge.client.wait`.
    """
    wanted = " or ".join(states)
    try:
        with step(session.out, f"waiting for {target.typed} to be {wanted}"):
            reached = session.client.machines.wait(
                target.app,
                target.id,
                states,
                timeout_s=timeout_s,
                version=version,
                from_event_id=from_event_id,
            )
    except KeyboardInterrupt:
        resume = target.command("wait", f"--state {states[0]}")
        session.out.note(f"\nno longer waiting; the machine goes on. Wait again with:\n  {resume}")
        raise
    return reached["state"]
