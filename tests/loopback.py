"""How tests speak HTTP to servers and machines of this host, and where nobody answers."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

#: Arguments of every client: no proxy from the environment, which finds nothing here, and no loading of the system's
#: certificates, which takes longer than most requests.
DIRECT: dict[str, Any] = {"trust_env": False, "verify": False}


@contextmanager
def deaf_port() -> Iterator[int]:
    """A port at which nobody listens, nor will while the context lasts."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]
