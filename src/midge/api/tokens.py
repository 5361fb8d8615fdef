"""Tokens: what the caller's own one reaches."""

from __future__ import annotations

import msgspec

from midge.api.call import Call
from midge.api.route import Routes
from midge.central.organizations import PERSONAL
from midge.errors import Unauthorized

routes = Routes(tag="Tokens")


class TokenInfo(msgspec.Struct, kw_only=True, frozen=True):
    """`apps` is ``["*"]`` for all of the organization."""

    token_id: str
    org_slug: str
    organization: str
    apps: list[str]
    user: str = ""
    restricted_to_machine: str = ""
    source_machine_id: str = ""


class CurrentToken(msgspec.Struct, kw_only=True, frozen=True):
    tokens: list[TokenInfo]


@routes.get("/v1/tokens/current", errors=(Unauthorized,))
async def current_token(call: Call[None, None]) -> CurrentToken:
    """What the token of this request reaches."""
    principal = call.principal
    info = TokenInfo(
        token_id=principal.token_id,
        org_slug=principal.org_slug or PERSONAL,
        organization=principal.org_name or (await call.services.central.organizations.get(PERSONAL)).name,
        apps=["*"] if principal.app is None else [principal.app],
        user=principal.name,
    )
    return CurrentToken(tokens=[info])
