"""Answers become errors."""

from __future__ import annotations

import json

import pytest

from midge import errors
from midge.client.failures import ApiError, code_of, from_response, request_id_of


def body(**fields: object) -> bytes:
    return json.dumps(fields).encode()


@pytest.mark.parametrize(
    ("status", "fields", "kind"),
    [
        (404, {"error": "machine not found", "code": "not_found"}, errors.NotFound),
        (409, {"error": "held", "code": "lease_held"}, errors.LeaseHeld),
        (422, {"error": "taken", "code": "name_taken", "status": "name_taken"}, errors.NameTaken),
        (
            422,
            {"error": "could not find a candidate host", "status": "insufficient_capacity"},
            errors.NoCapacity,
        ),
        (507, {"error": "full", "code": "out_of_space"}, errors.OutOfSpace),
        (412, {"error": "failed_precondition: no"}, errors.PreconditionFailed),
        (408, {"error": "deadline_exceeded: no"}, errors.DeadlineExceeded),
        (401, {"error": "no"}, errors.Unauthorized),
        (500, {"error": "internal error", "code": "internal"}, ApiError),
        (418, {"error": "teapot", "code": "something_new"}, ApiError),
    ],
)
def test_the_code_decides_and_then_the_status(
    status: int, fields: dict[str, object], kind: type[errors.MidgeError]
) -> None:
    error = from_response(status, body(**fields), {})
    assert type(error) is kind
    assert error.message == fields["error"]
    assert error.status == status


def test_the_request_id_and_the_hint_are_kept() -> None:
    error = from_response(404, body(error="gone", hint="look elsewhere"), {"fly-request-id": "01J"})
    assert error.hint == "look elsewhere"
    assert request_id_of(error) == "01J"


def test_the_request_id_of_a_cause_is_found() -> None:
    outer = errors.MidgeError("outer")
    outer.__cause__ = from_response(404, body(error="gone"), {"fly-request-id": "01J"})
    assert request_id_of(outer) == "01J"


def test_a_lease_error_in_its_other_form_is_read() -> None:
    error = from_response(404, body(status="error", message="lease not found"), {})
    assert error.message == "lease not found"


def test_text_that_is_no_json_is_shown_on_one_line() -> None:
    error = from_response(502, b"<html>\n  Bad   Gateway\n</html>", {})
    assert error.message == "<html> Bad Gateway </html>"
    assert isinstance(error, errors.Unavailable)


def test_an_empty_answer_names_its_status() -> None:
    assert from_response(500, b"", {}).message == "HTTP status 500"


def test_json_that_is_no_object_does_not_confuse() -> None:
    assert from_response(400, b"[1]", {}).message == "[1]"


def test_a_code_without_a_class_and_the_details_are_kept() -> None:
    details = {"guest_code": "not_found", "during": "exec", "message": "x"}
    error = from_response(500, body(error="command not found", code="guest_refused", details=details), {})
    assert code_of(error) == "guest_refused"
    assert error.details["guest_code"] == "not_found"
    assert code_of(errors.NotFound("x")) == "not_found"
    assert code_of(ValueError("x")) == "internal"
