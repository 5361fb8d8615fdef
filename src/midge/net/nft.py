"""The firewall of one instance: one nftables table that needs no change when machines come and go.

Machines are told apart from the rest by the prefix of their interfaces, and a machine's own address from a forged one
by the host's routing table: `fib saddr . iif` asks whether the answer would go back where the packet came from.
"""

from __future__ import annotations

import asyncio
import errno
import shutil
import struct
from ipaddress import IPv4Network

from midge.errors import NotSupported, Unavailable
from midge.net.naming import GATEWAY, INTERFACE_PREFIX, interface_prefix, table_name
from midge.net.netlink import NETLINK_NETFILTER, Message, NetlinkError, NetlinkSocket, text

_GET_TABLE = 10 << 8 | 1  # NFNL_SUBSYS_NFTABLES, NFT_MSG_GETTABLE
_NFPROTO_INET = 1
_NFTA_TABLE_NAME = 1
# Seconds; a table is one transaction of a few milliseconds.
_NFT_TIMEOUT_S = 20

_TABLE = """\
table inet {table}
delete table inet {table}
table inet {table} {{
  # Before connection tracking: what is forged costs nothing. No IPv6 yet, so none passes.
  chain from_machines {{
    type filter hook prerouting priority raw; policy accept;
    iifname != "{own}*" return
    meta nfproto ipv6 drop
    fib saddr . iif oif 0 drop
  }}

  # A machine may answer the host and ping its gateway; it cannot call any service of the host.
  chain to_host {{
    type filter hook input priority filter; policy accept;
    iifname != "{own}*" return
    ct state established,related accept
    ip daddr {gateway} icmp type echo-request limit rate 100/second accept
    drop
  }}

  # Out by NAT, answers in. Not to another machine, of this Midge or another, nor to link-local addresses: a cloud's
  # metadata service gives away the host's own credentials.
  chain forwarded {{
    type filter hook forward priority filter; policy accept;
    iifname "{own}*" oifname "{any}*" drop
    iifname "{any}*" oifname "{own}*" drop
    iifname "{own}*" ip daddr 169.254.0.0/16 drop
    oifname "{own}*" ct state established,related accept
    oifname "{own}*" drop
{no_router}  }}

  chain outgoing {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {pool} oifname != "{any}*" masquerade
  }}
}}
"""

_NO_ROUTER = """\
    # This host forwarded nothing before Midge; it goes on forwarding nothing for anybody but machines.
    iifname != "{any}*" oifname != "{any}*" drop
"""


def render(tag: str, pool: IPv4Network, *, host_is_router: bool) -> str:
    """The input of ``nft -f`` that makes the table, replacing an older one in the same transaction."""
    no_router = "" if host_is_router else _NO_ROUTER.format(any=INTERFACE_PREFIX)
    return _TABLE.format(
        table=table_name(tag),
        own=interface_prefix(tag),
        any=INTERFACE_PREFIX,
        gateway=GATEWAY,
        pool=pool,
        no_router=no_router,
    )


async def apply(ruleset: str) -> None:
    """Feeds a ruleset to ``nft -f -``: all of it or nothing. Raises: NotSupported without nft, Unavailable."""
    program = shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if program is None:
        raise NotSupported("the program nft is missing", hint="install the package nftables")
    process = await asyncio.create_subprocess_exec(
        program,
        "-f",
        "-",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_NFT_TIMEOUT_S):
            _, stderr = await process.communicate(ruleset.encode())
    except TimeoutError as error:
        raise Unavailable(f"nft did not finish within {_NFT_TIMEOUT_S} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise Unavailable(
            f"nft refused the firewall of Midge: {stderr.decode(errors='replace').strip()[:500]}",
            hint="the kernel needs nf_tables with fib, ct, limit and masquerade (modules nft_fib_inet, nft_masq)",
        )


async def remove(tag: str) -> None:
    """Removes the table, if it exists."""
    await apply(f"table inet {table_name(tag)}\ndelete table inet {table_name(tag)}\n")


def exists(tag: str) -> bool:
    """Whether the table is there: whoever reloads the host's firewall may flush ours with it. Raises: OSError."""
    request = struct.pack("=BBH", _NFPROTO_INET, 0, 0) + text(_NFTA_TABLE_NAME, table_name(tag))
    with NetlinkSocket.open(NETLINK_NETFILTER) as sock:
        try:
            sock.get(Message(_GET_TABLE, 0, request))
        except NetlinkError as error:
            if error.errno == errno.ENOENT:
                return False
            raise
    return True
