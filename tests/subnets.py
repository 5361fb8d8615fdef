"""Addresses for Midges that tests start."""

from __future__ import annotations


def subnet_of(tag: str) -> str:
    """A network of an instance's own. One that is chosen automatically may be another's after a restart."""
    number = int(tag, 16)
    return f"10.{100 + number % 100}.{number // 100 % 256}.0/24"
