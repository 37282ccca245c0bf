# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""A host with the usual firewall, and strict reverse path filtering, behaves the same."""

import json

import pytest

from lab import less, wait_until
from load import check_cycles, check_hammer, issue
from servers import Pebble

RULES = """
table inet filter {
    counter invalid { }
    counter refused { }
    chain input {
        type filter hook input priority 0; policy drop;
        ct state invalid counter name invalid drop
        iif lo accept
        ct state established,related accept
        meta l4proto ipv6-icmp accept
        meta l4proto icmp accept
        tcp dport { 22, 80, 443 } ct state new accept
        counter name refused
    }
}
"""


@pytest.fixture(scope="module", autouse=True)
def firewall(lab):
    for key in ("all", "default", lab.edge.device):
        lab.edge.run("sysctl", "-qw", f"net.ipv4.conf.{key}.rp_filter=1")
    lab.edge.run("nft", "-f", "-", input=RULES)

    def count(name):
        text = lab.edge.run("nft", "-j", "list", "counter", "inet", "filter", name)
        return next(o["counter"]["packets"] for o in json.loads(text)["nftables"] if "counter" in o)
    return count


def test_firewall_is_one(lab, nginx, firewall):
    """The rules do what they are for."""
    before = firewall("refused")
    lab.edge.start("listener", ["openssl", "s_server", "-accept", "8443", "-nocert"])
    with pytest.raises(OSError):
        lab.ca.connect(lab.edge.v4, 8443, timeout=0.5)
    assert firewall("refused") > before


def test_cycles_behind_firewall(lab, nginx, steer, firewall):
    invalid = firewall("invalid")
    check_cycles(lab, nginx, steer, less(30))
    assert firewall("invalid") == invalid


@pytest.mark.needs_steer
def test_issue_behind_firewall(lab, nginx, steer, firewall):
    refused = firewall("refused")
    issue(lab, nginx, Pebble(lab), steer, "www.example.test")
    assert firewall("refused") == refused


def test_hammer_behind_firewall(lab, nginx, steer, firewall):
    invalid = firewall("invalid")
    check_hammer(lab, nginx, steer, less(8000))
    assert firewall("invalid") == invalid
