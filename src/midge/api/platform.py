"""The platform: its regions."""

from __future__ import annotations

import msgspec

from midge.api.call import Call
from midge.api.regions import Region, region_of
from midge.api.route import Routes

routes = Routes(tag="Platform")


class Regions(msgspec.Struct, kw_only=True, frozen=True):
    regions: list[Region]
    nearest: str


@routes.get("/v1/platform/regions", auth=False)
async def list_regions(call: Call[None, None]) -> Regions:
    """The regions of this server. Needs no token."""
    here = call.services.region
    return Regions(regions=[region_of(here)], nearest=here)
