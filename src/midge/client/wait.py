"""Waiting for a state: long polls of at most a minute, until a deadline of the caller's."""

from __future__ import annotations

import math
from collections.abc import Callable

from midge.client import machines
from midge.client.failures import StateUnreachable, WaitTimeout
from midge.client.request import Answer, Request
from midge.errors import DeadlineExceeded

# A poll that ends with "not reached" this much before its time, in seconds, was not cut off by the clock: the
# server knows that the state cannot come any more.
EARLY_S = 0.9


def wait(
    send: Callable[[Request], Answer],
    monotonic: Callable[[], float],
    app: str,
    machine: str,
    states: tuple[str, ...],
    *,
    timeout_s: float,
    version: str = "",
    from_event_id: str = "",
) -> dict[str, str]:
    """The API's answer: ``{"ok", "state", "version", "event_id"}``.

    Raises:
        WaitTimeout: not within `timeout_s`; it may still come.
        StateUnreachable: the machine is where the states cannot be reached from.
    """
    deadline = monotonic() + timeout_s
    while True:
        asked = monotonic()
        slice_s = max(1, min(machines.WAIT_SLICE_MAX_S, math.ceil(deadline - asked)))
        request = machines.wait(
            app, machine, states, slice_s=slice_s, version=version, from_event_id=from_event_id
        )
        try:
            return dict(send(request).body)
        except DeadlineExceeded as error:
            if monotonic() - asked < slice_s - EARLY_S:
                raise StateUnreachable(error.message, hint=f"see `midge machine events {machine}`") from error
            if monotonic() >= deadline:
                raise WaitTimeout(
                    f"machine {machine} is not {' or '.join(states)} after {timeout_s:g} s",
                    hint=f"wait on with `midge machine wait {machine} -a {app} --state {states[0]}`",
                ) from error
