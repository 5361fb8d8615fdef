"""How long tests wait."""

from __future__ import annotations

#: Seconds for whatever ought to happen at once or soon. Other tests have the processors meanwhile, and guests are
#: emulated; a deadline costs nothing when all is well.
PATIENCE_S = 60.0
