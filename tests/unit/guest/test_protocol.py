"""The Python codec against the vectors it shares with the Rust crate, and its own limits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from midge.guest import messages as m
from midge.guest import protocol as p
from midge.guest.errors import ProtocolError

VECTORS = Path(__file__).parents[2] / "vectors" / "frames.json"


def _words(text: str) -> bytes:
    out = b""
    for word in text.split():
        digits, _, times = word.partition("*")
        out += bytes.fromhex(digits) * int(times or 1)
    return out


def _cases() -> list[Any]:
    return [pytest.param(case, id=case["name"]) for case in json.loads(VECTORS.read_text())]


def _run(chunks: list[bytes]) -> dict[str, Any]:
    decoder, assembler = p.FrameDecoder(), p.MessageAssembler()
    frames: list[p.Frame] = []
    messages: list[dict[str, Any]] = []
    message_errors: list[str] = []
    result: dict[str, Any] = {}

    def assemble(frame: p.Frame) -> None:
        try:
            body = assembler.add(frame)
        except p.MessageInterrupted:
            message_errors.append("interrupted")
            assemble(frame)
        except p.MessageTooLong:
            message_errors.append("too_long")
        else:
            if body is not None:
                messages.append({"type": frame.type, "stream": frame.stream, "json": json.loads(body)})

    try:
        for chunk in chunks:
            for frame in decoder.feed(chunk):
                frames.append(frame)
                if frame.type not in p.DATA_TYPES:
                    assemble(frame)
    except ProtocolError:
        result["error"] = "stream_broken"
    else:
        result |= {"skipped_bytes": decoder.skipped_bytes, "pending_bytes": decoder.pending_bytes}
    return result | {"frames": frames, "messages": messages, "message_errors": message_errors}


@pytest.mark.parametrize("case", _cases())
@pytest.mark.parametrize("chunk_bytes", [1 << 30, 65_521, 7])
def test_shared_vector(case: dict[str, Any], chunk_bytes: int) -> None:
    data, expect = _words(case["hex"]), case["expect"]
    got = _run([data[at : at + chunk_bytes] for at in range(0, len(data), chunk_bytes)])
    frames = [p.Frame(f["type"], f["flags"], f["stream"], _words(f["payload"])) for f in expect["frames"]]
    assert got["frames"] == frames
    assert got.get("error") == expect.get("error")
    if "error" in expect:
        return
    assert got["skipped_bytes"] == expect.get("skipped_bytes", 0)
    assert got["pending_bytes"] == expect.get("pending_bytes", 0)
    if "messages" in expect:
        assert got["messages"] == expect["messages"]
    assert got["message_errors"] == expect.get("message_errors", [])


def test_frames_before_the_break_are_delivered_and_it_stays_broken() -> None:
    decoder = p.FrameDecoder()
    feed = decoder.feed(p.encode_frame(p.FrameType.RUN) + b"\xff" * (p.RESYNC_BYTES_MAX + 1))
    assert next(feed).type == p.FrameType.RUN
    with pytest.raises(ProtocolError, match="broken"):
        next(feed)
    with pytest.raises(ProtocolError, match="broken"):
        list(decoder.feed(p.encode_frame(p.FrameType.RUN)))


def test_long_message_is_cut_and_put_together_again() -> None:
    body = b"x" * 200_000
    decoder, assembler = p.FrameDecoder(), p.MessageAssembler()
    parts = [assembler.add(f) for f in decoder.feed(p.encode_message(p.FrameType.CONFIGURE, 0, body))]
    assert parts == [None, None, None, body]


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537])
def test_data_marks_its_last_frame(size: int) -> None:
    frames = list(p.FrameDecoder().feed(p.encode_data(p.FrameType.STDIN, 3, b"y" * size, eof=True)))
    assert b"".join(f.payload for f in frames) == b"y" * size
    assert [bool(f.flags & p.Flag.EOF) for f in frames] == [False] * (len(frames) - 1) + [True]


def test_over_long_payload_message_and_stream_are_refused() -> None:
    with pytest.raises(ProtocolError):
        p.encode_frame(p.FrameType.STDIN, 1, b"x" * (p.FRAME_PAYLOAD_MAX + 1))
    with pytest.raises(ProtocolError):
        p.encode_message(p.FrameType.CONFIGURE, 0, b"x" * (p.MESSAGE_MAX + 1))
    with pytest.raises(ProtocolError):
        p.encode_frame(p.FrameType.STDIN, 2**32)


def test_window_must_have_four_bytes() -> None:
    frame = next(p.FrameDecoder().feed(p.encode_window(p.FrameType.WINDOW, 1, 70_000)))
    assert p.decode_window(frame) == 70_000
    with pytest.raises(ProtocolError):
        p.decode_window(p.Frame(p.FrameType.WINDOW, 0, 1, b"123"))


def test_type_names_are_readable() -> None:
    assert p.type_name(p.FrameType.EXEC_OUTPUT) == "exec_output"
    assert p.type_name(0x3F) == "type 0x3f"


def test_configure_travels_as_documented_and_hides_its_environment() -> None:
    configure = m.Configure(
        start_id="01J",
        mode="vm",
        wall_clock_ns=5,
        entropy=b"\x00\xff",
        hostname="h",
        machine_id="0" * 32,
        argv=("/bin/true",),
        env=(("TOKEN", "s3cret"),),
        net=m.Net(mac="02:00:00:00:00:01", addresses=("10.61.0.5/32",), gateway="169.254.0.1"),
    )
    sent = json.loads(m.encode(configure))
    assert sent["entropy"] == "AP8="
    assert sent["env"] == [["TOKEN", "s3cret"]]
    assert sent["net"]["interface"] == "eth0"
    assert "s3cret" not in repr(configure)
    assert m.decode(m.Configure, m.encode(configure)) == configure


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"{",
        b'{"exit_code":"0"}',
        b'{"exit_code":256}',
        b'{"exit_code":' + b"9" * 400 + b"}",
        b"\xff",
        b'{"x":' + b"[" * 100_000,
    ],
)
def test_malformed_exit_is_a_protocol_error(payload: bytes) -> None:
    with pytest.raises(ProtocolError, match="malformed exit"):
        m.decode(m.GuestExit, payload, what="exit")
