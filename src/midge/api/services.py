"""What handlers work with: the central store, the host, the images, the metrics."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from midge.api.images_port import ImagesPort
from midge.central.store import Central
from midge.worker.host import Host

if TYPE_CHECKING:
    from midge.api.metrics import Metrics


@dataclass(slots=True, kw_only=True)
class Services:
    """Everything a handler may touch.

    Attributes:
        host: the worker of this host, or whatever reaches it.
        upload_dir: where uploads wait until they are imported.
        config: the effective configuration, without secrets, for ``/-/config``.
        access_log: every request is logged.
        stopping: set when the server shuts down; whoever waits long gives up then.
    """

    central: Central
    host: Host
    region: str
    metrics: Metrics
    upload_dir: Path
    images: ImagesPort | None = None
    config: dict[str, Any] = field(default_factory=dict)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    access_log: bool = False

    def host_of(self, machine_id: str) -> Host:
        """The host that owns a machine."""
        return self.host
