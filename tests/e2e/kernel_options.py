# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""Visitors by IPsec or a VRF. Not every kernel has these: this is only in the table of tests/kernels, whose have."""

import socket

import pytest

from peers import Echo
from test_relay import assert_relayed_because, auto, two_clients  # pylint: disable=unused-import

pytestmark = pytest.mark.needs_steer

SPI = {"there": "0x11", "back": "0x12"}
KEY = "0x" + "11" * 20


@pytest.fixture
def esp(lab):
    """Between the client and the web server nothing goes but ESP."""
    ways = {"there": (lab.ca.v4, lab.edge.v4), "back": (lab.edge.v4, lab.ca.v4)}
    for netns, out in ((lab.ca, "there"), (lab.edge, "back")):
        for way, (source, target) in ways.items():
            netns.run("ip", "xfrm", "state", "add", "src", source, "dst", target, "proto", "esp", "spi", SPI[way],
                      "mode", "transport", "enc", "ecb(cipher_null)", "", "auth", "hmac(sha1)", KEY)
            netns.run("ip", "xfrm", "policy", "add", "src", source, "dst", target, "dir", "out" if way == out else "in",
                      "tmpl", "src", source, "dst", target, "proto", "esp", "mode", "transport")
    yield
    for netns in (lab.ca, lab.edge):
        netns.run("ip", "xfrm", "policy", "flush")
        netns.run("ip", "xfrm", "state", "flush")


def test_esp(lab, auto, best, esp):
    """What a hand-off replays has not come by ESP, and the policy would drop it."""
    with Echo(lab.edge):
        auto.ok("open")
        assert_relayed_because(auto, lab, best, "ipsec", "IPsec policy", two_clients(lab))
    assert auto.ask()["counters"]["lost"] == 0


def bound_to(device):
    """A listener of this device's, or VRF's, connections."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
    sock.bind(("0.0.0.0", 443))
    sock.listen()
    return sock


@pytest.mark.parametrize("bound", [True, False], ids=["bound", "by sysctl"])
def test_vrf(lab, auto, bound):
    """The sniffers are in none, so a web server that is reached by one must be left alone."""
    sysctl = "net.ipv4.tcp_l3mdev_accept"
    lab.edge.run("ip", "link", "add", "blue", "type", "vrf", "table", 77)
    lab.edge.run("ip", "link", "set", "blue", "up")
    try:
        with Echo(lab.edge):
            auto.ok("open")  # nobody in the VRF is concerned
            auto.ok("close")
        lab.edge.run("sysctl", "-qw", f"{sysctl}={0 if bound else 1}")
        with lab.edge.inside(bound_to, "blue") if bound else Echo(lab.edge):
            refused = auto.run("open")
        assert refused.code == 1 and refused.err.count("\n") == 1 and "the VRF blue" in refused.err, refused
        assert not auto.windows()
    finally:
        lab.edge.run("ip", "link", "del", "blue")
        lab.edge.run("sysctl", "-qw", f"{sysctl}=0")
