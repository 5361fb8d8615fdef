from __future__ import annotations

from pathlib import Path

import pytest

from midge.errors import NotSupported, Unavailable
from midge.net import host, nft
from midge.net.config import NetConfig
from midge.net.pool import NetPool


def test_without_privileges_networks_are_not_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_effective_capabilities", lambda: 0)
    with pytest.raises(NotSupported, match="NET_ADMIN") as caught:
        host.require(tap=False)
    assert "root" in caught.value.hint


def test_without_the_tun_device_taps_are_not_supported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(host, "_effective_capabilities", lambda: ~0)
    monkeypatch.setattr(host, "TUN_DEVICE", tmp_path / "tun")
    host.require(tap=False)
    with pytest.raises(NotSupported, match="tun is missing") as caught:
        host.require(tap=True)
    assert "modprobe tun" in caught.value.hint


@pytest.mark.anyio
async def test_without_nft_the_firewall_is_not_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(NotSupported, match="nft is missing"):
        await nft.apply("")


@pytest.mark.anyio
async def test_a_pool_that_is_not_open_says_so_and_closes_quietly() -> None:
    pool = NetPool(NetConfig(tag="abcdef"))
    with pytest.raises(Unavailable, match="not open"):
        await pool.sweep()
    await pool.aclose()
