"""One running container: its guest, its control group, and how it ended."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from midge.cgroup import Cgroup
from midge.drivers.container.groups import thaw
from midge.drivers.instance import Instance
from midge.errors import NotRunning, NotSupported
from midge.machine.spec import ExitStatus

END_GRACE_S = 2.0  # from the exit of a container's process until init has ended the rest and itself
_SIGKILL = 9


class Run:
    """A container this driver has in hand.

    Attributes:
        start_id: of the start or resume that made it.
        name: of the container.
    """

    def __init__(self, start_id: str, name: str, instance: Instance, cgroup: Cgroup) -> None:
        self.start_id = start_id
        self.name = name
        self.instance = instance
        self.cgroup = cgroup
        self._left = asyncio.Event()

    async def wait(self) -> ExitStatus:
        """How it ended. Raises: NotRunning once the machine is suspended, for then nobody can say."""
        ended = asyncio.create_task(self.instance.wait())
        left = asyncio.create_task(self._left.wait())
        try:
            await asyncio.wait((ended, left), return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                return with_oom(ended.result(), self.cgroup)
        finally:
            for task in (ended, left):
                task.cancel()
            await asyncio.gather(ended, left, return_exceptions=True)
        raise NotRunning(f"the machine in {self.name} was suspended while its exit was waited for")

    def leave(self) -> None:
        """Lets those go who wait for the exit of a machine that is suspended now."""
        self._left.set()

    async def kill(self) -> None:
        await kill(self.instance, self.cgroup)

    def own_figures(self, stats: dict[str, Any]) -> dict[str, Any]:
        """Init's figures with the machine's own memory in place of the host's, which is all that init can see."""
        try:
            used = self.cgroup.memory_usage()
            total = self.cgroup.memory_limit()
        except (OSError, NotSupported):
            return stats
        if total is None:
            return stats
        free = max(total - used, 0)
        memory = {**stats.get("memory", {}), "mem_total": total, "mem_free": free, "mem_available": free}
        return {**stats, "memory": memory}


async def kill(instance: Instance, cgroup: Cgroup) -> None:
    await instance.kill()
    thaw(cgroup)  # a frozen process dies when it runs again


async def end(instance: Instance, cgroup: Cgroup) -> None:
    """Ends what still runs, and its shim: gently where the process has ended already."""
    if instance.channel.exit is None:
        await kill(instance, cgroup)
    await instance.end(END_GRACE_S)


def with_oom(status: ExitStatus, cgroup: Cgroup) -> ExitStatus:
    """A death by SIGKILL in a group whose kernel counted one for want of memory was that one.

    Init says so itself where it can read the counter; not if it was killed too, or an old kernel hides it.
    """
    if status.oom_killed or status.exit_code != 128 + _SIGKILL or oom_kills(cgroup) == 0:
        return status
    return msgspec.structs.replace(status, oom_killed=True)


def oom_kills(cgroup: Cgroup) -> int:
    try:
        return cgroup.oom_kills()
    except (FileNotFoundError, NotSupported):
        return 0
