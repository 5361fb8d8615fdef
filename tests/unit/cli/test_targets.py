"""What a user types becomes one machine."""

from __future__ import annotations

import pytest

from midge.cli.exits import UsageFailure
from midge.cli.targets import Target, choose
from midge.errors import NotFound
from tests.unit.cli.conftest import FakeServer

ONE = Target("web", "1857156b526dd8", "frontend", "started")
TWO = Target("web", "1857999999999a", "backend", "stopped")
TWIN = Target("api", "2857156b526dd8", "frontend", "started")


@pytest.mark.parametrize("typed", ["1857156b526dd8", "frontend", "18571"])
def test_ids_names_and_prefixes_are_understood(typed: str) -> None:
    assert choose(typed, [ONE, TWO]).id == ONE.id


def test_an_id_wins_over_a_name_that_looks_like_it() -> None:
    odd = Target("web", "3" * 14, ONE.id, "started")
    assert choose(ONE.id, [odd, ONE]).id == ONE.id


def test_a_prefix_of_several_is_refused_with_all_of_them() -> None:
    with pytest.raises(UsageFailure, match="names 2 machines: 1857156b526dd8 in web, 1857999999999a in web"):
        choose("1857", [ONE, TWO])


def test_a_name_in_two_apps_is_refused() -> None:
    with pytest.raises(UsageFailure) as raised:
        choose("frontend", [ONE, TWIN])
    assert "--app" in raised.value.hint


def test_two_digits_are_no_prefix() -> None:
    with pytest.raises(NotFound):
        choose("18", [ONE])


def test_a_whole_id_with_an_app_is_one_request(midge: FakeServer) -> None:
    midge("machine", "status", ONE.id, "-a", "web")
    assert [request.url.path for request in midge.requests] == [f"/v1/apps/web/machines/{ONE.id}"]


def test_without_an_app_the_organization_is_searched(midge: FakeServer) -> None:
    midge("machine", "status", "frontend", FLY_ORG="lab")
    assert midge.requests[0].url.path == "/v1/orgs/lab/machines"
