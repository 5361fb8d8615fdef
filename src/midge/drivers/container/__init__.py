"""Machines as containers: namespaces and cgroups through an OCI runtime, behind a shim, with midge-init as PID 1.

driver.py    the verbs
supply.py    containers that wait for a machine; uts.py gives one its host name
place.py     what a container lives in: run directory, layer, group, network slot
launch.py    from a place to a container that runs
spec.py      the runtime's config.json, pure; seccomp.py, capabilities and paths belong to it
runtime.py   the runtime's command line, and where its binary comes from
overlay.py   the root filesystem's layers
groups.py    control groups
run.py       one running container
"""

from midge.drivers.container.driver import ContainerDriver
from midge.drivers.container.settings import ContainerSettings

__all__ = ["ContainerDriver", "ContainerSettings"]
