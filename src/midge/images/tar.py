"""A strict streaming tar reader: ustar, GNU and PAX, sparse files, nothing ever held whole.

The standard library's reader is forgiving and unbounded (it reads an extended header of any size into
memory, and guesses at damage). Layers come from strangers, so this one refuses what it does not understand.
Formats: POSIX.1-2001 pax, GNU tar's "Basic Tar Format" and "Storing Sparse Files".

    stream → Source (bytes on demand) → TarReader.members() → Member, then TarReader.data() for its content
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

from midge.errors import ImageInvalid
from midge.images.limits import ImageLimits, check
from midge.images.tar_fields import BLOCK, number, octets, pax_number, pax_records, pax_time_ns
from midge.images.tar_sparse import Segment, old_gnu_map, pax_map, pax_map_in_data

Kind = Literal["file", "dir", "symlink", "hardlink", "char", "block", "fifo"]

_KINDS: Final[dict[int, Kind]] = {
    0: "file",
    ord("0"): "file",
    ord("7"): "file",  # contiguous: a hint to long-gone file systems
    ord("S"): "file",
    ord("1"): "hardlink",
    ord("2"): "symlink",
    ord("3"): "char",
    ord("4"): "block",
    ord("5"): "dir",
    ord("6"): "fifo",
}
_XATTR = b"SCHILY.xattr."
# Extended headers in a row before one member: GNU name, GNU link, PAX local, PAX global, and repetitions.
_EXTENSIONS_MAX = 16
# Bytes: what off_t holds. Base-256 fields can announce more.
_SIZE_MAX = 2**63 - BLOCK


@dataclass(slots=True)
class Member:
    """One tar member. Names are raw bytes; `size_bytes` is the file's size once written."""

    path: bytes
    kind: Kind
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size_bytes: int
    target: bytes
    device: tuple[int, int]
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    segments: list[Segment] | None = None


class Source:
    """Bytes on demand from an iterator of chunks."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._buffer = b""
        self._position = 0

    def take(self, size: int) -> bytes:
        """Up to `size` bytes: fewer only at a chunk's end, none only at the end of the stream."""
        if self._position >= len(self._buffer):
            self._buffer = next(self._chunks, b"")
            self._position = 0
        start = self._position
        piece = self._buffer[start : start + size]
        self._position = start + len(piece)
        return piece

    def exactly(self, size: int) -> bytes:
        """Exactly `size` bytes, or nothing at the end of the stream.

        Raises:
            ImageInvalid: the stream ends within them.
        """
        piece = self.take(size)
        while len(piece) < size:
            more = self.take(size - len(piece))
            if not more:
                if piece:
                    raise ImageInvalid("the layer's tar ends within a member")
                return b""
            piece += more
        return piece

    def skip(self, size: int) -> bool:
        """Passes over `size` bytes; False if the stream ends before."""
        while size:
            piece = self.take(size)
            if not piece:
                return False
            size -= len(piece)
        return True

    def drain(self) -> None:
        """Reads the rest, so that whoever hashes the chunks has seen all of them."""
        self._buffer = b""
        for _ in self._chunks:
            pass


class TarReader:
    """Members of a tar in order. A member's data is there until the next member is asked for."""

    def __init__(self, source: Source, limits: ImageLimits) -> None:
        self._source = source
        self._limits = limits
        self._left = 0
        self._padding = 0
        self._globals: dict[bytes, bytes] = {}

    def members(self) -> Iterator[Member]:
        """Every member up to the end mark.

        Raises:
            ImageInvalid: the tar is damaged, over a limit, or uses something unknown.
        """
        while (member := self._next()) is not None:
            yield member
            self._skip()

    def data(self) -> Iterator[bytes]:
        """The stored bytes of the current member, in pieces."""
        while self._left:
            piece = self._source.take(self._left)
            if not piece:
                raise ImageInvalid("the layer's tar ends within a file")
            self._left -= len(piece)
            yield piece

    def _skip(self) -> None:
        if not self._source.skip(self._left + self._padding):
            raise ImageInvalid("the layer's tar ends within a file")
        self._left = self._padding = 0

    def _open_data(self, size: int) -> None:
        if size > _SIZE_MAX:
            raise ImageInvalid("a tar member claims a size no file can have")
        self._left = size
        self._padding = -size % BLOCK

    def _next(self) -> Member | None:
        long_name: bytes | None = None
        long_target: bytes | None = None
        local: dict[bytes, bytes] = {}
        extended = False
        for _ in range(_EXTENSIONS_MAX):
            header = self._header()
            if header is None:
                if extended:
                    raise ImageInvalid("the layer's tar ends after an extended header")
                return None
            kind = header[156]
            if kind not in b"xgLKX":
                return self._member(header, long_name, long_target, self._globals | local)
            extended = True
            body = self._extension(header)
            match chr(kind):
                case "L":
                    long_name = body.rstrip(b"\0")
                case "K":
                    long_target = body.rstrip(b"\0")
                case "g":
                    self._globals.update(pax_records(body))
                    # They last to the end of the tar, so they are limited together.
                    total = sum(len(key) + len(value) for key, value in self._globals.items())
                    check(self._limits, "pax_bytes", total, "the global extended tar headers")
                case _:
                    local.update(pax_records(body))
        raise ImageInvalid(f"the layer's tar has more than {_EXTENSIONS_MAX} extended headers in a row")

    def _header(self) -> bytes | None:
        """The next header block, or None at the end mark or the end of the stream."""
        block = self._source.exactly(BLOCK)
        if not block or block.count(0) == BLOCK:
            return None
        stored = number(block[148:156], "checksum")
        fields = block[:148] + b"        " + block[156:]
        if sum(fields) != stored and sum(b - 256 if b > 127 else b for b in fields) != stored:
            raise ImageInvalid("a tar header's checksum is wrong: this is not a tar, or it is damaged")
        return block

    def _extension(self, header: bytes) -> bytes:
        size = number(header[124:136], "size")
        check(self._limits, "pax_bytes", size, "an extended tar header")
        self._open_data(size)
        body = b"".join(self.data())
        self._skip()
        return body

    def _member(
        self, header: bytes, long_name: bytes | None, long_target: bytes | None, pax: dict[bytes, bytes]
    ) -> Member:
        kind = _KINDS.get(header[156])
        if kind is None:
            raise ImageInvalid(f"tar member type {chr(header[156])!r} is not supported")
        name = _name(header) if long_name is None else long_name
        target = octets(header[157:257]) if long_target is None else long_target
        stored = number(header[124:136], "size")
        if pax:
            stored = pax_number(pax, b"size", stored)
        if kind == "file" and header[156] in b"\x000" and name.endswith(b"/") and not pax.get(b"path"):
            kind = "dir"  # tars older than POSIX mark directories so
        # Only files have content; a size on other members is meaningless (Go's and Python's readers agree).
        self._open_data(stored if kind == "file" else 0)
        member = Member(
            path=pax.get(b"GNU.sparse.name") or pax.get(b"path") or name,
            kind=kind,
            mode=number(header[100:108], "mode") & 0o7777,
            uid=pax_number(pax, b"uid", number(header[108:116], "uid")),
            gid=pax_number(pax, b"gid", number(header[116:124], "gid")),
            mtime_ns=pax_time_ns(pax.get(b"mtime"), number(header[136:148], "mtime", signed=True)),
            size_bytes=self._left,
            target=pax.get(b"linkpath") or target,
            device=(0, 0),
        )
        if kind in ("char", "block"):
            member.device = (number(header[329:337], "device"), number(header[337:345], "device"))
        if pax:
            member.xattrs = {key[len(_XATTR) :]: pax[key] for key in pax if key.startswith(_XATTR)}
        if kind == "file" and (
            header[156] == ord("S") or b"GNU.sparse.major" in pax or b"GNU.sparse.size" in pax
        ):
            self._sparse(member, header, pax)
        return member

    def _sparse(self, member: Member, header: bytes, pax: dict[bytes, bytes]) -> None:
        most = self._limits.sparse_segments
        if header[156] == ord("S"):
            size, segments = old_gnu_map(header, self._source, most)
        elif pax.get(b"GNU.sparse.major") == b"1":
            size = pax_number(pax, b"GNU.sparse.realsize", -1)
            segments, used = pax_map_in_data(self._source, self._left, most)
            self._left -= used
        else:
            size, segments = pax_map(pax, most)
        end = 0
        for offset, length in segments:
            if offset < end or offset + length > size:
                raise ImageInvalid("a sparse file's segments overlap or go past its end")
            end = offset + length
        if sum(length for _, length in segments) != self._left:
            raise ImageInvalid("a sparse file's segments do not add up to its stored size")
        member.size_bytes, member.segments = size, segments


def _name(header: bytes) -> bytes:
    name = octets(header[0:100])
    prefix = octets(header[345:500]) if header[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name
