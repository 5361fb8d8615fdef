"""What a machine is told to do: start, stop, restart, suspend, signal, cordon."""

from __future__ import annotations

import msgspec

from midge.api.call import Call
from midge.api.durations import request_seconds
from midge.api.route import Routes
from midge.api.signals import signal_number, stop_signal
from midge.api.targets import host_and_id
from midge.api.types import Ok
from midge.errors import Conflict, Forbidden, InvalidInput, LeaseHeld, NotFound, PreconditionFailed

STOP_TIMEOUT_MAX_S = 300.0

routes = Routes(tag="Machines")
_MACHINE = "/v1/apps/{app_name}/machines/{machine_id}"
_ERRORS = (InvalidInput, NotFound, Forbidden, LeaseHeld, PreconditionFailed)


class Started(msgspec.Struct, kw_only=True, frozen=True):
    previous_state: str
    migrated: bool = False
    new_host: str = ""


class StopBody(msgspec.Struct, kw_only=True, frozen=True):
    """`timeout` as a Go duration or nanoseconds; zero: the machine's own."""

    signal: str | None = None
    timeout: str | int | None = None
    id: str | None = None


class RestartQuery(msgspec.Struct, kw_only=True, frozen=True):
    """`timeout` as a Go duration or seconds; `force_stop`: kill it, do not ask."""

    timeout: str = ""
    signal: str = ""
    force_stop: bool = False


class SignalBody(msgspec.Struct, kw_only=True, frozen=True):
    """By name or by number."""

    signal: str | int


@routes.post(f"{_MACHINE}/start", errors=(*_ERRORS, Conflict))
async def start_machine(call: Call[None, None]) -> Started:
    """Start a machine, or resume a suspended one. A started machine stays as it is."""
    host, machine_id = await host_and_id(call)
    return Started(previous_state=await host.start(machine_id, nonce=call.nonce))


@routes.post(f"{_MACHINE}/stop", errors=_ERRORS)
async def stop_machine(call: Call[None, StopBody | None]) -> Ok:
    """Ask a machine to stop and answer at once; `wait` tells when it has. A suspended machine loses its snapshot."""
    host, machine_id = await host_and_id(call)
    body = call.body or StopBody()
    await host.stop(
        machine_id,
        signal=stop_signal(body.signal, field="$.signal"),
        timeout_s=_stop_timeout_s(body.timeout, field="$.timeout"),
        nonce=call.nonce,
    )
    return Ok()


@routes.post(f"{_MACHINE}/restart", errors=_ERRORS)
async def restart_machine(call: Call[RestartQuery, None]) -> Ok:
    """Stop and start again, in the same version."""
    host, machine_id = await host_and_id(call)
    query = call.query
    await host.restart(
        machine_id,
        signal=stop_signal(query.signal, field="query parameter signal"),
        timeout_s=_stop_timeout_s(query.timeout, field="query parameter timeout", number_unit_s=1),
        force=query.force_stop,
        nonce=call.nonce,
    )
    return Ok()


@routes.post(f"{_MACHINE}/suspend", errors=_ERRORS)
async def suspend_machine(call: Call[None, None]) -> Ok:
    """Save a machine's memory and end it; `start` brings it back where it was."""
    host, machine_id = await host_and_id(call)
    await host.suspend(machine_id, nonce=call.nonce)
    return Ok()


@routes.post(f"{_MACHINE}/signal", errors=(InvalidInput, NotFound, Forbidden, PreconditionFailed))
async def signal_machine(call: Call[None, SignalBody]) -> Ok:
    """Send a signal to the machine's main process."""
    host, machine_id = await host_and_id(call)
    await host.signal(machine_id, signal_number(call.body.signal, field="$.signal"))
    return Ok()


@routes.post(f"{_MACHINE}/cordon", errors=(InvalidInput, NotFound, Forbidden, LeaseHeld))
async def cordon_machine(call: Call[None, None]) -> Ok:
    """Take a machine out of request routing."""
    host, machine_id = await host_and_id(call)
    await host.cordon(machine_id, True, nonce=call.nonce)
    return Ok()


@routes.post(f"{_MACHINE}/uncordon", errors=(InvalidInput, NotFound, Forbidden, LeaseHeld))
async def uncordon_machine(call: Call[None, None]) -> Ok:
    """Put a machine back into request routing."""
    host, machine_id = await host_and_id(call)
    await host.cordon(machine_id, False, nonce=call.nonce)
    return Ok()


def _stop_timeout_s(given: str | int | None, *, field: str, number_unit_s: float = 1e-9) -> float | None:
    if given is None or given == "":
        return None
    value = request_seconds(given, field=field, number_unit_s=number_unit_s)
    if value > STOP_TIMEOUT_MAX_S:
        raise InvalidInput(f"invalid_argument: {field}: {value:g} s is more than {STOP_TIMEOUT_MAX_S:g} s")
    return value or None
