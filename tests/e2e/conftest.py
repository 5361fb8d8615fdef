"""Real servers as processes, a registry, and images in it."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from midge.testing.images import build_layout, busybox_files, busybox_web_image, debian_root
from tests.e2e.serve import App, Serve
from tests.integration.images.conftest import needs, push
from tests.integration.images.conftest import registry as registry  # a fixture
from tests.subnets import subnet_for

_numbers = itertools.count(1)
Maker = Callable[..., Serve]


def needs_driver(driver: str) -> None:
    """Skips when the host cannot run it."""
    needs(*{"qemu": ("qemu-system-x86_64", "mkfs.erofs"), "container": ("runc",), "mock": ()}[driver])


@pytest.fixture(scope="session")
def hello(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A layout with a web server on busybox, named ``midge/hello:latest``."""
    if shutil.which("busybox") is None:
        pytest.skip("not installed: busybox")
    return busybox_web_image(tmp_path_factory.mktemp("hello") / "layout")


@pytest.fixture(scope="session")
def hello_url(registry: str, hello: Path) -> str:
    """The same in the registry."""
    reference = f"{registry}/midge/hello:latest"
    push(hello, reference)
    return reference


@pytest.fixture(scope="session")
def python_url(registry: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Debian with Python in the registry."""
    needs("mmdebstrap")
    base = tmp_path_factory.mktemp("debian")
    try:
        root = debian_root(base / "root", include=["python3-minimal"])
    except subprocess.CalledProcessError as error:
        pytest.skip(f"mmdebstrap cannot make a Debian here (no network?): exit code {error.returncode}")
    layout = build_layout(base / "layout", layers=root, tag="debian-python", cmd=["/bin/bash"])
    reference = f"{registry}/debian/python:12"
    push(layout, reference)
    shutil.rmtree(root)
    return reference


@pytest.fixture(scope="session")
def box(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A layout with busybox and a shell, named ``box:1``. It has no entrypoint, so commands are what is run."""
    if shutil.which("busybox") is None:
        pytest.skip("not installed: busybox")
    base = tmp_path_factory.mktemp("box")
    return build_layout(
        base / "layout", layers=[busybox_files()], tag="box:1", cmd=["/bin/sh"], env=["PATH=/usr/bin:/bin"]
    )


def _opened(
    directory: Path, driver: str, images: Sequence[Path], *options: str, parent: Sequence[str] = ()
) -> Serve:
    needs_driver(driver)
    serve = Serve(directory, driver, *options, parent=parent)
    try:
        serve.start()
        for image in images:
            serve.ok("image", "import", str(image))
    except BaseException:
        serve.close()
        raise
    return serve


@pytest.fixture(scope="session")
def qemu(tmp_path_factory: pytest.TempPathFactory, hello: Path, box: Path) -> Iterator[Serve]:
    serve = _opened(tmp_path_factory.mktemp("qemu"), "qemu", [hello, box])
    yield serve
    serve.close()


@pytest.fixture(scope="session")
def container(tmp_path_factory: pytest.TempPathFactory, hello: Path, box: Path) -> Iterator[Serve]:
    serve = _opened(tmp_path_factory.mktemp("container"), "container", [hello, box])
    yield serve
    serve.close()


@pytest.fixture(scope="session")
def mock(tmp_path_factory: pytest.TempPathFactory, hello: Path, box: Path) -> Iterator[Serve]:
    serve = _opened(tmp_path_factory.mktemp("mock"), "mock", [hello, box])
    yield serve
    serve.close()


@pytest.fixture
def own(tmp_path: Path, hello: Path) -> Iterator[Maker]:
    """Makes servers of the test's own, for whoever kills them. Each has the image ``midge/hello``."""
    made: list[Serve] = []

    def make(driver: str, *options: str, parent: Sequence[str] = ()) -> Serve:
        directory = tmp_path / f"s{len(made)}"
        directory.mkdir()
        made.append(
            _opened(directory, driver, [hello], "--subnet", subnet_for(directory), *options, parent=parent)
        )
        return made[-1]

    yield make
    for serve in made:
        serve.close()


@pytest.fixture(
    params=[
        pytest.param("qemu", marks=pytest.mark.vm),
        pytest.param("container", marks=pytest.mark.container),
    ]
)
def real(request: pytest.FixtureRequest) -> Serve:
    """Both servers that run real machines."""
    serve: Serve = request.getfixturevalue(request.param)
    return serve


@pytest.fixture
def new_app() -> Callable[[Serve], App]:
    """An app of the test's own on a server."""
    return lambda serve: serve.app(f"e2e-{os.getpid()}-{next(_numbers)}")
