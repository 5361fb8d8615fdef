"""A `midge serve` of the test's own, as a process; and its users: the command line and plain HTTP."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx2

from midge.net.naming import instance_tag
from midge.sys.leaks import HostState, diff, snapshot
from tests.loopback import DIRECT

READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0
# For whatever a guest does or tells: it is emulated, and has neighbours. A deadline costs nothing when all is well.
GUEST_TIMEOUT_S = 60.0
PAGE_TIMEOUT_S = 10.0  # one try
# The first machine of a shape boots a template, and everything is emulated.
REQUEST_TIMEOUT_S = 90.0
MIDGE = [sys.executable, "-m", "midge.cli.main"]
Json = Any


class Serve:
    """One data directory and the server on it, which may be started and ended several times.

    `env` is the environment of its command line: it finds the server by the data directory. `parent` is a program, with
    its arguments, that executes server and command line.
    """

    def __init__(self, base: Path, driver: str, *options: str, parent: Sequence[str] = ()) -> None:
        self.driver = driver
        self.base = base
        self.data_dir = base / "data"
        # Unix sockets have 107 bytes at most for their path, and pytest's directories are long.
        self.run_dir = Path(tempfile.mkdtemp(prefix="midge-e2e-", dir="/run" if os.geteuid() == 0 else None))
        self.tag = instance_tag(self.data_dir)
        self.memory_dir = Path("/dev/shm") / f"midge-{self.tag}"
        self.log = base / "serve.log"
        self._options = options
        self._parent = parent
        self._process: subprocess.Popen[bytes] | None = None
        self.http = httpx2.Client(**DIRECT)
        self.url = ""
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("MIDGE_", "FLY_"))},
            "MIDGE_DATA_DIR": str(self.data_dir),
            "XDG_CONFIG_HOME": str(base / "config"),
            "NO_COLOR": "1",
        }

    # ── the process ───────────────────────────────────────────────────────────────────────────────────────────

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def command(self, *options: str) -> list[str]:
        fixed = ["serve", "--data-dir", str(self.data_dir), "--run-dir", str(self.run_dir)]
        return [
            *self._parent,
            *MIDGE,
            *fixed,
            "--driver",
            self.driver,
            "--listen",
            "127.0.0.1:0",
            *self._options,
            *options,
        ]

    def start(self) -> Serve:
        """Returns when requests are answered."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env={**self.env, "MIDGE_ACCELERATION": "tcg"},
                cwd=self.base,
            )
        until(self._is_ready, READY_TIMEOUT_S, lambda: self.log.read_text()[-4000:])
        token = (self.data_dir / "token").read_text().strip()
        self.http.close()
        self.http = httpx2.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=REQUEST_TIMEOUT_S,
            **DIRECT,
        )
        return self

    def _is_ready(self) -> bool:
        assert self._process is not None and self._process.poll() is None, self.log.read_text()[-4000:]
        try:
            found = json.loads((self.data_dir / "server.json").read_bytes())
            self.url = found["url"]
            ready = found["pid"] == self.pid and httpx2.get(f"{self.url}/readyz", **DIRECT).status_code == 200
        except (OSError, httpx2.HTTPError):
            return False
        return ready

    def kill(self) -> None:
        """As a power cut would be for it: SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def terminate(self) -> int:
        """SIGTERM; returns the exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(STOP_TIMEOUT_S)

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def close(self) -> None:
        """Ends everything this server made and says what was left over."""
        try:
            if self._process is not None:
                if not self.is_running():
                    self.start()
                self.destroy_all()
                self.terminate()
                self.is_gone()
        finally:
            if self.is_running():
                self.kill()
            self.http.close()
            shutil.rmtree(self.run_dir, ignore_errors=True)
            shutil.rmtree(self.memory_dir, ignore_errors=True)

    # ── its users ─────────────────────────────────────────────────────────────────────────────────────────────

    def midge_command(self, *args: str) -> list[str]:
        return [*self._parent, *MIDGE, *args]

    def midge(
        self, *args: str, input: str = "", timeout_s: float = REQUEST_TIMEOUT_S, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """The command line as a process of its own."""
        return subprocess.run(
            self.midge_command(*args),
            input=input,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env={**self.env, **env},
            cwd=self.base,
            check=False,
        )

    def ok(self, *args: str, **options: Any) -> str:
        """What a command prints that must succeed."""
        done = self.midge(*args, **options)
        assert done.returncode == 0, f"{args}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def request(self, method: str, path: str, body: Json = None, **options: Any) -> httpx2.Response:
        response = self.http.request(method, path, json=body, **options)
        assert response.headers.get("fly-request-id"), f"{method} {path}: no request id"
        return response

    def call(self, method: str, path: str, body: Json = None, *, expect: int = 200, **options: Any) -> Json:
        """The decoded answer of a request that must have this status."""
        response = self.request(method, path, body, **options)
        assert response.status_code == expect, f"{method} {path}: {response.status_code} {response.text}"
        if not response.headers.get("content-type", "").startswith("application/json"):
            return response.text
        return response.json() if response.content else None

    def app(self, name: str) -> App:
        self.call("POST", "/v1/apps", {"app_name": name, "org_slug": "personal"}, expect=201)
        return App(self, name)

    def destroy_all(self) -> None:
        for app in self.call("GET", "/v1/apps?org_slug=personal")["apps"]:
            self.call("DELETE", f"/v1/apps/{app['name']}", expect=202)
        until(lambda: self.call("GET", "/-/status")["machines"] == 0, STOP_TIMEOUT_S)

    # ── what it leaves behind ─────────────────────────────────────────────────────────────────────────────────

    def state(self) -> HostState:
        """Whatever on this host belongs to this server, what only grows (logs, databases) left out."""
        return snapshot(
            markers=[self.tag, str(self.data_dir), str(self.run_dir)],
            directories=[
                self.run_dir,
                self.memory_dir,
                *(self.data_dir / name for name in ("machines", "layers", "uploads", "images/tmp")),
            ],
        )

    def is_gone(self) -> None:
        """Nothing may stay. The kernel takes some of it away a little after those who held it have ended."""
        until(lambda: not self.leftovers(), STOP_TIMEOUT_S, lambda: "\n".join(self.leftovers()))

    def leftovers(self) -> list[str]:
        """What is still there; directories with no file in them do not count."""
        empty = HostState(**dict.fromkeys(HostState.__dataclass_fields__, frozenset()))
        found = [thing for thing in diff(empty, self.state()) if not thing.startswith("descriptor: ")]
        return [thing for thing in found if not _holds_no_file(thing)]


class App:
    """One app of a server."""

    def __init__(self, serve: Serve, name: str) -> None:
        self.serve = serve
        self.name = name
        self.path = f"/v1/apps/{name}/machines"

    def create(self, config: Json, *, wait: str = "started", **body: Any) -> Machine:
        made = self.serve.call("POST", self.path, {"config": config, **body})
        machine = Machine(self, made["id"], made["name"])
        if wait:
            machine.wait(wait)
        return machine

    def refused(self, config: Json, status: int, **body: Any) -> Json:
        """The answer to a create that must fail, with nothing half-made afterwards."""
        answer = self.serve.call("POST", self.path, {"config": config, **body}, expect=status)
        assert self.serve.call("GET", self.path) == []
        return answer

    def run(self, image: str, *args: str, options: tuple[str, ...] = (), **more: Any) -> Any:
        """`midge machine run`."""
        return self.serve.midge("machine", "run", "-a", self.name, *options, image, *args, **more)


class Machine:
    """One machine of an app."""

    def __init__(self, app: App, id: str, name: str) -> None:
        self.serve = app.serve
        self.app = app
        self.id = id
        self.name = name
        self.path = f"{app.path}/{id}"

    def call(self, method: str, path: str = "", body: Json = None, **options: Any) -> Json:
        return self.serve.call(method, self.path + path, body, **options)

    def get(self) -> Json:
        return self.call("GET")

    def wait(self, state: str, timeout_s: int = 60) -> Json:
        return self.call("GET", "/wait", params={"state": state, "timeout": timeout_s})

    def reaches(self, state: str, timeout_s: int = 10) -> bool:
        """Whether it is in this state soon. It must not fail meanwhile."""
        answer = self.serve.request("GET", f"{self.path}/wait", params={"state": state, "timeout": timeout_s})
        assert answer.status_code in (200, 408) and self.get()["state"] != "failed", self.events()
        return answer.status_code == 200

    def start(self) -> Json:
        answer = self.call("POST", "/start")
        self.wait("started")
        return answer

    def stop(self) -> None:
        self.call("POST", "/stop")
        self.wait("stopped")

    def exec(self, *command: str, **more: Any) -> Json:
        return self.call("POST", "/exec", {"command": command, **more})

    def logs(self) -> list[str]:
        return self.serve.ok("machine", "logs", "-a", self.app.name, self.id).splitlines()

    def events(self) -> list[Json]:
        """Oldest first."""
        return list(reversed(self.call("GET", "/events?limit=50")))

    def page(self, path: str = "/", port: int = 8080) -> str:
        """What the machine's web server answers to this host."""
        url = f"http://{self.get()['private_ip']}:{port}{path}"
        answers: list[str] = []

        def answered() -> bool:
            try:
                answers.append(httpx2.get(url, timeout=PAGE_TIMEOUT_S, **DIRECT).raise_for_status().text)
            except httpx2.TransportError:
                return False
            return True

        until(answered, GUEST_TIMEOUT_S)
        return answers[0]


def until(
    holds: Callable[[], bool], timeout_s: float, say: Callable[[], str] = lambda: "", pause_s: float = 0.02
) -> None:
    """Waits for a condition with a deadline."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s. {say()}"
        time.sleep(pause_s)


def _holds_no_file(thing: str) -> bool:
    kind, _, name = thing.partition(": ")
    return kind == "file" and Path(name).is_dir() and not any(files for _, _, files in os.walk(name))
