"""What a server keeps waiting, by its own settings: how many machines a round needs to go every way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from midge.bench.api import Api
from midge.drivers.pool_settings import ParkedSettings, PoolSettings

MACHINES_A_ROUND_MAX = 16  # whatever a server is set to


@dataclass(frozen=True, slots=True)
class Pool:
    """`per_key`: slots of each kind for one image and shape; `parked`: suspended machines whose VMM is kept."""

    per_key: int
    parked: int

    def starts(self, driver: str) -> int:
        """Machines that, started back to back, take every way there is: each slot, and one that finds none."""
        kinds = {"qemu": 2, "container": 1}.get(driver, 0)
        return min(kinds * self.per_key + 1, MACHINES_A_ROUND_MAX)

    def suspends(self) -> int:
        """Machines that, suspended one after another, do not all find room among the parked."""
        return min(self.parked + 1, MACHINES_A_ROUND_MAX)


async def pool_of(api: Api) -> Pool:
    """As the server says it, else as a server of this version would be set."""
    return pool_from(await api.server_settings())


def pool_from(settings: dict[str, Any]) -> Pool:
    """Settings that a server does not tell count as their defaults."""
    defaults = PoolSettings()
    slots = int(settings.get("warm_slots", defaults.slots_max))
    parked = int(settings.get("parked_max", ParkedSettings().vms_max))
    return Pool(per_key=min(defaults.per_key, slots), parked=parked)
