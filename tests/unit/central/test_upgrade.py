"""A central store that an earlier Midge wrote."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import apsw
import pytest

from midge.central.sqlite import MIGRATIONS
from midge.central.store import Central
from midge.store.migrate import migrate

pytestmark = pytest.mark.anyio
SECRET = "s" * 43


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """With an app, a machine and a token, as the first schema had them."""
    first = tmp_path / "first"
    first.mkdir()
    shutil.copy(MIGRATIONS / "001_central.sql", first)
    path = tmp_path / "central.db"
    connection = apsw.Connection(str(path))
    migrate(connection, first, path)
    connection.execute(
        "INSERT INTO organizations(id, slug, name, created_ms) VALUES('personal','personal','P',1)"
    )
    connection.execute(
        "INSERT INTO apps(id, name, org_id, network, created_ms) VALUES('a','web',1,'default',2)"
    )
    connection.execute(
        "INSERT INTO machines VALUES('m','a','one','local','here','sha256:x',3), ('n','a','two','local','here','',4)"
    )
    connection.execute(
        "INSERT INTO tokens(id, hash, name, created_ms) VALUES(?,?,?,5)",
        ("0" * 12, hashlib.sha256(SECRET.encode()).digest(), "root"),
    )
    connection.close()
    return path


async def test_an_earlier_store_is_upgraded_without_loss(path: Path) -> None:
    for _ in range(2):
        async with Central(path) as central:
            app = await central.apps.get("web")
            assert (app.id, app.organization.name, app.created_ms) == ("a", "P", 2)
            records = await central.machines.of_host("here")
            assert [(one.id, one.digest, one.reserved_until_ms) for one in records.values()] == [
                ("m", "sha256:x", None),
                ("n", "", None),
            ]
            token = await central.tokens.verify(f"mdg_{'0' * 12}_{SECRET}")
            assert token is not None and token.name == "root"
    assert path.with_name("central.db.before-002").exists()
