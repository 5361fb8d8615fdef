"""Does a guest really run here? Only a boot tells, and the answer holds until the host restarts.

The first template of a host's boot is that proof; see `midge.drivers.qemu.accel` for why nothing less is one.
"""

from __future__ import annotations

from pathlib import Path

import structlog

from midge.drivers.firecracker.recipe import Recipe
from midge.drivers.qemu.accel import KVM_DEVICE, Verdict, boot_id, device_problem, remember, remembered
from midge.drivers.templates import TemplateStore
from midge.errors import DriverError, NotSupported, chain

VERDICT_PATH = Path("/run/midge/firecracker.json")

_log = structlog.get_logger("midge.firecracker")


def check_device(device: Path = KVM_DEVICE) -> None:
    """Raises: NotSupported if the device cannot even be opened."""
    if problem := device_problem(device):
        raise NotSupported(problem.reason, hint=f"{problem.hint}; or use qemu")


async def prove(templates: TemplateStore[Recipe], recipe: Recipe, path: Path = VERDICT_PATH) -> None:
    """Boots a guest, unless one has booted since the host did.

    Raises:
        NotSupported: it does not come up, now or when it was tried.
    """
    subject = f"{recipe.kernel.id} firecracker {recipe.version}"
    verdict = remembered(subject, path)
    if verdict is None:
        verdict = await _try(templates, recipe, subject)
        remember(verdict, path)
    if not verdict.usable:
        raise NotSupported(verdict.reason, hint=f"to try again before the next restart: rm {path}")


async def _try(templates: TemplateStore[Recipe], recipe: Recipe, subject: str) -> Verdict:
    _log.info("trying whether a guest boots")
    # One from an earlier boot of the host would be taken as it is, and proves nothing for this one.
    await templates.forget(recipe.key)
    try:
        await templates.ensure(recipe)
    except DriverError as error:
        reason = f"no guest boots under firecracker: {chain(error)}"
        return Verdict(boot_id=boot_id(), kernel=subject, outcome="does-not-boot", reason=reason)
    return Verdict(boot_id=boot_id(), kernel=subject, outcome="boots", reason="a guest booted")
