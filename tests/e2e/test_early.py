# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""Visitors whose ClientHello the kernel reads on its way: they are never steered, and the web server's own. Whoever
may ask for acme-tls/1 is taken from it before it has them."""

import select
import socket
import struct
import sys

import pytest

from lab import HERE, less, longer, wait_until
from load import assert_all_ok, assert_real_clients, start_tlsload
from peers import Echo, ask
from rawtcp import ACK, SYN, RawClient
from servers import SMALL, get, get_on, openssl_responder, tls_client
from steer import Steer

sys.path.insert(0, str(HERE / "tools"))
import oddclient  # noqa: E402  pylint: disable=wrong-import-position

pytestmark = pytest.mark.of_handoff

NAME = "www.example.test"
NAMELESS = "elsewhere.example.test"


@pytest.fixture(scope="module")
def responder(lab):
    responder = openssl_responder(lab.edge, 31443, [NAME], lab.dir)
    yield responder
    responder.kill()


@pytest.fixture
def window(lab, nginx, auto, responder):
    """A window whose guard is on the clients' device."""
    auto.open("--domain", NAME)
    wait_early(lab, auto)
    return auto


def wait_early(lab, steer):
    """Until a visitor is not steered any more: the first ones may be, until the device is guarded."""
    def passed():
        before = steer.ask()["counters"]["read_in_passing"]
        get(lab)
        return steer.ask()["counters"]["read_in_passing"] > before
    wait_until(passed, what="a ClientHello is read in the kernel")


def grown(steer, before):
    now = steer.ask()["counters"]
    return {name: now[name] - before[name] for name in now if now[name] != before[name]}


def wait_grown(steer, before, **wanted):
    """Until these have grown by so much, for whoever was given a connection can be faster than we count; all of them."""
    wait_until(lambda: all(grown(steer, before).get(name) == n for name, n in wanted.items()),
               what=f"{wanted} in {grown(steer, before)}")
    return grown(steer, before)


def hello_from(lab, pieces, after_first=lambda: None):
    """Sends a ClientHello in these pieces; what the other side says first."""
    with lab.ca.connect(lab.edge.v4, timeout=longer(10)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(pieces[0])
        after_first()
        for piece in pieces[1:]:
            sock.sendall(piece)
        return sock.recv(65536)


def test_visitors_are_not_steered(lab, nginx, window):
    since = nginx.log_position()
    before = window.ask()["counters"]
    load = start_tlsload(lab, nginx, "--seconds", longer(4), rate=300)
    result = load.finish()
    assert_all_ok(result, less(500))
    assert_real_clients(load, nginx, since, "handoff")
    counters = grown(window, before)
    # Some may come while the web server's queue is half full: those are steered.
    assert counters["read_in_passing"] >= 0.95 * result["ok"], counters
    assert not counters.keys() & {"taken_early", "unread", "lost"}, counters


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_challenge(lab, window, family):
    before = window.ask()["counters"]
    address = getattr(lab.edge, family)
    for _ in range(20):
        assert tls_client(lab.ca, address, NAME, "acme-tls/1")["subject"] == "CN = responder-31443"
    # An IPv6 client can't be handed to a listener on 127.0.0.1.
    how = "handed_off_responder" if family == "v4" else "relayed_responder"
    counters = wait_grown(window, before, taken_early=20, accepted=20, **{how: 20})
    assert "lost" not in counters and window.windows()["default"]["acme_connections"] == 20


@pytest.mark.parametrize("name", [NAME, NAMELESS])
@pytest.mark.parametrize("how", ["bytes", "halves", "records", "long"])
def test_not_whole_at_once(lab, nginx, window, responder, how, name):
    """Nobody can tell by the first segment; the answer is whose it is all the same."""
    hello = oddclient.client_hello(name, b"acme-tls/1", total=6000 if how == "long" else None)
    pieces = {"bytes": [hello[i:i + 1] for i in range(len(hello))],
              "halves": [hello[:100], hello[100:]],
              "records": [oddclient.split_over_records(hello, 50)],
              "long": [hello]}[how]
    before = window.ask()["counters"]
    taken = (lambda: wait_grown(window, before, taken_early=1)) if how == "halves" else (lambda: None)
    answer = hello_from(lab, pieces, taken)
    # nginx knows no such protocol: alert no_application_protocol
    assert answer[0] == (22 if name == NAME else 21), answer[:20]
    whose = "handed_off_responder" if name == NAME else "handed_off_web"
    wait_grown(window, before, taken_early=1, accepted=1, **{whose: 1})


def test_visitor_in_pieces(lab, nginx, window):
    """Those go by the sniffer, and no byte is lost."""
    hello = oddclient.client_hello(NAME)
    before = window.ask()["counters"]
    answer = hello_from(lab, [hello[:7], hello[7:]], lambda: wait_grown(window, before, taken_early=1))
    assert answer[0] == 22
    wait_grown(window, before, taken_early=1, handed_off_web=1)


def test_silent(lab, nginx, window):
    """The handshake ends without a ClientHello when its second SYN-ACK has been answered; nothing is lost."""
    before = window.ask()["counters"]
    with lab.ca.connect(lab.edge.v4, timeout=longer(10)) as sock:
        wait_until(lambda: grown(window, before).get("deferred_acks"), what="the ACK is dropped")
        port = sock.getsockname()[1]

        def established():
            return lab.edge.run("ss", "-Htn", "state", "established", f"dport = :{port}").strip()

        wait_until(established, 5, "the web server has it")
        assert get_on(sock) == SMALL
    assert not grown(window, before).keys() & {"steered", "accepted", "taken_early"}


LOST = """
table inet lost {
    chain input {
        type filter hook input priority 0;
        tcp sport 443 tcp flags & (syn|ack) == syn|ack drop
    }
}
"""


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_syn_ack_is_lost(lab, window, family):
    """Whoever answers a repeated one has not been silent: he is waited for."""
    address = getattr(lab.edge, family)
    lab.ca.run("nft", "-f", "-", input=LOST)
    try:
        clients = [lab.ca.start("client", ["openssl", "s_client", "-connect", f"[{address}]:443", "-servername", NAME,
                                           "-alpn", "acme-tls/1", "-tls1_3"]) for _ in range(5)]
        wait_until(lambda: lab.edge.run("ss", "-Htn", "state", "syn-recv").count("\n") == 5, what="all have asked")
    finally:
        lab.ca.run("nft", "delete", "table", "inet", "lost")
    for client in clients:
        wait_until(lambda c=client: "CN = responder-31443" in c.stdout(), 10, "the responder answers")
        client.kill()


def test_hello_is_lost(lab, window, responder):
    """A client that answers a repeated SYN-ACK, and has said something by then: that will be repeated, too."""
    hello = oddclient.client_hello(NAME, b"acme-tls/1")
    before = window.ask()["counters"]
    with RawClient(lab.ca, lab.edge.v4) as client:
        client.connect()
        wait_grown(window, before, deferred_acks=1)
        client.receive(lambda segment: segment.flags == SYN | ACK)
        client.seq += len(hello)
        client.send(ACK)
        wait_grown(window, before, deferred_acks=2)
        client.seq -= len(hello)
        client.send(ACK, hello)
        assert client.receive(lambda segment: segment.payload).payload[0] == 22
    wait_grown(window, before, taken_early=1, handed_off_responder=1)


@pytest.mark.parametrize("order", [(1, 0), (0, 1)], ids=["second first", "in order"])
def test_two_segments(lab, window, responder, order):
    """Of one ClientHello, in any order: a guess at the first would be wrong half of the time."""
    hello = oddclient.client_hello(NAME, b"acme-tls/1")
    parts = [(0, hello[:90]), (90, hello[90:])]
    before = window.ask()["counters"]
    with RawClient(lab.ca, lab.edge.v4, source_port=20001 + order[0]) as client:
        client.connect()
        first = client.seq
        for i in order:
            offset, part = parts[i]
            client.seq = first + offset
            client.send(ACK, part)
        assert client.receive(lambda segment: segment.payload).payload[0] == 22
    wait_grown(window, before, taken_early=1, handed_off_responder=1)


def test_client_goes_away(lab, nginx, window):
    """FIN and RST before a ClientHello are for the web server."""
    before = window.ask()["counters"]
    with lab.ca.connect(lab.edge.v4) as sock:
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(100) == b""
    sock = lab.ca.connect(lab.edge.v4)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
    wait_until(lambda: not lab.edge.run("ss", "-Htn", "state", "syn-recv").strip(), what="the request has gone")
    assert not grown(window, before).keys() & {"steered", "accepted", "taken_early", "unread"}


@pytest.mark.parametrize("end", ["close", "kill"])
def test_window_ends_in_a_handshake(lab, nginx, window, end):
    """What was deferred then goes on by itself."""
    before = window.ask()["counters"]
    socks = [lab.ca.connect(lab.edge.v4, timeout=longer(10)) for _ in range(10)]
    wait_until(lambda: grown(window, before).get("deferred_acks") == 10, what="the ACKs are dropped")
    if end == "close":
        window.close()
    else:
        window.kill()
    for sock in socks:
        assert get_on(sock) == SMALL


def test_killed_with_one_taken(lab, nginx, window):
    """The resident process dies right then: the client repeats what was held, and the web server has its request."""
    window.kill(19)  # SIGSTOP
    hello = oddclient.client_hello(NAME)
    with lab.ca.connect(lab.edge.v4, timeout=longer(10)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(hello[:50])
        # It lies in a guard entry, and nobody comes for it.
        assert not select.select([sock], [], [], 0.1)[0]
        window.kill()
        sock.sendall(hello[50:])
        assert sock.recv(65536)[0] == 22


@pytest.mark.parametrize("name, value", [("tcp_syncookies", 2), ("tcp_synack_retries", 1)])
def test_steered_all_the_same(lab, nginx, auto, responder, name, value):
    """With SYN cookies there is no request that could be taken; without a third SYN-ACK none that waits."""
    before = lab.edge.run("sysctl", "-n", f"net.ipv4.{name}").strip()
    lab.edge.run("sysctl", "-qw", f"net.ipv4.{name}={value}")
    try:
        auto.open("--domain", NAME)
        for _ in range(5):
            assert get(lab) == SMALL
            assert tls_client(lab.ca, lab.edge.v4, NAME, "acme-tls/1")["subject"] == "CN = responder-31443"
        wait_until(lambda: sum(auto.counter(f"handed_off_{whom}") for whom in ("web", "responder")) == 10,
                   what="all are handed off")
        counters = auto.ask()["counters"]
        assert counters["accepted"] == 10 and counters["not_steered"] == 0, counters
    finally:
        lab.edge.run("sysctl", "-qw", f"net.ipv4.{name}={before}")


def test_own_listener_with_mptcp(lab, nginx, auto, responder):
    """Visitors need no relay where there is no hand-off."""
    nginx.stop()
    try:
        with Echo(lab.edge, protocol=socket.IPPROTO_MPTCP):
            auto.open("--domain", NAME)
            wait_until(lambda: asked(lab) and auto.ask()["counters"]["read_in_passing"], what="one was not steered")
            before = auto.ask()["counters"]
            for _ in range(10):
                asked(lab)
                assert tls_client(lab.ca, lab.edge.v4, NAME, "acme-tls/1")["subject"] == "CN = responder-31443"
            counters = wait_grown(auto, before, read_in_passing=10, taken_early=10, handed_off_responder=10)
            assert "relayed_web" not in counters, counters
            auto.close()
    finally:
        nginx.start()


def asked(lab):
    with lab.ca.connect(lab.edge.v4, timeout=longer(10)) as sock:
        return ask(sock) or True


def test_other_planes_steer_all(lab, nginx, responder):
    for plane in ("handoff", "relay"):
        steer = Steer(lab.edge, plane)
        steer.open()
        for _ in range(5):
            assert get(lab) == SMALL
        counters = steer.ask()["counters"]
        assert counters["accepted"] == 5 and counters["not_steered"] == counters["deferred_acks"] == 0, counters
        steer.reset()
