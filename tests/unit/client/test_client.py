"""Resources: paging, streams of progress, log records."""

from __future__ import annotations

import json

import httpx2
import pytest

from midge.client.execution import Chunk, Exit, parse, start_message
from midge.client.failures import TransportError
from midge.client.logs import Record
from midge.client.logs import parse as parse_record
from midge.errors import ImageNotFound, PreconditionFailed
from tests.unit.client.conftest import Script


def test_pages_are_followed_to_the_last(script: Script) -> None:
    script.answers = [
        httpx2.Response(200, json=[{"id": "1"}, {"id": "2"}], headers={"fly-next-cursor": "abc"}),
        httpx2.Response(200, json=[{"id": "3"}]),
    ]
    assert [machine["id"] for machine in script.client().machines.list("web")] == ["1", "2", "3"]
    assert "cursor=abc" in str(script.requests[1].url)


def test_only_as_many_pages_are_fetched_as_are_read(script: Script) -> None:
    script.answers = [httpx2.Response(200, json=[{"id": "1"}], headers={"fly-next-cursor": "abc"})]
    assert next(script.client().machines.list("web"))["id"] == "1"


def test_a_pull_reports_progress_and_returns_the_image(script: Script) -> None:
    lines = [{"phase": "downloading", "subject": "sha256:1"}, {"images": [{"digest": "sha256:2"}]}]
    script.answers = [httpx2.Response(200, content="".join(json.dumps(line) + "\n" for line in lines))]
    seen: list[str] = []
    images = script.client().images.pull("debian", lambda line: seen.append(line["phase"]))
    assert seen == ["downloading"]
    assert images == [{"digest": "sha256:2"}]


def test_an_error_in_the_last_line_of_a_pull_is_raised(script: Script) -> None:
    line = {"error": "no such image", "code": "image_not_found"}
    script.answers = [httpx2.Response(200, content=json.dumps(line) + "\n")]
    with pytest.raises(ImageNotFound):
        script.client().images.pull("debian", lambda line: None)


def test_a_pull_that_breaks_off_is_no_success(script: Script) -> None:
    script.answers = [httpx2.Response(200, content='{"phase":"downloading"}\n')]
    with pytest.raises(TransportError, match="without a result"):
        script.client().images.pull("debian", lambda line: None)


def test_messages_of_a_command_are_told_apart() -> None:
    assert parse(b"\x01out") == Chunk("stdout", b"out")
    assert parse(b"\x02err") == Chunk("stderr", b"err")
    assert parse('{"exit_code": 143, "signal": 15}') == Exit(143, 15)


def test_an_error_message_of_a_command_is_raised() -> None:
    with pytest.raises(PreconditionFailed):
        parse('{"error": "not started", "code": "failed_precondition"}')


@pytest.mark.parametrize("message", [b"", b"\x00in", b"\x07", "no json", "[]", "{}"])
def test_a_message_that_is_none_of_ours_is_an_error(message: bytes | str) -> None:
    with pytest.raises(TransportError):
        parse(message)


def test_a_start_message_says_only_what_is_wanted() -> None:
    assert start_message(["ls"]) == {"command": ["ls"], "stdin": False}
    assert start_message(["sh"], tty=(50, 120), stdin=True, user="www") == {
        "command": ["sh"],
        "stdin": True,
        "tty": True,
        "rows": 50,
        "cols": 120,
        "user": "www",
    }


def test_a_partial_record_has_no_newline() -> None:
    whole, part = Record("t", "stdout", "hi"), Record("t", "stdout", "h", partial=True)
    assert whole.data == b"hi\n"
    assert part.data == b"h"


@pytest.mark.parametrize("line", [b"", b"{}", b"[]", b"\xff"])
def test_a_record_that_is_none_is_an_error(line: bytes) -> None:
    with pytest.raises(TransportError):
        parse_record(line)
