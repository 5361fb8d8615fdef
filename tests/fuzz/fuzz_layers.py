"""Mutates layers and unpacks them, looking for escapes, leaked handles and errors that are not ours.

    python -m tests.fuzz.fuzz_layers [seconds] [seed]

Runs for a few seconds with a fixed seed in the ordinary tests (test_fuzz_layers.py), and for as long as wanted by
hand. A failing input is written next to the temporary directory and named in the message.
"""

from __future__ import annotations

import gzip
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from midge.errors import MidgeError
from midge.images.compression import zstd_compress
from midge.images.limits import DEFAULT_LIMITS
from midge.testing.images import Entry, directory, hardlink, layer_tar, symlink
from tests.unit.images.jail import Jail, open_handles
from tests.unit.images.test_unpack_hostile import sparse_tar

# Small enough that a mutated size field cannot fill the disk.
LIMITS = msgspec.structs.replace(DEFAULT_LIMITS, unpacked_layer_bytes=4 << 20, layer_entries=200)
_TOKENS = [
    b"..",
    b"/",
    b"\0",
    b".wh.",
    b".wh..wh..opq",
    b"\x80",
    b"\xff" * 8,
    b"7" * 11,
    b"SCHILY.xattr.",
    b"path=",
    b"9999",
]
_TYPES = b"01234567xgLKSVD\0"


def seeds() -> list[bytes]:
    """Layers with one of everything."""
    everything: dict[str, bytes | str | Entry] = {
        "d": directory(xattrs={"user.a": b"b"}),
        "d/f": b"content" * 100,
        "d/s": symlink("../outside"),
        "d/h": hardlink("d/f"),
        "p": Entry(kind="fifo"),
        "dev/null": Entry(kind="char", device=(1, 3)),
        "d/.wh.x": "",
        "d/.wh..wh..opq": "",
        "n" * 200: "long",
        "l": symlink("t" * 300),
    }
    return [
        layer_tar(everything),
        sparse_tar(8192, "0,4,4096,4", b"datadata"),
        layer_tar({"a/b/c": "x", "a": "y"}),
    ]


def mutate(source: random.Random, tar: bytes) -> bytes:
    """A few changes; header checksums are often made right again so that mutations get past them."""
    data = bytearray(tar)
    for _ in range(source.randint(1, 6)):
        at = source.randrange(len(data))
        match source.randrange(5):
            case 0:
                data[at] = source.randrange(256)
            case 1:
                token = source.choice(_TOKENS)
                data[at : at + len(token)] = token
            case 2:
                data[at // 512 * 512 + 156 : at // 512 * 512 + 157] = bytes([source.choice(_TYPES)])
            case 3:
                block = at // 512 * 512
                copied = data[block : block + 512]
                other = source.randrange(len(data)) // 512 * 512
                data[other:other] = copied
            case _:
                del data[at : at + source.choice([1, 512, 1024])]
        data = data or bytearray(512)
    if source.random() < 0.8:
        for block in range(0, len(data) - 511, 512):
            if data[block + 257 : block + 262] == b"ustar":
                data[block + 148 : block + 156] = b"        "
                data[block + 148 : block + 156] = b"%06o\0 " % sum(data[block : block + 512])
    return bytes(data)


def fuzz(seconds: float, seed: int, most: int | None = None) -> int:
    """Unpacks mutated layers; returns how many. Raises on the first thing that must not happen."""
    source = random.Random(seed)
    corpus = seeds()
    deadline = time.monotonic() + seconds
    handles = open_handles()
    done = 0
    base = Path(tempfile.mkdtemp(prefix="midge-fuzz-"))
    try:
        while time.monotonic() < deadline and (most is None or done < most):
            tar = mutate(source, source.choice(corpus))
            one(base / str(done), tar, source)
            done += 1
        assert open_handles() == handles, "file handles leak"
    finally:
        shutil.rmtree(base, ignore_errors=True)
    return done


def one(place: Path, tar: bytes, source: random.Random) -> None:
    stored = source.choice([tar, gzip.compress(tar, 1), zstd_compress(tar)])
    if source.random() < 0.2:
        stored = mutate(source, stored)
    try:
        Jail(place, LIMITS).unpack_tar(tar, stored=stored)
    except MidgeError:
        pass
    except BaseException as error:
        keep = Path(tempfile.gettempdir()) / f"midge-fuzz-failure-{os.getpid()}.tar"
        keep.write_bytes(tar)
        raise AssertionError(f"unpacking {keep} went wrong") from error
    finally:
        shutil.rmtree(place, ignore_errors=True)


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().randrange(1 << 32)
    done = fuzz(seconds, seed)
    sys.stdout.write(f"{done} layers in {seconds:.0f} s, seed {seed}: nothing found\n")


if __name__ == "__main__":
    main()
