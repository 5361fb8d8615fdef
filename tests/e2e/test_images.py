"""From a registry over HTTP into a real machine."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.e2e.serve import App, Serve

pytestmark = [pytest.mark.slow, pytest.mark.root]


def test_python_from_a_registry_runs_in_a_machine(
    real: Serve, python_url: str, new_app: Callable[[Serve], App]
) -> None:
    app = new_app(real)
    shown = app.run(python_url, "python3", "-c", "print(6*7)", options=("--rm",))
    assert (shown.returncode, shown.stdout) == (0, "42\n"), shown.stderr
    ended = app.run(python_url, "python3", "-c", "raise SystemExit(23)", options=("--rm",))
    assert (ended.returncode, ended.stdout) == (23, ""), ended.stderr
    assert real.call("GET", app.path) == []


def test_busybox_from_a_registry_serves_pages(
    real: Serve, hello_url: str, new_app: Callable[[Serve], App]
) -> None:
    machine = new_app(real).create({"image": hello_url})
    assert "<title>" in machine.page()
    whoami, uptime = machine.page("/cgi-bin/whoami").splitlines()
    assert whoami == machine.id
    assert float(uptime.split()[0]) >= 0
    ref = machine.get()["image_ref"]
    assert f"{ref['registry']}/{ref['repository']}:{ref['tag']}" == hello_url


def test_a_pulled_image_is_used_again_without_its_registry(
    mock: Serve, hello_url: str, new_app: Callable[[Serve], App]
) -> None:
    pulled = mock.ok("image", "pull", hello_url)
    digest = pulled.split()[1]
    assert digest.startswith("sha256:")
    app = new_app(mock)
    by_digest = app.create({"image": f"{hello_url.rsplit(':', 1)[0]}@{digest}"})
    by_name = app.create({"image": hello_url})
    assert by_digest.get()["image_ref"]["digest"] == by_name.get()["image_ref"]["digest"] == digest
