"""Control groups of machines, on unified (v2) and legacy or hybrid (v1) hierarchies alike."""

from __future__ import annotations

from midge.cgroup.group import Cgroup
from midge.cgroup.limits import Limits
from midge.cgroup.tree import CgroupTree

__all__ = ["Cgroup", "CgroupTree", "Limits"]
