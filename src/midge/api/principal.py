"""Who asks, and what they may reach."""

from __future__ import annotations

import msgspec

from midge.central.apps import App
from midge.central.organizations import Organization
from midge.central.tokens import Token
from midge.errors import Forbidden


class Principal(msgspec.Struct, kw_only=True, frozen=True):
    """The holder of a token; `org_slug` and `app` None: everything."""

    token_id: str
    name: str
    org_slug: str | None = None
    org_name: str | None = None
    app: str | None = None

    @property
    def unrestricted(self) -> bool:
        return self.org_slug is None and self.app is None

    @property
    def owner(self) -> str:
        """How leases name this holder."""
        return f"{self.token_id}@tokens.midge"

    def check_app(self, app: App) -> None:
        """Raises Forbidden. An app of another organization answers 403 and not 404: its name is not free."""
        self.check_organization(app.organization)
        if self.app is not None and self.app != app.name:
            raise Forbidden("unauthorized", hint=f"this token reaches only the app {self.app}")

    def check_organization(self, organization: Organization) -> None:
        """Raises Forbidden."""
        if self.org_slug is not None and self.org_slug != organization.slug:
            raise Forbidden("unauthorized", hint=f"this token reaches only the organization {self.org_slug}")

    def check_admin(self) -> None:
        """Raises Forbidden unless the token reaches the whole host."""
        if not self.unrestricted:
            raise Forbidden("unauthorized", hint="this needs the host's own token, see the file `token`")


NOBODY = Principal(token_id="", name="", org_slug="", app="")


def principal_of(token: Token) -> Principal:
    return Principal(
        token_id=token.id,
        name=token.name,
        org_slug=token.org_slug,
        org_name=token.org_name,
        app=token.app,
    )
