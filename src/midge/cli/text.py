"""Small pieces of text: ages, sizes, images, durations."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

_STEPS = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))
_SIZES = ((1024**4, "TiB"), (1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB"))


def age(timestamp: str, now: datetime) -> str:
    """``3s``, ``17m``, ``5h``, ``12d`` since an RFC 3339 time."""
    try:
        then = datetime.fromisoformat(timestamp)
    except ValueError:
        return ""
    return short_duration((now - then).total_seconds())


def short_duration(seconds: float) -> str:
    """The largest unit alone: columns are narrow."""
    whole = max(0, int(seconds))
    return next((f"{whole // size}{unit}" for size, unit in _STEPS if whole >= size), "0s")


def now() -> datetime:
    return datetime.now(UTC)


def size(count: int) -> str:
    """Bytes in the largest binary unit that leaves a number of at least one."""
    return next((f"{count / unit:.1f}{name}" for unit, name in _SIZES if count >= unit), f"{count}B")


def memory(mib: int) -> str:
    return f"{mib // 1024}GiB" if mib >= 1024 and mib % 1024 == 0 else f"{mib}MiB"


def shape(config: dict[str, Any]) -> str:
    """``shared-1x256MiB``, of a machine's configuration."""
    guest = config.get("guest") or {}
    kind, cpus = guest.get("cpu_kind") or "shared", guest.get("cpus") or 1
    return f"{kind}-{cpus}x{memory(guest.get('memory_mb') or 256)}"


def image(config: dict[str, Any]) -> str:
    """The image as its user wrote it, without the registry everybody means and without most of a digest."""
    reference = str(config.get("image") or "")
    for prefix in (
        "registry-1.docker.io/library/",
        "docker.io/library/",
        "registry-1.docker.io/",
        "docker.io/",
    ):
        reference = reference.removeprefix(prefix)
    name, at, digest = reference.partition("@")
    return f"{name}@{digest[:19]}" if at else name


def moment(milliseconds: int) -> str:
    """A time in UTC with milliseconds: events are compared across hosts."""
    seconds, rest = divmod(milliseconds, 1000)
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{rest:03d}Z"
