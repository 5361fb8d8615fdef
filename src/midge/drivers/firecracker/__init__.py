"""Virtual machines by Firecracker, in its jailer, on hosts with KVM. See docs/firecracker.md."""

from __future__ import annotations
