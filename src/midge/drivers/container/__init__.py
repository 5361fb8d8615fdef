"""Machines as containers: namespaces and cgroups through an OCI runtime, behind a shim, with midge-init as PID 1.

driver.py    the verbs
spec.py      the runtime's config.json, pure; seccomp.py, capabilities and paths belong to it
runtime.py   the runtime's command line, and where its binary comes from
overlay.py   the root filesystem's layers
run.py       one running container
"""

from midge.drivers.container.driver import ContainerDriver
from midge.drivers.container.settings import ContainerSettings

__all__ = ["ContainerDriver", "ContainerSettings"]
