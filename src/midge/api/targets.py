"""From the parameters of a path to the app and the machine they name, as far as the caller may see them."""

from __future__ import annotations

from typing import Any

from midge.api.call import Call
from midge.api.names import check_machine_id
from midge.central.apps import App
from midge.errors import NotFound
from midge.worker.host import Host, MachineView

_GOING = frozenset({"destroying", "destroyed"})


async def app_of(call: Call[Any, Any]) -> App:
    """The app of the path.

    Raises:
        NotFound: its name is free.
        Forbidden: it exists, out of the caller's reach.
    """
    app = await call.services.central.apps.get(call.path["app_name"])
    call.principal.check_app(app)
    return app


async def machine_of_call(call: Call[Any, Any]) -> tuple[Host, MachineView]:
    """The machine of the path and its host.

    Raises:
        InvalidInput: the id is malformed.
        NotFound, Forbidden: no such app, no such machine, or out of reach.
    """
    services, app_name = call.services, call.path["app_name"]
    if not call.principal.unrestricted:
        await app_of(call)
    machine_id = call.path["machine_id"]
    try:
        check_machine_id(machine_id)
        host = services.host_of(machine_id)
        view = host.get(machine_id)
    except NotFound:
        await app_of(call)  # the app is missing rather than the machine? then say that
        raise NotFound("machine not found") from None
    if view.state in _GOING:
        await app_of(call)  # the app may have gone with its machines
    if view.app != app_name:
        await app_of(call)
        raise NotFound("machine not found")
    return host, view


async def host_and_id(call: Call[Any, Any]) -> tuple[Host, str]:
    """As `machine_of_call`, for handlers that need no view."""
    host, view = await machine_of_call(call)
    return host, view.id
