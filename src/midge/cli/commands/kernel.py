"""`midge kernel`: the guest kernels of this host. No server is asked."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from midge.cli import text
from midge.cli.failure import doing
from midge.cli.options import command
from midge.cli.progress import step
from midge.cli.session import Session

if TYPE_CHECKING:
    from midge.kernel import Kernel, KernelStore

INIT_BINARY = "midge-init"

_kernels_dir = click.option(
    "--kernels-dir",
    default="",
    metavar="DIR",
    help="Where kernels are kept. Empty: as `midge serve` chooses. [env: MIDGE_KERNELS_DIR]",
)


@command("ls")
@_kernels_dir
def list_kernels(session: Session, kernels_dir: str) -> None:
    """List the guest kernels of this host that are ready to boot."""
    kernels = asyncio.run(_list(_store(session, kernels_dir)))
    if session.out.json:
        session.out.document([_document(kernel) for kernel in kernels])
    elif session.out.quiet:
        for kernel in kernels:
            session.out.line(kernel.id)
    else:
        session.out.table(["ID", "FLAVOUR", "VERSION", "AGE"], [_row(kernel) for kernel in kernels])


@command("fetch")
@_kernels_dir
@click.option(
    "--source", default="", metavar="PATH", help="A .deb file or a directory with a kernel, instead of apt."
)
def fetch(session: Session, kernels_dir: str, source: str) -> None:
    """Fetch the distribution's cloud kernel. The server does this by itself when it has none."""
    store = _store(session, kernels_dir, source=source)
    with doing("fetch a kernel"), step(session.out, "fetching the kernel", "kernel fetched"):
        kernel = asyncio.run(store.ensure("debian", init_binary=_init(session)))
    _report(session, kernel)


@command("build")
@_kernels_dir
@click.option(
    "--source", default="", metavar="PATH", help="A kernel source archive or tree, instead of linux-source's."
)
@click.option("--scratch", default="", metavar="DIR", help="Build here; needs 3 GB.")
@click.option("--jobs", type=click.IntRange(min=1), default=None, help="Compilers at a time.")
def build(session: Session, kernels_dir: str, source: str, scratch: str, jobs: int | None) -> None:
    """Build the trimmed kernel, which boots fastest; takes minutes."""
    from midge.kernel import build_trimmed

    with doing("build a kernel"):
        kernel = asyncio.run(
            build_trimmed(
                _store(session, kernels_dir),
                init_binary=_init(session),
                source=Path(source) if source else None,
                scratch=Path(scratch) if scratch else None,
                jobs=jobs,
                progress=session.out.note,
            )
        )
    _report(session, kernel)


def _store(session: Session, kernels_dir: str, *, source: str = "") -> KernelStore:
    from midge.cli.host import kernels_directory
    from midge.kernel import KernelStore
    from midge.server.settings import load_settings

    settings = load_settings({"kernels_dir": kernels_dir or None}, session.env).settings
    return KernelStore(kernels_directory(settings), debian_source=Path(source) if source else None)


def _init(session: Session) -> Path:
    from midge.binaries import find

    return find(INIT_BINARY, session.env)


async def _list(store: KernelStore) -> list[Kernel]:
    return list(await store.list())


def _document(kernel: Kernel) -> dict[str, Any]:
    return {
        "id": kernel.id,
        "flavour": kernel.flavour,
        "version": kernel.version,
        "image": os.fspath(kernel.image),
        "created_at": _created(kernel),
    }


def _row(kernel: Kernel) -> list[str]:
    return [kernel.id, kernel.flavour, kernel.version, text.age(_created(kernel), text.now())]


def _created(kernel: Kernel) -> str:
    return datetime.fromtimestamp(kernel.created_ns // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _report(session: Session, kernel: Kernel) -> None:
    if session.out.json:
        session.out.document(_document(kernel))
    else:
        session.out.line(kernel.id if session.out.quiet else f"{kernel.id} {kernel.flavour} {kernel.version}")
