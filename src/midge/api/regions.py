"""Regions: codes, places, aliases. One host has one region; its code may be a well-known one or any other word."""

from __future__ import annotations

import msgspec

from midge.errors import NoCapacity

ALIASES = {
    "any": "",
    "apac": "asia_pacific",
    "eu": "europe",
    "na": "north_america",
    "sa": "south_america",
    "us": "north_america",
    "usa": "north_america",
}


class Region(msgspec.Struct, kw_only=True, frozen=True):
    code: str
    name: str
    latitude: float = 0.0
    longitude: float = 0.0
    gateway_available: bool = False
    requires_paid_plan: bool = False
    deprecated: bool = False
    geo_region: str = ""
    mpg_available: bool = False


def _known() -> dict[str, Region]:
    rows = (
        ("ams", "Amsterdam, Netherlands", 52.37, 4.90, "europe"),
        ("arn", "Stockholm, Sweden", 59.65, 17.92, "europe"),
        ("bom", "Mumbai, India", 19.09, 72.87, "asia_pacific"),
        ("cdg", "Paris, France", 48.86, 2.35, "europe"),
        ("dfw", "Dallas, Texas (US)", 32.78, -96.81, "north_america"),
        ("ewr", "Secaucus, NJ (US)", 40.79, -74.06, "north_america"),
        ("fra", "Frankfurt, Germany", 50.11, 8.68, "europe"),
        ("gru", "Sao Paulo, Brazil", -23.55, -46.63, "south_america"),
        ("iad", "Ashburn, Virginia (US)", 39.02, -77.54, "north_america"),
        ("jnb", "Johannesburg, South Africa", -26.20, 28.04, "africa"),
        ("lax", "Los Angeles, California (US)", 33.94, -118.41, "north_america"),
        ("lhr", "London, United Kingdom", 51.47, -0.45, "europe"),
        ("nrt", "Tokyo, Japan", 35.62, 139.78, "asia_pacific"),
        ("ord", "Chicago, Illinois (US)", 41.89, -87.64, "north_america"),
        ("sin", "Singapore, Singapore", 1.35, 103.82, "asia_pacific"),
        ("sjc", "San Jose, California (US)", 37.35, -121.96, "north_america"),
        ("syd", "Sydney, Australia", -33.87, 151.21, "asia_pacific"),
        ("yyz", "Toronto, Canada", 43.64, -79.38, "north_america"),
    )
    return {
        code: Region(code=code, name=name, latitude=latitude, longitude=longitude, geo_region=geo)
        for code, name, latitude, longitude, geo in rows
    }


_KNOWN = _known()


def region_of(code: str) -> Region:
    return _KNOWN.get(code) or Region(code=code, name=code.capitalize())


def choose_region(wanted: str, here: str) -> str:
    """The region for a machine: `here`, if the wish (a code, an alias, or a list of them) allows it.

    A host in a region of its own making matches every geographic alias: it knows better than we where it is.

    Raises:
        NoCapacity: the wish excludes this host.
    """
    words = [word.strip().lower() for word in wanted.split(",") if word.strip()]
    geo = region_of(here).geo_region
    for word in words:
        alias = ALIASES.get(word)
        if word == here or alias == "" or (alias is not None and geo in ("", alias)):
            return here
    if not words:
        return here
    raise NoCapacity(
        "could not find a candidate host",
        hint=f"this server has one region, {here}; leave the region out to use it",
        region=here,
    )
