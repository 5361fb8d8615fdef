"""Every limit of the image subsystem, in one place: each with its unit and its reason.

An image is written by a stranger. Whatever its size fields say, nothing here reads, writes or remembers more
than these numbers. Going over one raises `ImageInvalid` that names the limit.
"""

from __future__ import annotations

import msgspec

from midge.errors import ImageInvalid

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

# Bytes read, hashed and written at a time: large enough that hashing and I/O release the interpreter lock
# for most of the time, small enough that a dozen layers at once stay under 50 MiB.
CHUNK_BYTES = 1 * MIB

# Layers fetched and unpacked at once for one image. More only makes the disk seek: one stream of a near
# registry already fills it.
PARALLEL_LAYERS = 3

# Directory handles the unpacker keeps open between entries. Layers are mostly in directory order, so a few
# dozen would do; 256 stays well under the default limit of 1024 open files with several layers at once.
OPEN_PARENTS = 256

# Apparent size of every rootfs image, in bytes: the driver exchanges the disk of a waiting guest, which has
# already seen how large it is. Sparse, so it costs nothing.
EROFS_DEVICE_SIZE_BYTES = 32 * GIB

# Bytes that must stay free on the store's file system: journals and logs of the same host live there too.
RESERVED_FREE_BYTES = 256 * MIB

# A compressed layer is expected to grow this much when the room for it is checked beforehand (typical
# distribution layers: 2.4 to 2.8). Only an estimate: ENOSPC is handled wherever it strikes.
EXPECTED_GROWTH = 3

# A mount's options must fit in one page (mount(2)); some of it is for upperdir, workdir and flags.
OVERLAY_OPTION_BYTES = 4096 - 1024
# Lower directories overlayfs stacks (OVL_MAX_STACK in fs/overlayfs/params.c).
OVERLAY_MAX_LOWER = 500


class ImageLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What one image may cost. The defaults fit every image of ordinary registries we know of."""

    layers: int = 128
    """Layers per image. Docker stops at 127."""

    manifest_bytes: int = 4 * MIB
    """A manifest or index. Registries refuse more than 4 MiB (OCI distribution-spec)."""

    config_bytes: int = 8 * MIB
    """An image configuration; containerd and BuildKit stop at 8 MiB."""

    index_entries: int = 256
    """Manifests listed by one index; the widest multi-platform images have about 40."""

    compressed_layer_bytes: int = 10 * GIB
    """One layer as stored in a registry; the largest common registries accept 10 GiB."""

    archive_bytes: int = 64 * GIB
    """A `docker save` archive after the outer decompression."""

    archive_entries: int = 10_000
    """Members of a `docker save` archive: a few per layer and image."""

    unpacked_layer_bytes: int = 20 * GIB
    """One layer after decompression, tar headers included."""

    unpacked_image_bytes: int = 30 * GIB
    """All layers together; under the fixed disk size of 32 GiB so that the merged image always fits."""

    ratio: int = 200
    """Unpacked bytes per compressed byte. Real layers: 2 to 20; gzip can reach 1030, zstd 20,000 and more."""

    ratio_floor_bytes: int = 256 * MIB
    """The ratio counts only beyond this many unpacked bytes: small layers of zeros are harmless."""

    layer_entries: int = 1_000_000
    """Members of one layer tar; a full desktop or CUDA image has about 300,000."""

    layer_path_bytes: int = 256 * MIB
    """All paths of one layer together, implied parents included: what the unpacker may have to remember."""

    path_bytes: int = 4095
    """One path or link target (PATH_MAX without its NUL)."""

    name_bytes: int = 255
    """One path component (NAME_MAX)."""

    path_depth: int = 128
    """Components of a path. Deeper ones exist only to exhaust walkers."""

    pax_bytes: int = 1 * MIB
    """Extended header records of one entry (xattrs travel in them)."""

    sparse_segments: int = 65_536
    """Data segments of one sparse file."""

    xattrs: int = 64
    """Extended attributes of one entry."""

    xattr_bytes: int = 64 * KIB
    """Names and values of one entry's attributes together (XATTR_SIZE_MAX is 64 KiB for one)."""


DEFAULT_LIMITS = ImageLimits()


def check(limits: ImageLimits, name: str, value: int, what: str) -> None:
    """Raises `ImageInvalid` naming the limit when `value` is over `limits.<name>`."""
    maximum: int = getattr(limits, name)
    if value > maximum:
        raise exceeded(name, maximum, what)


def exceeded(name: str, maximum: int, what: str) -> ImageInvalid:
    """The error for going over a limit."""
    return ImageInvalid(
        f"{what} is over the image limit {name} ({maximum})",
        hint="use a smaller image, or raise the limit if you trust it",
        limit=name,
        maximum=maximum,
    )
