"""`make up`: from nothing to a machine that answers, with the time each step took."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("MIDGE_DATA_DIR", ROOT / ".midge"))
MIDGE = ROOT / ".venv" / "bin" / "midge"
APP, MACHINE, IMAGE, PORT = "hello", "hello", "midge/hello:latest", 8080
READY_TIMEOUT_S = 300.0  # the first start fetches a guest kernel
STEP_TIMEOUT_S = 300.0  # the first machine of a shape boots a template
REQUEST_TIMEOUT_S = 20.0
CONNECT_TIMEOUT_S = 0.05


class Failed(SystemExit):
    """Ends with a message for a person."""

    def __init__(self, text: str) -> None:
        print(f"make up: {text}", file=sys.stderr)
        super().__init__(1)


@contextmanager
def step(text: str) -> Iterator[Callable[[str], None]]:
    """One line: what happens now, how long it took, and a remark. Shown live on a terminal."""
    remarks: list[str] = []
    live = sys.stdout.isatty()
    if live:
        print(f"  … {text}", end="", flush=True)
    begun = time.perf_counter()
    yield remarks.append
    took_ms = (time.perf_counter() - begun) * 1000
    took = f"{took_ms:8.0f} ms" if took_ms < 10_000 else f"{took_ms / 1000:8.1f} s "
    print(f"{chr(13) if live else ''}  ✓ {text:<46} {took}  {' '.join(remarks)}", flush=True)


def get(url: str, *, timeout: float | httpx2.Timeout) -> httpx2.Response:
    """Server and machines are on this host, where no proxy finds them."""
    return httpx2.get(url, timeout=timeout, trust_env=False)


def server_address() -> tuple[str, str] | None:
    """URL and token of a server that answers on our data directory."""
    try:
        url = json.loads((DATA / "server.json").read_text())["url"]
        token = (DATA / "token").read_text().strip()
        get(f"{url}/healthz", timeout=2).raise_for_status()
    except (OSError, ValueError, KeyError, httpx2.HTTPError):
        return None
    return url, token


def start_server() -> tuple[str, str]:
    DATA.mkdir(parents=True, exist_ok=True)
    log = DATA / "serve.log"
    with log.open("ab") as output:
        server = subprocess.Popen(
            [MIDGE, "serve", "--data-dir", DATA, *os.environ.get("MIDGE_SERVE_ARGS", "").split()],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-8:])
            raise Failed(f"the server ended with code {server.returncode}; {log} ends with:\n{tail}")
        found = server_address()
        if found is not None and get(f"{found[0]}/readyz", timeout=5).status_code == 200:
            return found
        time.sleep(0.05)
    raise Failed(f"the server was not ready within {READY_TIMEOUT_S:g} s; see {log}")


class Api:
    """The few calls this script makes."""

    def __init__(self, url: str, token: str) -> None:
        self._http = httpx2.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=STEP_TIMEOUT_S,
            trust_env=False,
        )

    def call(self, method: str, path: str, body: Any = None, *, missing_ok: bool = False) -> Any:
        response = self._http.request(method, path, json=body)
        if missing_ok and response.status_code == 404:
            return None
        if response.status_code >= 400:
            raise Failed(f"{method} {path}: {response.status_code} {response.text}")
        return response.json() if response.content else None

    def wait(self, machine_id: str, state: str) -> None:
        deadline = time.monotonic() + STEP_TIMEOUT_S
        path = f"/v1/apps/{APP}/machines/{machine_id}"
        while time.monotonic() < deadline:
            response = self._http.get(f"{path}/wait", params={"state": state, "timeout": 60})
            if response.status_code == 200:
                break
            if response.status_code != 408 or "currently failed" in response.text:
                break
        if self.call("GET", path)["state"] in (state, "created" if state == "settled" else state):
            return
        events = json.dumps(self.call("GET", f"{path}/events")[:3], indent=2)
        raise Failed(f"the machine did not become {state}; its latest events:\n{events}")


def find_machine(api: Api) -> dict[str, Any] | None:
    machines = api.call("GET", f"/v1/apps/{APP}/machines", missing_ok=True) or []
    return next((m for m in machines if m["name"] == MACHINE), None)


def ask(address: str) -> str:
    """The first answer of the web server in the machine; it listens a moment after it runs."""
    deadline = time.monotonic() + REQUEST_TIMEOUT_S
    while True:
        try:
            # A first packet that comes too early is lost, and TCP would repeat it only after a second.
            limits = httpx2.Timeout(5.0, connect=CONNECT_TIMEOUT_S)
            response = get(f"http://{address}:{PORT}/", timeout=limits)
            response.raise_for_status()
            return title(response.text)
        except httpx2.HTTPError as error:
            if time.monotonic() > deadline:
                raise Failed(f"http://{address}:{PORT}/ does not answer: {error}") from error
            time.sleep(0.005)


def title(page: str) -> str:
    found = re.search(r"<title>(.*?)</title>", page, re.DOTALL)
    return found[1].strip() if found else page.strip()[:60]


def import_image() -> None:
    from midge.testing.images import busybox_web_image

    layout = busybox_web_image(DATA / "uploads" / "hello")
    done = subprocess.run(
        [MIDGE, "image", "import", layout],
        env={**os.environ, "MIDGE_DATA_DIR": str(DATA)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise Failed(f"midge image import: {done.stderr.strip()}")


def begin_trimmed() -> str:
    """Has the trimmed kernel built in the background; says what comes of it."""
    from midge.kernel import background
    from midge.kernel.store import default_root

    kernels = Path(os.environ.get("MIDGE_KERNELS_DIR") or default_root())
    if any((kernels / "bases").glob("trimmed-*")):
        return "trimmed kernel: ready"
    if missing := background.missing_tools():
        return (
            f"trimmed kernel: not built, {', '.join(missing)} is missing: apt-get install {' '.join(missing)}"
        )
    log = background.begin(
        DATA, [str(MIDGE), "kernel", "build", "--jobs", str(max(1, (os.cpu_count() or 1) // 2))]
    )
    return f"trimmed kernel: building, see {log}; the platform changes over to it when it is ready"


def main() -> None:
    print("midge: starting")
    found = server_address()
    if found is None:
        with step("start the platform") as remark:
            url, token = start_server()
            remark(url)
    else:
        url, token = found
        print(f"  ✓ the platform runs already at {url}")
    api = Api(url, token)
    driver = api.call("GET", "/-/status")["host"]["driver"]
    machine = find_machine(api)
    if machine is None:
        with step("build and import a small image") as remark:
            import_image()
            remark(f"{IMAGE}: Debian's busybox with a web server")
        if api.call("GET", f"/v1/apps/{APP}", missing_ok=True) is None:
            api.call("POST", "/v1/apps", {"name": APP, "org_slug": "personal"})
        with step(f"create a machine ({driver})") as remark:
            body = {"name": MACHINE, "skip_launch": True, "config": {"image": IMAGE}}
            machine = api.call("POST", f"/v1/apps/{APP}/machines", body)
            api.wait(machine["id"], "settled")
            remark(machine["id"])
    path = f"/v1/apps/{APP}/machines/{machine['id']}"
    if machine["state"] == "started":
        api.call("POST", f"{path}/stop", {})
        api.wait(machine["id"], "stopped")
    with step("start it"):
        api.call("POST", f"{path}/start")
        api.wait(machine["id"], "started")
    with step("ask its web server") as remark:
        remark(f"“{ask(machine['private_ip'])}”")
    with step("stop it"):
        api.call("POST", f"{path}/stop", {})
        api.wait(machine["id"], "stopped")
    with step("start it again, until it answers") as remark:
        api.call("POST", f"{path}/start")
        ask(machine["private_ip"])
    shown = MIDGE.relative_to(Path.cwd()) if MIDGE.is_relative_to(Path.cwd()) else MIDGE
    print(f"""
Midge runs at {url}, its root token is in {DATA / "token"}.
The machine answers at http://{machine["private_ip"]}:{PORT}/ (from this host). Try next:

  {shown} machine list -a {APP}
  {shown} machine exec -a {APP} {MACHINE} uname -a
  {shown} machine run --rm {IMAGE} echo hello from a machine

`make down` stops it all, `make down KEEP=1` leaves the machines running.""")
    if "--trimmed" in sys.argv[1:]:
        print(begin_trimmed())


if __name__ == "__main__":
    main()
