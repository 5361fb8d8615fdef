"""Tokens: opaque, ``mdg_<id>_<secret>``, kept as a hash.

The text before the first ``_`` tells Fly's clients what a token is; anything but ``fm1r``, ``fm1a`` and ``fm2`` is
sent as ``Bearer`` and never decoded. The id half finds the row, the secret half (256 bits of entropy, so that plain
SHA-256 is enough) is compared in constant time.

Every request brings a token, and looking one up in the database takes longer than all else that is done before the
handler. So those that were good are remembered by the hash of their whole text, until a token ends. A revision in
the database counts those ends: this process sees its own at once, and those of others within REVISION_TTL_S.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets

import msgspec

from midge.central.apps import App
from midge.central.database import CentralDatabase, Transaction
from midge.central.organizations import Organization
from midge.central.revision import count_end, read_revision
from midge.clock import Clock, now_ms
from midge.errors import NotFound

PREFIX = "mdg"
ID_HEX = 12
SECRET_BYTES = 32
REVISION_TTL_S = 1.0  # how long a token that was revoked by another process may still be good here, seconds
REMEMBERED_MAX = 4096  # tokens; when there are more, all are looked up once again
_NOBODY = hashlib.sha256(
    b""
).digest()  # compared against when there is no such id, so that both cases cost the same


class Token(msgspec.Struct, kw_only=True, frozen=True):
    """What a token reaches. `org_slug` and `app` None: everything."""

    id: str
    name: str
    org_slug: str | None
    org_name: str | None
    app: str | None
    expires_ms: int | None


class Tokens:
    def __init__(self, database: CentralDatabase, clock: Clock) -> None:
        self._db = database
        self._clock = clock
        self._remembered: dict[bytes, Token] = {}
        self._generation = 0  # of what is remembered: counts how often all of it was forgotten
        self._revision = -1  # in the database when it was last looked at
        self._look_again_s = float("-inf")  # on the monotonic clock
        self._looking = asyncio.Lock()

    async def verify(self, text: str) -> Token | None:
        """The token's rights, or None: unknown, expired and revoked look alike."""
        if self._clock.monotonic() >= self._look_again_s:
            await self._look_at_revision()
        key = hashlib.sha256(text.encode()).digest()
        token = self._remembered.get(key)
        if token is None:
            generation = self._generation
            token = await self._look_up(text)
            if token is None:
                return None
            if generation == self._generation:  # otherwise it may have ended while it was looked up
                if len(self._remembered) >= REMEMBERED_MAX:
                    self.forget()
                self._remembered[key] = token
        if token.expires_ms is not None and token.expires_ms <= now_ms(self._clock):
            return None
        return token

    def forget(self) -> None:
        """Tokens have ended, for example with their app: look all of them up again."""
        self._remembered.clear()
        self._generation += 1

    async def _look_at_revision(self) -> None:
        """One at a time: who waited finds that another has looked."""
        async with self._looking:
            begun_s = self._clock.monotonic()
            if begun_s < self._look_again_s:
                return
            revision = await read_revision(self._db)
            if revision != self._revision:
                self._revision = revision
                self.forget()
            self._look_again_s = begun_s + REVISION_TTL_S

    async def _look_up(self, text: str) -> Token | None:
        prefix, _, rest = text.partition("_")
        token_id, _, secret = rest.partition("_")
        if prefix != PREFIX or len(token_id) != ID_HEX or not secret:
            return None
        row = await self._db.fetch_one(
            "SELECT t.hash, t.name, o.slug, o.name, a.name, t.expires_ms, t.revoked_ms FROM tokens t "
            "LEFT JOIN organizations o ON o.numeric_id = t.org_id LEFT JOIN apps a ON a.id = t.app_id WHERE t.id=$1",
            token_id,
        )
        wanted = _NOBODY if row is None else row[0]
        same = hmac.compare_digest(hashlib.sha256(secret.encode()).digest(), wanted)
        if row is None or not same:
            return None
        _, name, org_slug, org_name, app, expires_ms, revoked_ms = row
        if revoked_ms is not None:
            return None
        return Token(
            id=token_id, name=name, org_slug=org_slug, org_name=org_name, app=app, expires_ms=expires_ms
        )

    async def create(
        self,
        name: str,
        *,
        organization: Organization | None = None,
        app: App | None = None,
        ttl_s: float | None = None,
    ) -> str:
        """Makes a token and returns its text, which is not kept.

        Args:
            ttl_s: how long it is good, seconds; None: until it is revoked.

        Raises:
            NotFound: the app is gone.
        """
        token_id, secret = secrets.token_hex(ID_HEX // 2), secrets.token_urlsafe(SECRET_BYTES)
        created_ms = now_ms(self._clock)

        async def job(tx: Transaction) -> None:
            if app is not None:
                there = await tx.fetch_one(f"SELECT 1 FROM apps WHERE id=$1{tx.for_share}", app.id)
                if there is None:
                    raise NotFound("app not found")
            await tx.fetch(
                "INSERT INTO tokens(id, hash, name, org_id, app_id, created_ms, expires_ms) "
                "VALUES($1,$2,$3,$4,$5,$6,$7)",
                token_id,
                hashlib.sha256(secret.encode()).digest(),
                name,
                None if organization is None else organization.numeric_id,
                None if app is None else app.id,
                created_ms,
                None if ttl_s is None else created_ms + round(ttl_s * 1000),
            )

        await self._db.transact(job)
        return f"{PREFIX}_{token_id}_{secret}"

    async def revoke(self, token_id: str) -> bool:
        """False if there is no such token, or it was revoked before."""
        revoked_ms = now_ms(self._clock)

        async def job(tx: Transaction) -> bool:
            revoked = await tx.fetch_one(
                "UPDATE tokens SET revoked_ms=$1 WHERE id=$2 AND revoked_ms IS NULL RETURNING id",
                revoked_ms,
                token_id,
            )
            await count_end(tx)
            return revoked is not None

        revoked = await self._db.transact(job)
        self.forget()
        return revoked

    async def revoke_named(self, name: str, *, keep: str) -> None:
        """Revokes every token of that name but the one whose id is `keep`."""
        revoked_ms = now_ms(self._clock)

        async def job(tx: Transaction) -> None:
            await tx.fetch(
                "UPDATE tokens SET revoked_ms=$1 WHERE name=$2 AND id<>$3 AND revoked_ms IS NULL",
                revoked_ms,
                name,
                keep,
            )
            await count_end(tx)

        await self._db.transact(job)
        self.forget()
