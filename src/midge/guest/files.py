"""Files that are written into a guest."""

from __future__ import annotations

from dataclasses import dataclass

from midge.guest import messages as m
from midge.guest import protocol as p
from midge.guest.protocol import FrameType


@dataclass(frozen=True, slots=True)
class GuestFile:
    """A file to write; missing directories are made. uid and gid: root where not given."""

    path: str
    content: bytes
    mode: int = 0o644
    uid: int | None = None
    gid: int | None = None

    def __repr__(self) -> str:
        return f"GuestFile(path={self.path!r}, {len(self.content)} bytes, mode={self.mode:o})"


def file_frames(stream: int, file: GuestFile) -> list[bytes]:
    """FILE and FILE_DATA, each frame by itself so that a sender can wait between them."""
    header = m.FileHeader(path=file.path, mode=file.mode, size=len(file.content), uid=file.uid, gid=file.gid)
    pieces = list(p.split(file.content)) or [memoryview(b"")]
    last = len(pieces) - 1
    return [
        p.encode_message(FrameType.FILE, stream, m.encode(header)),
        *(
            p.encode_frame(FrameType.FILE_DATA, stream, piece, p.Flag.EOF if index == last else 0)
            for index, piece in enumerate(pieces)
        ),
    ]
