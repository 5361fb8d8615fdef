"""How tests speak HTTP to servers and machines of this host."""

from __future__ import annotations

from typing import Any

#: Arguments of every client: no proxy from the environment, which finds nothing here, and no loading of the system's
#: certificates, which takes longer than most requests.
DIRECT: dict[str, Any] = {"trust_env": False, "verify": False}
