"""Wait until a machine is in one of some states."""

from __future__ import annotations

import msgspec

from midge.api.call import Call
from midge.api.durations import request_seconds
from midge.api.names import ID_SHOWN_MAX
from midge.api.route import Routes
from midge.api.targets import machine_of_call
from midge.errors import DeadlineExceeded, Forbidden, InvalidInput, NotFound
from midge.ids import is_ulid

STATES = ("started", "stopped", "suspended", "destroyed", "failed", "settled")
TIMEOUT_MAX_S = 60  # also the default; clients poll again

routes = Routes(tag="Machines")


class WaitQuery(msgspec.Struct, kw_only=True, frozen=True):
    """`settled`: any state that lasts. `timeout` in seconds, 1 to 60. `instance_id` is the old name of `version`."""

    state: list[str] = []
    timeout: str = ""
    version: str = ""
    instance_id: str = ""
    from_event_id: str = ""


class Waited(msgspec.Struct, kw_only=True, frozen=True):
    state: str
    version: str
    event_id: str
    ok: bool = True


@routes.get(
    "/v1/apps/{app_name}/machines/{machine_id}/wait",
    errors=(InvalidInput, NotFound, Forbidden, DeadlineExceeded),
    watched=True,
)
async def wait_for_state(call: Call[WaitQuery, None]) -> Waited:
    """Answer as soon as the machine is in one of the states; 408 when the time is up."""
    host, view = await machine_of_call(call)
    query = call.query
    states = frozenset(query.state) or frozenset({"started"})
    unknown = sorted(states.difference(STATES))
    if unknown:
        raise InvalidInput(
            f"invalid_argument: query parameter state: unknown state {unknown[0][:32]!r}",
            hint="one of " + ", ".join(STATES),
        )
    timeout_s = _timeout_s(query.timeout)
    version = query.version or query.instance_id
    _check_ulid("version" if query.version else "instance_id", version)
    _check_ulid("from_event_id", query.from_event_id)
    if version not in ("", view.version) and all(version != known for known, _ in host.versions(view.id)):
        # An update makes its version known before it answers: one that is not known never comes.
        raise NotFound(
            f"machine {view.id} has no version {version}",
            hint="it never had, or the update to it failed: GET the machine's events",
        )
    result = await host.wait(
        view.id, states=states, timeout_s=timeout_s, version=version, from_event_id=query.from_event_id
    )
    return Waited(state=result.state, version=result.version, event_id=result.event_id)


def _check_ulid(name: str, given: str) -> None:
    if given and not is_ulid(given):
        raise InvalidInput(
            f"invalid_argument: query parameter {name}: not an id: {given[:ID_SHOWN_MAX]!r}",
            hint="26 digits and capital letters, as the machine and its events have them",
        )


def _timeout_s(given: str) -> float:
    if not given:
        return TIMEOUT_MAX_S
    value = request_seconds(given, field="query parameter timeout", number_unit_s=1)
    if not 1 <= value <= TIMEOUT_MAX_S:
        raise InvalidInput(
            "invalid_argument: query parameter timeout: value must be inside range [1s, 1m0s]",
            hint=f"for longer, wait {TIMEOUT_MAX_S} seconds and ask again",
        )
    return value
