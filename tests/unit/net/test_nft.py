from __future__ import annotations

from ipaddress import IPv4Network

from midge.net import nft

GOLDEN = """\
table inet midge_3fa9c1
delete table inet midge_3fa9c1
table inet midge_3fa9c1 {
  # Before connection tracking: what is forged costs nothing. No IPv6 yet, so none passes.
  chain from_machines {
    type filter hook prerouting priority raw; policy accept;
    iifname != "mg3fa9c1*" return
    meta nfproto ipv6 drop
    fib saddr . iif oif 0 drop
  }

  # A machine may answer the host and ping its gateway; it cannot call any service of the host.
  chain to_host {
    type filter hook input priority filter; policy accept;
    iifname != "mg3fa9c1*" return
    ct state established,related accept
    ip daddr 169.254.0.1 icmp type echo-request limit rate 100/second accept
    drop
  }

  # Out by NAT, answers in. Not to another machine, of this Midge or another, nor to link-local addresses: a cloud's
  # metadata service gives away the host's own credentials.
  chain forwarded {
    type filter hook forward priority filter; policy accept;
    iifname "mg3fa9c1*" oifname "mg*" drop
    iifname "mg*" oifname "mg3fa9c1*" drop
    iifname "mg3fa9c1*" ip daddr 169.254.0.0/16 drop
    oifname "mg3fa9c1*" ct state established,related accept
    oifname "mg3fa9c1*" drop
    # This host forwarded nothing before Midge; it goes on forwarding nothing for anybody but machines.
    iifname != "mg*" oifname != "mg*" drop
  }

  chain outgoing {
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr 10.61.0.0/16 oifname != "mg*" masquerade
  }
}
"""


def test_the_table_of_a_host_that_was_no_router() -> None:
    assert nft.render("3fa9c1", IPv4Network("10.61.0.0/16"), host_is_router=False) == GOLDEN


def test_a_router_goes_on_forwarding_for_others() -> None:
    rules = nft.render("3fa9c1", IPv4Network("10.61.0.0/16"), host_is_router=True)
    assert 'iifname != "mg*" oifname != "mg*" drop' not in rules
    assert 'oifname "mg3fa9c1*" drop\n  }' in rules
