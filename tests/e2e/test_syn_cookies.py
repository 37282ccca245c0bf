# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""Handshakes that the kernel answers by SYN cookies end at whoever has the port by then: a window may have opened or
closed since, or the process may be gone."""

import contextlib
import pathlib
import socket

import pytest

from lab import wait_until
from peers import Echo, ask
from servers import openssl_responder, tls_client

pytestmark = pytest.mark.needs_steer

TOOLS = pathlib.Path(__file__).resolve().parent / "tools"
CLIENTS = 10
BACKLOG = 8      # of the web server: a flood fills it soon
SOMAXCONN = 64   # and so the sniffers' queues
FLOOD_RATE = 500
DROP_ACKS = """
table inet held_back {
    chain output {
        type filter hook output priority 0;
        tcp dport 443 tcp flags & (syn|ack) == ack drop
    }
}
"""


@pytest.fixture
def web_server(lab):
    """One that has never sent a cookie."""
    with Echo(lab.edge, backlog=BACKLOG) as echo:
        yield echo


@contextlib.contextmanager
def sysctl(netns, name, value):
    before = netns.run("sysctl", "-n", name).strip()
    netns.run("sysctl", "-qw", f"{name}={value}")
    try:
        yield
    finally:
        netns.run("sysctl", "-qw", f"{name}={before}")


@pytest.fixture
def always(lab):
    """Switches to cookies for every SYN."""
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(sysctl(lab.edge, "net.ipv4.tcp_syncookies", 2))


@pytest.fixture
def flood(lab, steer):
    """SYNs that nobody ends, from now on."""
    started = []
    with sysctl(lab.edge, "net.core.somaxconn", SOMAXCONN):
        def start():
            started.append(lab.ca.start("synflood", [TOOLS / "synflood.py", FLOOD_RATE, 90, "198.51.100", 128, 250,
                                                     lab.edge.v4, 443]))
            return started[-1]
        yield start
        for process in started:
            process.kill()
        steer.kill()  # it would wait for the flood's handshakes for a minute


@contextlib.contextmanager
def acks_held_back(lab):
    """The clients' handshakes stay where they are, while this lasts."""
    lab.ca.run("nft", "-f", "-", input=DROP_ACKS)
    try:
        yield
    finally:
        lab.ca.run("nft", "delete", "table", "inet", "held_back")


def half_way(lab, *addresses):
    """Connections whose ACK has not come through."""
    def connect():
        return [socket.create_connection((address, 443), timeout=10) for address in addresses * CLIENTS]
    return lab.ca.inside(connect)


def have_places(lab, connections):
    """Those whose handshake is kept in a listener's queue: they need no cookie."""
    lines = lab.edge.run("ss", "-Htn", "state", "syn-recv").splitlines()
    ports = {int(line.split()[-1].rsplit(":", 1)[1]) for line in lines}
    return [connection for connection in connections if connection.getsockname()[1] in ports]


def assert_served(connections):
    for connection in connections:
        assert ask(connection) == b"over and back"
        connection.close()


def cookies(lab):
    """How many the edge's kernel has sent."""
    lines = lab.edge.run("nstat", "-asz", "TcpExtSyncookiesSent").splitlines()
    return int(lines[-1].split()[1])


def marks(lab):
    """The same, and those that were made for nobody."""
    lines = lab.edge.run("nstat", "-asz", "TcpExtTCPReqQFullDoCookies").splitlines()
    return int(lines[-1].split()[1])


def wait_for_look(lab):
    before = marks(lab)
    wait_until(lambda: marks(lab) > before, what="the web server's listener takes cookies")


def test_opened_meanwhile(lab, web_server, steer, always):
    always()
    with acks_held_back(lab):
        connections = half_way(lab, lab.edge.v4, lab.edge.v6)
        steer.open()
    assert_served(connections)
    assert steer.counter("passed_cookies") == 0
    steer.close()


@pytest.mark.parametrize("end", ["close", "kill"])
def test_ended_meanwhile(lab, web_server, steer, always, end):
    steer.open()
    always()
    wait_for_look(lab)
    with acks_held_back(lab):
        steered = steer.counter("steered")
        connections = half_way(lab, lab.edge.v4, lab.edge.v6)
        assert steer.counter("steered") >= steered + len(connections)
        if end == "close":
            steer.close()
        else:
            steer.kill()
    assert_served(connections)


def test_restarted_meanwhile(lab, steer, always):
    """A new listener has sent no cookie yet."""
    always()
    with Echo(lab.edge):
        steer.open()
    with Echo(lab.edge):
        with acks_held_back(lab):
            connections = half_way(lab, lab.edge.v4, lab.edge.v6)
            steer.close()
        assert_served(connections)


def test_opened_under_flood(lab, web_server, steer, flood):
    attack = flood()
    wait_until(lambda: cookies(lab) > 0, what="the web server's queue is full")
    with acks_held_back(lab):
        connections = half_way(lab, lab.edge.v4)
        steer.open()
    assert_served(connections)
    # A validator comes through, too.
    responder = openssl_responder(lab.edge, 31443, ["www.example.test"], lab.dir)
    assert tls_client(lab.ca, lab.edge.v4, "www.example.test", "acme-tls/1")["subject"] == "CN = responder-31443"
    responder.kill()
    assert attack.running(), attack.stderr()
    steer.close()


def wait_until_full(steer):
    """No sniffer's queue has a place that a process takes with it: SYNs pass by all of them, or get cookies."""
    wait_until(lambda: steer.ask()["counters"]["passed_cookies"] > 0, what="a sniffer's queue is nearly full")
    began = steer.ask()["counters"]["steered"]

    def are_full():
        before = steer.ask()["counters"]
        wait_until(lambda: sum(steer.ask()["counters"][name] - before[name] for name in ("steered", "passed_cookies"))
                   > 2 * CLIENTS, what="SYNs come")
        steered = steer.ask()["counters"]["steered"]
        return steered == before["steered"] or steered > began + 2 * SOMAXCONN

    wait_until(are_full, what="the others' are, too")


@pytest.mark.parametrize("end", ["close", "kill"])
def test_ended_under_flood(lab, web_server, steer, flood, end):
    """It begins in the window. First the web server has to get it, then the sniffers have their share."""
    steer.open()
    attack = flood()
    wait_until_full(steer)
    with acks_held_back(lab):
        connections = half_way(lab, lab.edge.v4)
        passed = steer.counter("passed_cookies")
        steered = steer.counter("steered")
        wait_until(lambda: steer.counter("steered") > steered + 2 * SOMAXCONN, what="the sniffers send cookies")
        connections += half_way(lab, lab.edge.v4)
        assert passed > 0 and attack.running(), attack.stderr()
        if end == "close":
            steer.close()
        else:
            # A place may have become free since (a SYN's time was over): whoever got it goes with the process.
            kept = have_places(lab, connections)
            steer.kill()
            connections = [connection for connection in connections if connection not in kept]
            assert len(connections) >= CLIENTS, kept
    assert_served(connections)
    attack.kill()
