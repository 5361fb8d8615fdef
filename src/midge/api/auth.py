"""The Authorization header.

Clients send ``Bearer x``, ``FlyV1 a,b``, ``Bearer FlyV1 a`` and the token alone, so scheme words are stripped for
as long as there are any, and of several tokens the first that is known counts.
"""

from __future__ import annotations

from midge.api.principal import Principal, principal_of
from midge.central.tokens import Tokens
from midge.errors import Unauthorized

TOKENS_MAX = 16  # tokens in one header: flyctl sends a macaroon and its discharges


async def authenticate(header: str, tokens: Tokens) -> Principal:
    """Raises Unauthorized, with the text Fly's clients know."""
    for candidate in split_tokens(header):
        token = await tokens.verify(candidate)
        if token is not None:
            return principal_of(token)
    hint = (
        "send the header `Authorization: Bearer TOKEN`" if not header else "the token is unknown or expired"
    )
    raise Unauthorized("Authenticate: token validation error", hint=hint)


def split_tokens(header: str) -> list[str]:
    """The tokens of a header, without scheme words."""
    found = []
    for part in header.split(",")[:TOKENS_MAX]:
        text = part.strip()
        while text[:7].lower() == "bearer " or text[:6].lower() == "flyv1 ":
            text = text.split(" ", 1)[1].lstrip()
        if text:
            found.append(text)
    return found
