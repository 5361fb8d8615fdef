"""Requests about the images a host keeps."""

from __future__ import annotations

from collections.abc import Iterable

from midge.client.request import Request, get, path, query

# How long a pull or an import may be silent, in seconds: registries stall, disks flush.
TRANSFER_TIMEOUT_S = 900.0


def list_images() -> Request:
    return get(path("images"))


def pull(reference: str) -> Request:
    """Answers lines of progress, the last with the image or an error."""
    return Request(
        method="POST",
        path=path("images", "pull"),
        body={"reference": reference},
        timeout_s=TRANSFER_TIMEOUT_S,
    )


def import_archive(content: Iterable[bytes], *, name: str = "") -> Request:
    """An OCI layout or `docker save` archive, as a tar stream; answers as `pull` does."""
    return Request(
        method="POST",
        path=path("images", "import"),
        query=query(name=name),
        content=content,
        headers={"content-type": "application/x-tar"},
        timeout_s=TRANSFER_TIMEOUT_S,
    )


def remove(reference: str) -> Request:
    return Request(method="DELETE", path=path("images"), query=query(reference=reference), idempotent=True)


def prune(*, everything: bool = False) -> Request:
    """`everything`: also images with a name, as long as no machine needs them."""
    return Request(
        method="POST",
        path=path("images", "prune"),
        query=query(all=True if everything else None),
        idempotent=True,
        timeout_s=TRANSFER_TIMEOUT_S,
    )
