"""Downloads one blob, and goes on where the last attempt was cut off, even one before a crash."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import threading
from pathlib import Path

import httpx2

from midge.errors import ImageInvalid, RegistryUnavailable
from midge.images.flight import in_thread
from midge.images.fs import space_errors
from midge.images.http import RegistryHttp
from midge.images.layers import LayerSpec
from midge.images.limits import CHUNK_BYTES
from midge.images.paths import StorePaths
from midge.images.progress import Progress, ProgressEvent
from midge.images.reference import ImageRef

# Attempts in a row that bring not a single byte, after which the registry counts as unavailable.
FRUITLESS_TRIES = 5
# Attempts altogether: a connection cut every few bytes is an attack or a broken network.
ALL_TRIES = 100
# The longest pause between attempts, in seconds.
_BACKOFF_MAX_S = 5.0
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-\d{1,19}/(?:\d{1,19}|\*)")


class _Partial:
    """The file of a download under way: what it has is hashed, so that the end of it is known to be right."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._hash = hashlib.sha256()
        self._fd = -1
        self.size_bytes = 0

    def open(self, stop: threading.Event) -> None:
        """Opens or makes the file, and reads what an earlier attempt left."""
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        while not stop.is_set() and (data := os.read(self._fd, CHUNK_BYTES)):
            self._hash.update(data)
            self.size_bytes += len(data)

    def write(self, data: bytes) -> None:
        with space_errors("downloading a layer"):
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view) :]
        self._hash.update(data)
        self.size_bytes += len(data)

    def restart(self) -> None:
        """Throws away what is there."""
        os.lseek(self._fd, 0, os.SEEK_SET)
        os.ftruncate(self._fd, 0)
        self._hash = hashlib.sha256()
        self.size_bytes = 0

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)


async def download(
    http: RegistryHttp, ref: ImageRef, layer: LayerSpec, paths: StorePaths, progress: Progress
) -> Path:
    """Brings a blob into the store and returns its file; at once if it is there.

    Raises:
        ImageInvalid: the content is not what its digest says, or longer than announced.
        ImageNotFound, RegistryUnavailable, OutOfSpace.
    """
    dest, place = paths.blob(layer.digest), paths.partial(layer.digest)
    if dest.exists():
        return dest
    partial = _Partial(place)
    try:
        await in_thread(partial.open)
        resumed = partial.size_bytes > 0
        await _complete(http, ref, layer, partial, progress)
        if partial.digest != layer.digest and resumed:
            # What an earlier process left may be damaged; only a fresh download proves the registry wrong.
            await asyncio.to_thread(partial.restart)
            await _complete(http, ref, layer, partial, progress)
        if partial.digest != layer.digest:
            place.unlink(missing_ok=True)
            raise ImageInvalid(f"{ref}: the content of layer {layer.digest} does not match its digest")
    finally:
        partial.close()
    place.rename(dest)
    return dest


async def _complete(
    http: RegistryHttp, ref: ImageRef, layer: LayerSpec, partial: _Partial, progress: Progress
) -> None:
    """Attempts until the announced number of bytes is there."""
    fruitless = 0
    if partial.size_bytes > layer.size_bytes:
        await asyncio.to_thread(partial.restart)
    for _ in range(ALL_TRIES):
        if partial.size_bytes == layer.size_bytes:
            return
        before = partial.size_bytes
        cause: RegistryUnavailable | None = None
        try:
            await _attempt(http, ref, layer, partial, progress)
        except RegistryUnavailable as error:
            cause = error
        if partial.size_bytes == layer.size_bytes:
            return
        fruitless = fruitless + 1 if partial.size_bytes <= before else 0
        if fruitless >= FRUITLESS_TRIES:
            raise RegistryUnavailable(
                f"{ref}: layer {layer.digest} cannot be downloaded: {FRUITLESS_TRIES} attempts brought nothing"
            ) from cause
        await asyncio.sleep(min(http.config.backoff_s * 2**fruitless, _BACKOFF_MAX_S))
    raise RegistryUnavailable(f"{ref}: layer {layer.digest} was cut off {ALL_TRIES} times")


async def _attempt(
    http: RegistryHttp, ref: ImageRef, layer: LayerSpec, partial: _Partial, progress: Progress
) -> None:
    headers = {"Range": f"bytes={partial.size_bytes}-"} if partial.size_bytes else {}
    async with http.get(ref.registry, ref.repository, f"blobs/{layer.digest}", headers) as response:
        if not _continues(response, partial.size_bytes):
            await asyncio.to_thread(partial.restart)
            if response.status_code == 416:
                return
        buffer = bytearray()
        try:
            # Pieces as they come: a chunk size would hold back, and lose, what arrived before a cut.
            async for piece in response.aiter_raw():
                buffer += piece
                if partial.size_bytes + len(buffer) > layer.size_bytes:
                    raise ImageInvalid(f"{ref}: layer {layer.digest} is longer than its manifest says")
                if len(buffer) >= CHUNK_BYTES:
                    await _flush(partial, buffer, layer, progress)
        except httpx2.TransportError:
            # What arrived before the cut counts.
            await _flush(partial, buffer, layer, progress)
            raise
        await _flush(partial, buffer, layer, progress)


def _continues(response: httpx2.Response, offset: int) -> bool:
    """Whether the answer starts at `offset`. Servers may ignore Range (status 200) or refuse it (416)."""
    if response.status_code != 206:
        return offset == 0 and response.status_code != 416
    found = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
    return found is not None and int(found.group(1)) == offset


async def _flush(partial: _Partial, buffer: bytearray, layer: LayerSpec, progress: Progress) -> None:
    data = bytes(buffer)
    buffer.clear()
    await in_thread(lambda _: partial.write(data))
    progress(
        ProgressEvent(
            phase="downloading",
            subject=layer.digest,
            done_bytes=partial.size_bytes,
            total_bytes=layer.size_bytes,
        )
    )
