"""Hostile bytes: nothing but ProtocolError comes out, and memory stays bounded."""

from __future__ import annotations

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st

from midge.guest import messages as m
from midge.guest import protocol as p
from midge.guest.errors import ProtocolError

_FRAMES = st.builds(
    p.encode_frame,
    st.integers(0, 255),
    st.integers(0, 2**32 - 1),
    st.binary(max_size=300),
    st.integers(0, 255),
)
_SPOILED = st.builds(
    lambda raw, at, byte: raw[: at % len(raw)] + bytes([byte]) + raw[at % len(raw) + 1 :],
    _FRAMES,
    st.integers(0, 400),
    st.integers(0, 255),
)
_STREAM = st.lists(st.one_of(_FRAMES, _SPOILED, st.binary(max_size=64), st.just(p.MAGIC)), max_size=20).map(
    b"".join
)


def _decode(data: bytes, cuts: list[int]) -> tuple[list[p.Frame], int]:
    decoder = p.FrameDecoder()
    frames: list[p.Frame] = []
    start = 0
    for cut in [*sorted(c % (len(data) + 1) for c in cuts), len(data)]:
        frames += decoder.feed(data[start:cut])
        assert decoder.pending_bytes <= p.HEADER_BYTES + p.FRAME_PAYLOAD_MAX
        start = cut
    return frames, decoder.skipped_bytes


@given(_STREAM, st.lists(st.integers(0, 10_000), max_size=8))
def test_frames_do_not_depend_on_how_the_bytes_arrive(data: bytes, cuts: list[int]) -> None:
    assert _decode(data, cuts) == _decode(data, [])


@given(st.lists(_FRAMES, max_size=12), st.lists(st.integers(0, 10_000), max_size=8))
def test_what_was_encoded_comes_out_again(raw: list[bytes], cuts: list[int]) -> None:
    frames, skipped = _decode(b"".join(raw), cuts)
    assert skipped == 0
    assert [p.encode_frame(f.type, f.stream, f.payload, f.flags) for f in frames] == raw


@given(st.lists(st.tuples(_FRAMES, st.booleans()), max_size=30))
@settings(max_examples=50)
def test_assembler_raises_only_message_errors(raw: list[tuple[bytes, bool]]) -> None:
    decoder, assembler = p.FrameDecoder(), p.MessageAssembler()
    for data, _ in raw:
        for frame in decoder.feed(data):
            with contextlib.suppress(p.MessageError):
                assembler.add(frame)


@given(st.one_of(st.binary(max_size=400), st.text(max_size=200).map(str.encode)))
def test_payloads_raise_only_protocol_errors(payload: bytes) -> None:
    for kind in (m.HelloAck, m.GuestExit, m.ExecExit, m.ErrorReply, m.PsReply, m.ShimState, m.Running):
        with contextlib.suppress(ProtocolError):
            m.decode(kind, payload)
