"""Images of this host: list, pull, import, remove, prune.

An import is an upload, also from the same machine: to let a request name a path of the server's would let it read
any file the server can.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from midge.api.call import Call, Stream
from midge.api.images_port import ImagesPort
from midge.api.route import Routes
from midge.api.services import Services
from midge.errors import (
    Conflict,
    Forbidden,
    ImageInvalid,
    ImageNotFound,
    InvalidInput,
    NotSupported,
    OutOfSpace,
    RegistryUnavailable,
    TooLarge,
)
from midge.images.model import ImageSummary, PruneReport, RemoveReport
from midge.images.progress import Progress, ProgressEvent

UPLOAD_BYTES_MAX = 64 * 1024**3  # of one archive: the largest images people build
UPLOAD_WRITE_BYTES = 1024 * 1024  # collected before they go to the disk
PROGRESS_QUEUE_MAX = 256  # lines waiting for a slow reader; more are left out, the last one never

routes = Routes(tag="Images", extension=True)
_PULL_ERRORS = (
    InvalidInput,
    Forbidden,
    ImageNotFound,
    ImageInvalid,
    RegistryUnavailable,
    OutOfSpace,
    NotSupported,
)
_REMOVE_ERRORS = (InvalidInput, Forbidden, ImageNotFound, Conflict, NotSupported)


class PullBody(msgspec.Struct, kw_only=True, frozen=True):
    """`reference` as people type it: ``debian:12``, ``ghcr.io/a/b@sha256:…``."""

    reference: Annotated[str, Meta(min_length=1, max_length=512)]


class ImportQuery(msgspec.Struct, kw_only=True, frozen=True):
    """`name` for the image, in place of those the archive brings."""

    name: str = ""


class RemoveQuery(msgspec.Struct, kw_only=True, frozen=True):
    reference: str = ""


class PruneQuery(msgspec.Struct, kw_only=True, frozen=True):
    """`all`: also images with a name, as long as no machine needs them."""

    all: bool = False


class PulledImage(msgspec.Struct, kw_only=True, frozen=True):
    reference: str
    digest: str
    size_bytes: int


class ProgressLine(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """One line of the answer: progress, or at the end ``{"images": […]}`` or an error body."""

    phase: str = ""
    subject: str = ""
    done_bytes: int = 0
    total_bytes: int = 0
    images: list[PulledImage] | None = None


Work = Callable[[Progress], Awaitable[list[PulledImage]]]


@routes.get("/v1/images", errors=(NotSupported,))
async def list_images(call: Call[None, None]) -> list[ImageSummary]:
    """The images this host keeps."""
    return _store(call.services).list()


@routes.post("/v1/images/pull", errors=_PULL_ERRORS)
async def pull_image(call: Call[None, PullBody]) -> Stream:
    """Fetch an image from its registry. Answers lines of progress; the last one has the image or an error.

    What goes wrong before the first byte is transferred is answered as a plain error.
    """
    call.principal.check_admin()
    store, reference = _store(call.services), call.body.reference

    async def work(report: Progress) -> list[PulledImage]:
        image = await store.pull(reference, progress=report)
        return [_pulled(image)]

    return Stream(await _begin(work))


@routes.post("/v1/images/import", errors=(*_PULL_ERRORS, TooLarge), raw_body=True)
async def import_image(call: Call[ImportQuery, None]) -> Stream:
    """Import the images of an OCI layout or `docker save` archive, sent as the body (tar, plain or compressed)."""
    call.principal.check_admin()
    store = _store(call.services)
    path = await _receive_upload(call)

    async def work(report: Progress) -> list[PulledImage]:
        try:
            images = await store.import_path(path, tag=call.query.name or None, progress=report)
        finally:
            await asyncio.to_thread(path.unlink, missing_ok=True)
        return [_pulled(image) for image in images]

    return Stream(await _begin(work))


@routes.delete("/v1/images", errors=_REMOVE_ERRORS)
async def remove_image(call: Call[RemoveQuery, None]) -> RemoveReport:
    """Remove a name, and the image with its last name; by digest, the image with all its names."""
    if not call.query.reference:
        raise InvalidInput("invalid_argument: query parameter reference: required")
    return await _remove(call, call.query.reference)


@routes.delete("/v1/images/{reference...}", errors=_REMOVE_ERRORS)
async def remove_image_by_path(call: Call[None, None]) -> RemoveReport:
    """The same, with the reference in the path."""
    return await _remove(call, call.path["reference"])


@routes.post("/v1/images/prune", errors=(Forbidden, NotSupported))
async def prune_images(call: Call[PruneQuery, None]) -> PruneReport:
    """Remove the images that no machine needs and that have no name, and all leftovers."""
    call.principal.check_admin()
    services = call.services
    return await _store(services).prune(in_use=services.host.images_in_use(), keep_tagged=not call.query.all)


async def _remove(call: Call[Any, None], reference: str) -> RemoveReport:
    call.principal.check_admin()
    services = call.services
    return await _store(services).remove(reference, in_use=services.host.images_in_use())


def _store(services: Services) -> ImagesPort:
    if services.images is None:
        raise NotSupported("this server keeps no images", hint="the mock driver needs none")
    return services.images


def _pulled(image: Any) -> PulledImage:
    return PulledImage(reference=image.reference, digest=image.digest, size_bytes=image.size_bytes)


async def _receive_upload(call: Call[ImportQuery, None]) -> Path:
    """The body as a file.

    Raises:
        TooLarge, OutOfSpace.
    """
    upload_dir = call.services.upload_dir
    await asyncio.to_thread(upload_dir.mkdir, parents=True, exist_ok=True)
    fd, name = tempfile.mkstemp(prefix="import-", suffix=".tar", dir=upload_dir)
    path, size, pending = Path(name), 0, bytearray()
    try:
        async for chunk in call.chunks():
            size += len(chunk)
            if size > UPLOAD_BYTES_MAX:
                raise TooLarge(
                    f"the archive has more than {UPLOAD_BYTES_MAX} bytes", limit_bytes=UPLOAD_BYTES_MAX
                )
            pending += chunk
            if len(pending) >= UPLOAD_WRITE_BYTES:
                await asyncio.to_thread(_write, fd, bytes(pending))
                pending.clear()
        await asyncio.to_thread(_write, fd, bytes(pending))
        if size == 0:
            raise InvalidInput("invalid_argument: the body is empty", hint="send the archive as the body")
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)
    return path


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(fd, view) :]
    except OSError as error:
        raise OutOfSpace(
            f"the upload cannot be stored: {error.strerror}", hint="free disk space in the data directory"
        ) from error


async def _begin(work: Work) -> AsyncGenerator[bytes, None]:
    """Starts `work` and returns its lines.

    Returns when the first bytes have moved or the work has ended: what fails before is raised here, and becomes
    an answer with a status of its own.
    """
    lines: asyncio.Queue[bytes] = asyncio.Queue(PROGRESS_QUEUE_MAX)
    moving = asyncio.Event()

    def report(event: ProgressEvent) -> None:
        if event.phase != "resolving":
            moving.set()
        with contextlib.suppress(asyncio.QueueFull):
            lines.put_nowait(_line(ProgressLine(**msgspec.structs.asdict(event))))

    async def run() -> list[PulledImage]:
        return await work(report)

    task = asyncio.create_task(run())
    watcher = asyncio.create_task(moving.wait())
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
    except BaseException:
        await _cancel(task)
        raise
    finally:
        await _cancel(watcher)
    if task.done():
        task.result()  # raises what went wrong
    stream = _lines(task, lines)
    await anext(stream)  # from here on its `finally` owns the task, even when nobody ever reads a line
    return stream


async def _lines(
    task: asyncio.Task[list[PulledImage]], lines: asyncio.Queue[bytes]
) -> AsyncGenerator[bytes, None]:
    """Owns `task`: ends it when nobody reads any more."""
    try:
        yield b""
        while not (task.done() and lines.empty()):
            getter = asyncio.ensure_future(lines.get())
            await asyncio.wait({task, getter}, return_when=asyncio.FIRST_COMPLETED)
            if getter.done():
                yield getter.result()
            else:
                await _cancel(getter)
        yield _line(ProgressLine(images=task.result()))
    finally:
        await _cancel(task)


async def _cancel(task: asyncio.Future[Any]) -> None:
    if not task.done():
        task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _line(value: ProgressLine) -> bytes:
    return msgspec.json.encode(value) + b"\n"
