"""The server that is measured: one of our own, gone afterwards, or one that runs already.

An own server is `midge serve` in a process and directories of its own. Nothing of it stays: machines are destroyed
over its API; if it has died meanwhile it is started once more for that, since only it knows what it holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import msgspec

from midge.bench.api import open_api
from midge.bench.errors import BenchError, CannotMeasure
from midge.bench.hostinfo import filesystem
from midge.bench.http import Server, open_connection
from midge.errors import MidgeError
from midge.logs.inotify import FileWatch

READY_TIMEOUT_S = 180.0  # a first start may fetch a kernel and probe KVM
STOP_TIMEOUT_S = 30.0
REMOVE_TIMEOUT_S = 180.0  # all machines of a run, on a loaded host
LOG_TAIL_BYTES = 2000
SCRATCH = Path("/var/tmp")  # on a disk, unlike /tmp on many hosts: what is measured includes its fsync
APP = "midge-bench"
SHARED_MEMORY = Path("/dev/shm")
_KEPT_VARIABLES = ("MIDGE_BIN_DIR", "MIDGE_CACHE")


@dataclass(slots=True, kw_only=True)
class Target:
    """Where requests go. `own` is None for a server that ran already."""

    server: Server
    driver: str
    variant: str
    app: str
    own: OwnServer | None = None

    @property
    def acceleration(self) -> str:
        return self.own.acceleration() if self.own is not None else ""


@dataclass(slots=True, kw_only=True)
class OwnServer:
    """A `midge serve` of ours.

    Attributes:
        flavour: of the guest kernel; empty: the driver chooses.
        spawned_at, ready_at: seconds of `time.perf_counter`.
    """

    driver: str
    data_dir: Path
    run_dir: Path
    flavour: str = ""
    spawned_at: float = 0.0
    ready_at: float = 0.0
    _process: asyncio.subprocess.Process | None = field(default=None, repr=False)

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    @property
    def log(self) -> Path:
        return self.data_dir / "serve.log"

    @property
    def memory_dir(self) -> Path:
        from midge.net.naming import instance_tag

        return SHARED_MEMORY / f"midge-{instance_tag(self.data_dir)}"

    async def start(self) -> Server:
        """Returns once /readyz says so. Raises BenchError: it does not come up; the message has its last words."""
        # One that died has left its own behind.
        (self.data_dir / "server.json").unlink(missing_ok=True)
        with FileWatch(self.data_dir / "server.json") as watch:
            self.spawned_at = perf_counter()
            self._process = await self._spawn()
            try:
                async with asyncio.timeout(READY_TIMEOUT_S):
                    await self._until_listening(watch, self._process)
            except TimeoutError as error:
                raise BenchError(f"server was not ready within {READY_TIMEOUT_S:g} s") from error
        url = msgspec.json.decode((self.data_dir / "server.json").read_bytes())["url"]
        server = Server(url, (self.data_dir / "token").read_text().strip())
        async with await open_connection(server) as connection:
            await connection.ask(server.request("GET", "/readyz"))
        self.ready_at = perf_counter()
        return server

    async def _spawn(self) -> asyncio.subprocess.Process:
        words = ["-m", "midge.cli.main", "serve", "--driver", self.driver]
        words += ["--data-dir", str(self.data_dir), "--run-dir", str(self.run_dir)]
        words += ["--listen", "127.0.0.1:0", "--log-format", "json"]
        if self.flavour:
            words += ["--kernel", self.flavour]
        env = {k: v for k, v in os.environ.items() if not k.startswith("MIDGE_") or k in _KEPT_VARIABLES}
        with self.log.open("ab") as log:
            # A session of its own: Ctrl-C is for us, and we end it in order.
            return await asyncio.create_subprocess_exec(
                sys.executable, *words, env=env, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    async def _until_listening(self, watch: FileWatch, process: asyncio.subprocess.Process) -> None:
        ended = asyncio.create_task(process.wait())
        try:
            while True:
                watch.arm()
                if (self.data_dir / "server.json").exists():
                    return
                changed = asyncio.create_task(watch.wait())
                await asyncio.wait({ended, changed}, return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
                if ended.done():
                    raise CannotMeasure(f"`midge serve --driver {self.driver}` ended: {self._last_words()}")
        finally:
            ended.cancel()

    async def stop(self) -> None:
        """Ends the server, in order. Machines go on."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    def acceleration(self) -> str:
        """What the qemu driver said it uses, from the server's log; empty for others."""
        found = ""
        for line in self.log.read_bytes().splitlines():
            with contextlib.suppress(msgspec.DecodeError):
                record = msgspec.json.decode(line)
                if isinstance(record, dict) and "acceleration" in record:
                    found = str(record["acceleration"])
        return found

    def _last_words(self) -> str:
        text = self.log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")
        lines = [line for line in text.splitlines() if line.strip()]
        return " ".join(lines[-3:]) or "it said nothing"


@asynccontextmanager
async def own_server(
    driver: str, *, flavour: str = "", scratch: Path = SCRATCH, app: str = APP
) -> AsyncIterator[Target]:
    """A server for the time of the context.

    Args:
        flavour: of the guest kernel, for the qemu driver; empty: whatever the driver chooses.

    Raises:
        CannotMeasure: this host cannot run the driver.
    """
    with contextlib.ExitStack() as stack:
        data_dir = _temporary(stack, scratch)
        run_dir = _temporary(stack, _run_root(data_dir))
        own = OwnServer(driver=driver, data_dir=data_dir, run_dir=run_dir, flavour=flavour)
        stack.callback(shutil.rmtree, own.memory_dir, ignore_errors=True)
        try:
            target = Target(
                server=await own.start(),
                driver=driver,
                variant=f"kernel={flavour}" if flavour else "",
                app=app,
                own=own,
            )
            yield target
        finally:
            await _remove(own, app)


@asynccontextmanager
async def running_server(url: str, token: str, driver: str, app: str) -> AsyncIterator[Target]:
    """A server that runs already; app, machines and image of the run are removed afterwards."""
    target = Target(server=Server(url, token), driver=driver, variant="", app=app)
    try:
        yield target
    finally:
        async with asyncio.timeout(REMOVE_TIMEOUT_S), open_api(target.server, app) as api:
            await api.remove_all(image=True)


async def _remove(own: OwnServer, app: str) -> None:
    """Machines first, then the server; a mock machine is nothing but a file."""
    try:
        if own.driver != "mock" and own.ready_at:
            async with asyncio.timeout(REMOVE_TIMEOUT_S):
                await _remove_machines(own, app)
    except (MidgeError, OSError, TimeoutError) as error:
        print(f"warning: machines could not be removed over the api: {error}", file=sys.stderr)  # noqa: T201 (nobody else is left to say it)
    finally:
        await own.stop()
        await asyncio.to_thread(_kill_leftovers, own.run_dir)


async def _remove_machines(own: OwnServer, app: str) -> None:
    try:
        server = _known(own)
        async with open_api(server, app) as api:
            await api.destroy_many(await api.machine_ids())
    except (MidgeError, OSError):
        # It has died, or is dying. The next one finds what it left, and can remove it.
        await own.stop()
        server = await own.start()
        async with open_api(server, app) as api:
            await api.destroy_many(await api.machine_ids())


def _known(own: OwnServer) -> Server:
    url = msgspec.json.decode((own.data_dir / "server.json").read_bytes())["url"]
    return Server(url, (own.data_dir / "token").read_text().strip())


def _kill_leftovers(run_dir: Path) -> None:
    """Machines the server did not end; in an orderly run there are none."""
    from midge.drivers.instance import kill_leftover

    for rundir in (run_dir / "m").glob("*"):
        with contextlib.suppress(MidgeError):
            kill_leftover(rundir)


def _temporary(stack: contextlib.ExitStack, parent: Path) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="midge-bench-", dir=parent))
    folder.chmod(0o755)  # VMMs run as other users
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _run_root(data_dir: Path) -> Path:
    """On a tmpfs, as /run is on most hosts: small files are made there at every start."""
    mounts = Path("/proc/self/mountinfo").read_text()
    for folder in (Path("/run"), SHARED_MEMORY):
        if os.access(folder, os.W_OK) and filesystem(folder, mounts) == "tmpfs":
            return folder
    return data_dir


def flavours() -> list[str]:
    """Kernel flavours in the shared store; the distribution's can always be fetched."""
    from midge.kernel.store import default_root

    bases = default_root() / "bases"
    return ["debian", *(["trimmed"] if any(bases.glob("trimmed-*")) else [])]
