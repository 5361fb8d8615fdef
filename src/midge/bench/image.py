"""The image of the benchmarks: busybox, and a process that prints one byte and sleeps."""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

from midge.bench.errors import CannotMeasure

TAG = "midge/bench:latest"
# The one byte is a newline: a whole, empty line, which nobody holds back to see how it goes on.
COMMAND = ("/bin/sh", "-c", "echo; exec sleep 2147483647")
ENVIRONMENT = ("PATH=/usr/bin:/bin",)


def archive(scratch: Path) -> bytes:
    """An OCI layout as a tar. Blocks.

    Raises:
        CannotMeasure: there is no static busybox on this host.
    """
    from midge.testing.images import busybox_image

    layout = scratch / "image"
    try:
        busybox_image(layout, tag=TAG, cmd=list(COMMAND), env=list(ENVIRONMENT))
    except FileNotFoundError as error:
        raise CannotMeasure(
            "no static busybox to make an image of", hint="apt-get install busybox-static"
        ) from error
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.add(layout, arcname=".")
    shutil.rmtree(layout)
    return out.getvalue()
