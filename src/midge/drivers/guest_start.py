"""Telling a guest who it is and what to run: the last step of every start."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from midge.drivers.base import Trace
from midge.errors import DriverError
from midge.guest import messages as m
from midge.guest.channel import GuestChannel
from midge.guest.errors import GuestRefused
from midge.guest.files import GuestFile
from midge.guest.phases import ignore

EXIT_REPORT_TIMEOUT_S = 5.0  # from the refusal of RUN to the exit that says why; both are sent at once


async def run_guest(
    channel: GuestChannel, message: m.Configure, files: Sequence[GuestFile], trace: Trace | None = None
) -> None:
    """Configures the guest and runs its process.

    `trace` gets the phases the guest's answers end; see `GuestChannel.start`.

    A process that cannot be executed has "run" and ended, with 125 to 127: no error here, its exit says so.

    Raises:
        DriverError: the guest could not be configured, or a file could not be written.
        ChannelLost: VMM or container has ended.
        DeadlineExceeded: the guest did not answer in time.
    """
    try:
        await channel.start(message, files, mark=trace.mark if trace else ignore)
    except GuestRefused as refused:
        if refused.during != "run":
            raise DriverError(f"guest could not be set up ({refused.during})") from refused
        try:
            async with asyncio.timeout(EXIT_REPORT_TIMEOUT_S):
                await channel.wait_exit()
        except TimeoutError as error:
            raise DriverError("guest refused to run its process and did not report an exit") from error
