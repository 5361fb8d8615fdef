"""The disk files of `midge.drivers.disks`, under the name this driver has used."""

from __future__ import annotations

from midge.drivers.disks import blank_layer, copy_sparse, create, opened, read_only

__all__ = ["blank_layer", "copy_sparse", "create", "opened", "read_only"]
