"""The central store: names, tokens, machine records."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from midge.central.apps import AppNameTaken
from midge.central.database import Row, Transaction, Value
from midge.central.organizations import PERSONAL
from midge.central.store import Central
from midge.central.tokens import REVISION_TTL_S
from midge.errors import Conflict, NotFound
from midge.testing.fake_clock import FakeClock

from .conftest import MakeCentral

pytestmark = pytest.mark.anyio


async def test_personal_exists_from_the_start_and_only_once(make_central: MakeCentral) -> None:
    for _ in range(2):
        async with make_central() as central:
            assert (await central.organizations.get(PERSONAL)).slug == "personal"
            assert (await central.organizations.get("")).slug == "personal"


async def test_an_app_name_is_taken_once(central: Central) -> None:
    personal = await central.organizations.get(PERSONAL)
    app = await central.apps.create(personal, "web", network="default")
    assert await central.apps.get("web") == app
    assert await central.apps.count() == 1
    with pytest.raises(AppNameTaken):
        await central.apps.create(personal, "web", network="default")


async def test_an_idempotency_key_belongs_to_one_name(central: Central) -> None:
    personal = await central.organizations.get(PERSONAL)
    first = await central.apps.create(personal, "a", network="n", idempotency_key="k")
    again = await central.apps.create(personal, "b", network="n", idempotency_key="k", named=False)
    assert again == first
    with pytest.raises(Conflict):
        await central.apps.create(personal, "b", network="n", idempotency_key="k")


async def test_a_deletion_has_two_halves(central: Central) -> None:
    personal = await central.organizations.get(PERSONAL)
    app = await central.apps.create(personal, "web", network="n")
    assert await central.machines.reserve(app, "1" * 14, "one", region="r", host="h") is None
    await central.apps.begin_delete(app)
    assert [one.name for one in await central.apps.deleting()] == ["web"]
    with pytest.raises(NotFound):
        await central.machines.reserve(app, "2" * 14, "two", region="r", host="h")
    await central.apps.finish_delete(app)
    assert await central.apps.find("web") is None
    assert await central.machines.find("1" * 14) is None


async def test_a_machine_name_is_held_by_its_record(central: Central) -> None:
    app = await central.apps.create(await central.organizations.get(PERSONAL), "web", network="n")
    assert await central.machines.reserve(app, "1" * 14, "one", region="r", host="h") is None
    holder = await central.machines.reserve(app, "2" * 14, "one", region="r", host="h")
    assert holder is not None
    assert (holder.id, holder.app, holder.digest) == ("1" * 14, "web", "")
    assert await central.machines.confirm("1" * 14, "sha256:x")
    found = await central.machines.find("1" * 14)
    assert found is not None and found.digest == "sha256:x"
    await central.machines.drop("1" * 14)
    assert not await central.machines.confirm("1" * 14, "sha256:x")
    assert await central.machines.reserve(app, "2" * 14, "one", region="r", host="h") is None


async def test_a_record_that_was_confirmed_since_it_was_read_is_not_dropped(central: Central) -> None:
    app = await central.apps.create(await central.organizations.get(PERSONAL), "web", network="n")
    assert await central.machines.reserve(app, "1" * 14, "one", region="r", host="h") is None
    reserved = await central.machines.find("1" * 14)
    assert reserved is not None
    assert await central.machines.confirm("1" * 14, "sha256:x")
    await central.machines.drop_as_read(reserved)
    confirmed = await central.machines.find("1" * 14)
    assert confirmed is not None
    await central.machines.drop_as_read(confirmed)
    assert await central.machines.find("1" * 14) is None


async def test_a_token_is_known_by_its_text_alone(central: Central, tmp_path: Path) -> None:
    text = await central.tokens.create("t")
    prefix, token_id, secret = text.split("_", 2)
    assert prefix == "mdg"
    token = await central.tokens.verify(text)
    assert token is not None and token.id == token_id
    assert token.org_slug is None and token.app is None
    for wrong in (
        "",
        "mdg",
        f"mdg_{token_id}",
        f"mdg_{token_id}_",
        f"mdg_{token_id}_{secret}x",
        f"fm2_{token_id}_{secret}",
    ):
        assert await central.tokens.verify(wrong) is None
    rows = await central.database.fetch("SELECT * FROM tokens")
    assert secret not in str(rows)
    await central.aclose()
    files = b"".join(path.read_bytes() for path in tmp_path.glob("central.db*"))
    assert secret.encode() not in files


async def test_a_token_ends(central: Central, clock: FakeClock) -> None:
    personal = await central.organizations.get(PERSONAL)
    text = await central.tokens.create("t", organization=personal, ttl_s=1)
    clock.advance(0.999)
    assert await central.tokens.verify(text) is not None
    clock.advance(0.001)
    assert await central.tokens.verify(text) is None
    other = await central.tokens.create("t")
    assert await central.tokens.revoke(other.split("_")[1])
    assert not await central.tokens.revoke(other.split("_")[1])
    assert await central.tokens.verify(other) is None


async def test_tokens_of_an_app_go_with_it(central: Central) -> None:
    personal = await central.organizations.get(PERSONAL)
    app = await central.apps.create(personal, "web", network="n")
    text = await central.tokens.create("deploy", organization=personal, app=app)
    token = await central.tokens.verify(text)
    assert token is not None and token.app == "web"
    await central.apps.finish_delete(app)
    assert await central.tokens.verify(text) is None


async def test_a_token_that_another_process_ended_is_refused_soon(
    central: Central, clock: FakeClock, make_central: MakeCentral
) -> None:
    personal = await central.organizations.get(PERSONAL)
    app = await central.apps.create(personal, "web", network="n")
    texts = [
        await central.tokens.create("one"),
        await central.tokens.create("many"),
        await central.tokens.create("deploy", organization=personal, app=app),
    ]
    async with make_central() as other:
        ends = (
            lambda: other.tokens.revoke(texts[0].split("_")[1]),
            lambda: other.tokens.revoke_named("many", keep=""),
            lambda: other.apps.finish_delete(app),
        )
        for text, end in zip(texts, ends, strict=True):
            assert await central.tokens.verify(text) is not None
            await end()
            assert await other.tokens.verify(text) is None
            clock.advance(REVISION_TTL_S)
            assert await central.tokens.verify(text) is None


async def test_a_token_that_ends_while_it_is_looked_up_is_not_remembered(central: Central) -> None:
    text = await central.tokens.create("t")
    fetch_one = central.database.fetch_one

    async def fetch_while_it_ends(sql: str, *parameters: Value) -> Row | None:
        row = await fetch_one(sql, *parameters)
        if "FROM tokens" in sql:
            central.database.fetch_one = fetch_one  # type: ignore[method-assign]
            await central.tokens.revoke(text.split("_")[1])
        return row

    central.database.fetch_one = fetch_while_it_ends  # type: ignore[method-assign]  # the race, made to happen
    await central.tokens.verify(text)
    assert await central.tokens.verify(text) is None


async def test_at_the_same_moment_one_gets_the_name(make_central: MakeCentral) -> None:
    async with make_central() as one, make_central() as other:
        personal = await one.organizations.get(PERSONAL)
        made = await asyncio.gather(
            *(each.apps.create(personal, "web", network="n") for each in (one, other) * 4),
            return_exceptions=True,
        )
        assert sum(isinstance(each, AppNameTaken) for each in made) == 7
        again = await asyncio.gather(
            *(
                each.apps.create(personal, "key", network="n", idempotency_key="k")
                for each in (one, other) * 4
            )
        )
        assert len({app.id for app in again}) == 1
        holders = await asyncio.gather(
            *(
                each.machines.reserve(again[0], f"{n:014d}", "m", region="r", host="h")
                for n, each in enumerate((one, other) * 4)
            )
        )
        assert [holder is None for holder in holders].count(True) == 1


async def test_names_sort_by_their_bytes(central: Central) -> None:
    personal = await central.organizations.get(PERSONAL)
    for name in ("b", "a-b", "ab", "a1"):
        await central.apps.create(personal, name, network="n", role="x" if name == "b" else "")
    assert [app.name for app in await central.apps.of_organization(PERSONAL)] == ["a-b", "a1", "ab", "b"]
    assert [app.name for app in await central.apps.of_organization(PERSONAL, role="x")] == ["b"]


async def test_a_job_that_raises_leaves_nothing(central: Central) -> None:
    async def job(tx: Transaction) -> None:
        await tx.fetch("INSERT INTO revisions(name, value) VALUES($1, 1)", "x")
        raise NotFound("on purpose")

    with pytest.raises(NotFound):
        await central.database.transact(job)
    assert await central.database.fetch_one("SELECT 1 FROM revisions WHERE name=$1", "x") is None
