"""What a machine's driver cannot do does not begin."""

from __future__ import annotations

from pathlib import Path

import pytest

from midge.drivers.base import Capabilities
from midge.drivers.mock import MockDriver
from midge.errors import NotSupported
from midge.testing.worker import create_request, running_worker, settled

pytestmark = pytest.mark.anyio


class Plain(MockDriver):
    """Suspends nothing."""

    capabilities = Capabilities(suspend="none")


async def test_a_suspend_that_the_driver_cannot_do_is_refused_and_the_machine_runs_on(tmp_path: Path) -> None:
    async with running_worker(tmp_path, driver=Plain(tmp_path / "mock")) as worker:
        view = await worker.create(create_request())
        await settled(worker, view.id, "started")
        before = worker.parts.catalog.get(view.id)
        with pytest.raises(NotSupported, match="cannot be suspended") as refused:
            await worker.ask(view.id, "suspend", {})
        assert refused.value.hint
        assert worker.parts.catalog.get(view.id) == before
