"""A real server with a mocked host in this process, and the command line against it."""

from __future__ import annotations

import asyncio
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from midge.cli.host import open_local_host
from midge.cli.main import root
from midge.cli.session import Session
from midge.server.assembly import HostOpener, RunningServer
from midge.testing.images import build_docker_archive, busybox_files
from midge.testing.server import open_staged_host, running_server
from tests.deadlines import PATIENCE_S


class ServerThread:
    """Runs a server in an event loop of its own."""

    def __init__(self, data_dir: Path, open_host: HostOpener = open_staged_host, **settings: Any) -> None:
        self.data_dir = data_dir
        self._open_host = open_host
        self._settings = settings
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="server")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self.server: RunningServer | None = None

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with running_server(self.data_dir, open_host=self._open_host, **self._settings) as server:
            self.server = server
            self._ready.set()
            await self._stop.wait()

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(PATIENCE_S)

    def stop(self) -> None:
        assert self._loop is not None and self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE_S)


@dataclass(frozen=True, slots=True)
class Midge:
    """Calls commands as a user of this server. `env` is all the environment they see."""

    env: dict[str, str]
    cwd: Path
    app: str

    def __call__(self, *args: str, input: str | bytes | None = None, **env: str) -> Result:
        session = Session(env={**self.env, **env}, cwd=self.cwd)
        return CliRunner().invoke(root, list(args), input=input, obj=session, catch_exceptions=False)

    def ok(self, *args: str, **env: str) -> str:
        result = self(*args, **env)
        assert result.exit_code == 0, result.output
        return result.stdout

    def machine(self, *args: str) -> str:
        """A started machine's id."""
        return self.ok("machine", "run", "-q", "-d", "-a", self.app, "debian", *args).strip()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerThread]:
    thread = ServerThread(tmp_path_factory.mktemp("server"))
    thread.start()
    yield thread
    thread.stop()


@pytest.fixture
def midge(server: ServerThread, tmp_path: Path, request: pytest.FixtureRequest) -> Midge:
    """With an app of the test's own, which is not in the environment: commands name it."""
    return user(server, tmp_path, request)


@pytest.fixture(scope="session")
def mock_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerThread]:
    """A real worker with the mock driver, and the image ``box:1``."""
    directory = tmp_path_factory.mktemp("mock")
    thread = ServerThread(directory / "data", open_local_host, driver="mock")
    thread.start()
    archive = directory / "box.tar"
    build_docker_archive(archive, layers=[busybox_files()], tag="box:1")
    Midge(environment(thread, directory), directory, "").ok("image", "import", str(archive))
    yield thread
    thread.stop()


@pytest.fixture
def mock(mock_server: ServerThread, tmp_path: Path, request: pytest.FixtureRequest) -> Midge:
    """As `midge`, against `mock_server`."""
    return user(mock_server, tmp_path, request)


def user(server: ServerThread, home: Path, request: pytest.FixtureRequest) -> Midge:
    client = Midge(environment(server, home), home, f"app-{zlib.crc32(request.node.nodeid.encode())}")
    client.ok("app", "create", client.app)
    return client


def environment(server: ServerThread, home: Path) -> dict[str, str]:
    return {
        "MIDGE_DATA_DIR": str(server.data_dir),
        "XDG_CONFIG_HOME": str(home / "config"),
        "HOME": str(home),
    }
