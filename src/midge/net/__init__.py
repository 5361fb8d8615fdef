"""The network of machines: a namespace each, from a pool, behind one firewall table.

Start at `midge.net.pool`; `midge.net.naming` says what on the host belongs to which instance.
"""

from __future__ import annotations
