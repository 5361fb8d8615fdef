"""The process around a server: loop, signals, log, systemd.

SIGTERM or SIGINT: stop accepting, let requests under way end within the drain deadline, leave machines running,
exit 0. A second one: at once. During the start: give back what was taken so far, exit 0. SIGUSR1: every task and what
it waits for, into the log. SIGHUP: nothing can be reloaded, and that is said.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator, Callable

import structlog
import uvloop

from midge.api.system import task_tree
from midge.garbage import collect_by_the_clock, no_full_collections
from midge.server import logging
from midge.server.assembly import HostOpener, RunningServer, running
from midge.server.notify import notify
from midge.server.settings import Settings

# How long one thread may keep the interpreter while another wants it, seconds. The default of 5 ms is what a
# request would wait each time the SQLite writer or an image thread computes; half a millisecond costs 1 % at most.
SWITCH_INTERVAL_S = 0.0005

# Of the files a server makes where it does not say more: machines' logs are for all users of the host to read, whatever
# the shell it was started from had. What is secret has a mode of its own.
UMASK = 0o022

_log = structlog.get_logger("midge.server")


def run(
    settings: Settings, open_host: HostOpener, *, on_ready: Callable[[RunningServer], None] | None = None
) -> int:
    """`serve` in an event loop of its own; returns the exit status."""
    logging.configure(settings)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    os.umask(UMASK)
    signal.signal(
        signal.SIGCHLD, signal.SIG_DFL
    )  # ignored, as a parent may leave it, it keeps exit codes from us
    raise_descriptor_limit()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(serve(settings, open_host, on_ready=on_ready))


def raise_descriptor_limit() -> int:
    """Allows this process as many descriptors as it may have; returns their number.

    A running machine takes a handful, so the usual 1024 would be gone at some 200 machines. Programs we start
    get limits of their own.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


async def serve(
    settings: Settings, open_host: HostOpener, *, on_ready: Callable[[RunningServer], None] | None = None
) -> int:
    """Serves until told to stop.

    Args:
        on_ready: called once requests are accepted, for instance to print the URL.

    Raises:
        MidgeError: the server could not start.
    """
    process = _Process()
    try:
        return await _serve(process, settings, open_host, on_ready)
    except asyncio.CancelledError:
        if not process.told_to_stop:
            raise
        process.task.uncancel()
        _log.info("stopped before it was ready")
        return 0


async def _serve(
    process: _Process,
    settings: Settings,
    open_host: HostOpener,
    on_ready: Callable[[RunningServer], None] | None,
) -> int:
    async with running(settings, open_host) as server, _collecting():
        process.server = server
        status = server.services.host.status()
        _log.info(
            "ready", url=server.url, driver=status.driver, region=settings.region, data_dir=settings.data_dir
        )
        notify(f"READY=1\nMAINPID={os.getpid()}\nSTATUS=serving {server.url}")
        if on_ready is not None:
            on_ready(server)
        await server.services.stopping.wait()
        notify("STOPPING=1")
        _log.info("stopping", drain_timeout_s=settings.drain_timeout_s)
    _log.info("stopped; machines go on running")
    return 0


class _Process:
    """What signals do. In place before anything is taken from the host, or it would be left behind."""

    def __init__(self) -> None:
        task = asyncio.current_task()
        assert task is not None, "made by the task that serves"
        self.task = task
        self.server: RunningServer | None = None  # once it is up
        self.told_to_stop = False
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._terminate)
        loop.add_signal_handler(signal.SIGINT, self._terminate)
        loop.add_signal_handler(signal.SIGUSR1, dump_tasks)
        loop.add_signal_handler(
            signal.SIGHUP, lambda: _log.warning("nothing is reloaded on SIGHUP", hint="restart the server")
        )

    def _terminate(self) -> None:
        server, before = self.server, self.told_to_stop
        self.told_to_stop = True
        if server is None:
            if not before:
                self.task.cancel()
            return
        if server.services.stopping.is_set():
            _log.warning("stopping at once")
            server.stop_now()
        server.stop()


@contextlib.asynccontextmanager
async def _collecting() -> AsyncIterator[None]:
    with no_full_collections():
        task = asyncio.create_task(collect_by_the_clock(), name="collect garbage")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])


def dump_tasks() -> None:
    """Writes what every task waits for into the log."""
    for task in task_tree():
        _log.info("task", task=task.name, at=task.at)
