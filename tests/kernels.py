"""Guest kernels with an init of the test's own, apart from those that servers and other tests use."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from midge.kernel import Kernel, KernelStore, default_root
from midge.kernel.store import Choice


@contextlib.contextmanager
def private_kernel(flavour: Choice, init: Path) -> Iterator[Kernel]:
    """A kernel in a store of its own on the bases of this user's store, which gets its base first if there is none.

    Raises:
        MidgeError: there is none, and none could be had.
    """
    shared = KernelStore(default_root())
    if not asyncio.run(shared.newest(flavour)):
        asyncio.run(shared.ensure(flavour, init_binary=init))
    with tempfile.TemporaryDirectory(prefix="midge-kernels-", dir="/var/tmp") as folder:
        store = KernelStore(Path(folder))
        (store.root / "bases").symlink_to(shared.root / "bases")
        yield asyncio.run(store.ensure(flavour, init_binary=init))
