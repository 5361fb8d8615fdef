"""`midge image`: the images a host keeps."""

from __future__ import annotations

import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import click

from midge.cli import text
from midge.cli.ask import confirm
from midge.cli.exits import UsageFailure
from midge.cli.failure import doing
from midge.cli.options import command, yes_option
from midge.cli.session import Session

Json = dict[str, Any]

# Of an archive sent at once, in bytes.
CHUNK_BYTES = 1024 * 1024


@command("ls")
def list_images(session: Session) -> None:
    """List the images the host keeps."""
    with doing("list images"):
        images = session.client.images.list()
    if session.out.json:
        session.out.document(images)
    elif session.out.quiet:
        for image in images:
            session.out.line(image["digest"])
    else:
        rows = [
            [
                ",".join(image["references"]),
                image["digest"][:19],
                image.get("architecture", ""),
                text.size(image["size_bytes"]),
                text.age(image.get("created", ""), text.now()),
            ]
            for image in images
        ]
        session.out.table(["NAME", "DIGEST", "ARCH", "SIZE", "AGE"], rows)


@command("pull")
@click.argument("references", nargs=-1, required=True, metavar="IMAGE...", help="Such as debian:12.")
def pull(session: Session, references: tuple[str, ...]) -> None:
    """Fetch images before a machine needs them."""
    for reference in references:
        with doing(f"pull {reference}"), _Progress(session) as progress:
            images = session.client.images.pull(reference, progress)
        _report(session, images)


@command("import")
@click.argument(
    "archive",
    metavar="FILE",
    help="A tar file, compressed or not, or the directory of an OCI layout; `-` for stdin.",
)
@click.option("--name", default="", metavar="NAME", help="In place of the names in the archive.")
def import_archive(session: Session, archive: str, name: str) -> None:
    """Import an archive of `docker save` or an OCI layout."""
    try:
        source = _open(archive)
    except OSError as error:
        raise UsageFailure(f"cannot read {archive}") from error
    with source, doing(f"import {archive}"), _Progress(session) as progress:
        images = session.client.images.import_archive(_chunks(source), progress, name=name)
    _report(session, images)


@command("rm")
@click.argument(
    "references", nargs=-1, required=True, metavar="IMAGE...", help="Names, or digests with all their names."
)
def remove(session: Session, references: tuple[str, ...]) -> None:
    """Remove images that no machine uses."""
    for reference in references:
        with doing(f"remove image {reference}"):
            report = session.client.images.remove(reference)
        if session.out.json:
            session.out.record(report)
        elif session.out.quiet:
            session.out.line(reference)
        else:
            session.out.line(f"{reference} removed, {text.size(report.get('freed_bytes', 0))} freed")


@command("prune")
@click.option(
    "--all", "everything", is_flag=True, help="Also images with a name, as long as no machine needs them."
)
@yes_option
def prune(session: Session, everything: bool, yes: bool) -> None:
    """Remove all images that no machine uses and that have no name."""
    if everything and not yes:
        confirm(session, "Remove every image that no machine uses?")
    with doing("prune images"):
        report = session.client.images.prune(everything=everything)
    if session.out.json:
        session.out.document(report)
    elif session.out.quiet:
        for digest in report.get("deleted", []):
            session.out.line(digest)
    else:
        session.out.line(
            f"{len(report.get('deleted', []))} images removed, {text.size(report.get('freed_bytes', 0))} freed"
        )


def _open(archive: str) -> BinaryIO:
    """What to send: a file as it is, a directory as a tar of it."""
    if archive == "-":
        return sys.stdin.buffer
    path = Path(archive)
    if not path.is_dir():
        return path.open("rb")
    packed = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115 (closed by the caller)
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.add(path, arcname=".")
    packed.seek(0)
    return packed


def _chunks(source: BinaryIO) -> Iterator[bytes]:
    while chunk := source.read(CHUNK_BYTES):
        yield chunk


def _report(session: Session, images: list[Json]) -> None:
    for image in images:
        if session.out.json:
            session.out.record(image)
        elif session.out.quiet:
            session.out.line(image["digest"])
        else:
            session.out.line(f"{image['reference']} {image['digest']} {text.size(image['size_bytes'])}")


class _Progress:
    """One line that is redrawn on a terminal, one line a phase in a log."""

    def __init__(self, session: Session) -> None:
        self._out = session.out
        self._redraw = session.out.redraws() and not session.out.json
        self._seen: set[tuple[str, str]] = set()

    def __enter__(self) -> Callable[[Json], None]:
        return self._show

    def __exit__(self, *_: object) -> None:
        if self._redraw:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def _show(self, line: Json) -> None:
        subject = line.get("subject", "")[:19] if ":" in line.get("subject", "") else line.get("subject", "")
        what = f"{line.get('phase', '')} {subject}".strip()
        total = line.get("total_bytes", 0)
        if self._redraw:
            part = f" {text.size(line.get('done_bytes', 0))} of {text.size(total)}" if total else ""
            sys.stderr.write(f"\r\x1b[K{what}{part}")
            sys.stderr.flush()
        elif (key := (line.get("phase", ""), line.get("subject", ""))) not in self._seen:
            self._seen.add(key)
            self._out.note(what)
