"""`make down`: stops machines and platform. With --keep the machines run on, and the next `make up` finds them."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import httpx2

DATA = Path(os.environ.get("MIDGE_DATA_DIR", Path(__file__).parents[1] / ".midge"))
STOP_TIMEOUT_S = 60.0


def stop_machines(url: str, token: str) -> tuple[int, list[str]]:
    """How many have stopped, and the names of those that have not."""
    headers = {"Authorization": f"Bearer {token}"}
    with httpx2.Client(base_url=url, headers=headers, timeout=STOP_TIMEOUT_S, trust_env=False) as http:
        machines = http.get("/v1/orgs/personal/machines").raise_for_status().json()["machines"]
        active = [
            m
            for m in machines
            if m["state"] not in ("created", "stopped", "suspended", "failed", "destroyed")
        ]
        for machine in active:
            http.post(f"/v1/apps/{machine['app_name']}/machines/{machine['id']}/stop", json={})
        left = []
        for machine in active:
            path = f"/v1/apps/{machine['app_name']}/machines/{machine['id']}/wait"
            # One that destroys itself when it stops is never seen as stopped.
            states = [("state", "stopped"), ("state", "destroyed"), ("timeout", "60")]
            if http.get(path, params=states).is_error:
                left.append(str(machine["name"]))
    return len(active) - len(left), left


def running(pid: int) -> bool:
    """Whether that process is a server; the number may be somebody else's by now."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return False
    return "serve" in words and any(word.endswith("midge") for word in words)


def main() -> int:
    """First the build of a kernel, so that all else has the processors; its files, which take longest, at the end."""
    from midge.kernel import background

    if background.end(DATA):
        print("the build of the trimmed kernel was ended; `make up TRIMMED=1` begins it anew")
    code = stop()
    background.clear(DATA)
    return code


def stop() -> int:
    try:
        server = json.loads((DATA / "server.json").read_text())
        pid, url = int(server["pid"]), str(server["url"])
    except (OSError, ValueError, KeyError):
        print("midge does not run")
        return 0
    if "--keep" not in sys.argv[1:]:
        try:
            stopped, left = stop_machines(url, (DATA / "token").read_text().strip())
            print(f"stopped {stopped} machines")
            if left:
                print(f"make down: still not stopped: {', '.join(left)}", file=sys.stderr)
        except (httpx2.HTTPError, OSError, KeyError) as error:
            print(f"make down: the machines could not be stopped: {error}", file=sys.stderr)
    if not running(pid):
        print("midge does not run")
        return 0
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while running(pid):
        if time.monotonic() > deadline:
            print(f"make down: process {pid} does not end; see {DATA / 'serve.log'}", file=sys.stderr)
            return 1
        time.sleep(0.05)
    print("midge has stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
