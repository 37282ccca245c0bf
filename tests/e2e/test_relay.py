# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""Relayed connections: why, for how long, at what cost, and every byte of them."""

import hashlib
import os
import re
import select
import signal
import socket
import time

import pytest

from lab import BUILD, less, longer, sh, wait_until
from peers import IPPROTO_MPTCP, Echo, Once, allow_descriptors, ask
from servers import make_cert, tls_client
from steer import BINARY, Steer, leftovers

pytestmark = pytest.mark.needs_steer

GIB = 1 << 30
CHUNK = 1 << 20
NAME = "www.example.test"
IDLE_BYTES = 2048  # of user memory that an idle relayed connection may cost


@pytest.fixture
def relay(lab):
    """Everything is relayed, and the web server sees this host's address."""
    steer = Steer(lab.edge, "relay")
    steer.reset()
    yield steer
    steer.reset()


@pytest.fixture
def auto(lab):
    """A resident process that stays, whose log is read. What can be handed off is."""
    steer = Steer(lab.edge, "auto")
    steer.reset()
    process = steer.serve()
    steer.log = process.stderr
    yield steer
    steer.run("close", "--all", "--kill")
    process.stop()


def open_relay(relay, *options, client_ip="none"):
    relay.ok("open", "--plane", "relay", "--client-ip", client_ip, *options)


def states(relay):
    return relay.status()["connections"]


def relayed(relay, count):
    wait_until(lambda: states(relay)["relayed"] == count, what=f"{count} relayed connections")


# Why?


def assert_relayed_because(steer, lab, best, reason, text, clients):
    """Both clients were served, by a relay, and status and log say why; the log once."""
    answers = [ask(sock) for sock in clients]
    assert answers == [b"over and back"] * len(clients), answers
    if best == "relay" and reason not in ("forced",):
        reason, text = "no_handoff", "this kernel can't hand off"
    wait_until(lambda: steer.relay_reasons(), what="they are counted")
    assert steer.relay_reasons() == {reason: len(clients)}, steer.status()
    plain = steer.run("status").out
    assert re.search(rf"^relayed because:\n  .*{re.escape(text)}.*: {len(clients)}$", plain, re.M), plain
    wait_until(lambda: text in steer.log(), what="the log says it")
    lines = [line for line in steer.log().splitlines() if "connections are relayed: " in line]
    assert len(lines) == 1, steer.log()


def two_clients(lab, family="v4", **kwargs):
    address = lab.edge.v4 if family == "v4" else lab.edge.v6
    return [lab.ca.connect(address, **kwargs) for _ in range(2)]


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_mptcp_listener(lab, auto, best, family):
    with Echo(lab.edge, protocol=IPPROTO_MPTCP):
        auto.ok("open")
        assert_relayed_because(auto, lab, best, "mptcp_listener", "the listener is MPTCP",
                               two_clients(lab, family))


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_remote_web_server(lab, auto, best, family):
    at = lab.ca.v4 if family == "v4" else lab.ca.v6
    with Echo(lab.ca, port=8443) as server:
        # Its answers go back through this host only if they are for this host.
        auto.ok("open", "--client-ip", "none", "--web-server", f"[{at}]:8443" if ":" in at else f"{at}:8443")
        assert_relayed_because(auto, lab, best, "elsewhere", "another network namespace", two_clients(lab, family))
        assert set(server.accepted) == {lab.edge.v4 if family == "v4" else lab.edge.v6}


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_remote_web_server_needs_a_choice(lab, auto, family):
    """Its answers to the clients' own addresses would go past this host, and every connection be lost."""
    at = f"{lab.ca.v4}:8443" if family == "v4" else f"[{lab.ca.v6}]:8443"
    said = f"the web server at {re.escape(at)} is not on this host.*--client-ip=proxy-v2.*--client-ip=transparent if"
    for verb in (["open"], ["challenge", "add", NAME, "A" * 43]):
        refused = auto.run(*verb, "--web-server", at)
        assert refused.code == 1 and re.search(said, refused.err) and refused.err.count("\n") == 1, refused
    auto.ok("open", "--web-server", at, "--client-ip", "transparent")
    auto.ok("open", "--name", "another", "--web-server", at, "--client-ip", "transparent")
    assert not auto.windows().keys() - {"default", "another"}


def test_remote_web_server_without_relays(lab, auto):
    """Who wants no relay does not get one for every visitor."""
    refused = auto.run("open", "--plane", "handoff", "--client-ip", "none", "--web-server", f"{lab.ca.v4}:8443")
    assert refused.code == 1 and refused.err.count("\n") == 1, refused
    assert "without --plane=handoff connections are relayed" in refused.err and not auto.windows(), refused


def test_remote_responder(lab, auto, best):
    cert, key = make_cert(lab.dir, "remote", ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"], f"DNS:{NAME}")
    responder = lab.ca.start("responder", ["openssl", "s_server", "-accept", f"{lab.ca.v4}:31443", "-alpn",
                                           "acme-tls/1", "-cert", cert, "-key", key, "-quiet"])
    wait_until(lambda: lab.ca.listening(31443), what="the responder listens")
    with Echo(lab.edge):
        auto.ok("open", "--domain", NAME, "--responder", f"{lab.ca.v4}:31443")
        for address in (lab.edge.v4, lab.edge.v6):
            assert tls_client(lab.ca, address, NAME, "acme-tls/1") == {
                "subject": "CN = remote", "alpn": "acme-tls/1"}
        [sock] = [lab.ca.connect(lab.edge.v4)]
        assert ask(sock) == b"over and back"
    status = auto.status()
    assert auto.relay_reasons() == ({"elsewhere": 2} if best == "handoff" else {"no_handoff": 3}), status
    assert status["counters"]["relayed_responder"] == 2, status
    without_relay = status["counters"]["handed_off_web"] + status["counters"]["read_in_passing"]
    assert without_relay == (1 if best == "handoff" else 0), status
    responder.kill()


def test_responder_without_reuseaddr(lab, auto, best):
    """What a validator's connection leaves for a minute must not keep the web server from its port."""
    with Once(lab.edge, lambda connection: connection.recv(65536), address="127.0.0.1", port=31443,
              reuse=False) as responder:
        with Echo(lab.edge):
            auto.ok("open", "--domain", NAME)
            assert "error" in tls_client(lab.ca, lab.edge.v4, NAME, "acme-tls/1")
            assert responder.result(longer(10)).startswith(b"\x16\x03\x01")
            assert auto.relay_reasons() == {"no_reuseaddr" if best == "handoff" else "no_handoff": 1}, auto.status()
        with Echo(lab.edge):
            assert [ask(sock) for sock in two_clients(lab)] == [b"over and back"] * 2


@pytest.fixture
def redirect(lab):
    """Clients come to another port, and a rule of the host leads them to 443."""
    lab.edge.run("nft", "-f", "-", input="""
table inet led {
    chain prerouting {
        type nat hook prerouting priority dstnat; policy accept;
        tcp dport 8443 redirect to :443
    }
}
""")
    yield 8443
    lab.edge.run("nft", "delete", "table", "inet", "led")


@pytest.mark.parametrize("client_ip", ["transparent", "none"])
@pytest.mark.parametrize("family", ["v4", "v6"])
def test_redirected(lab, auto, best, redirect, family, client_ip):
    """What is on the wire does not say what the sockets say: such can't be handed off. Others can."""
    with Echo(lab.edge) as server:
        auto.ok("open", "--client-ip", client_ip)
        clients = two_clients(lab, family, port=redirect)
        addresses = {sock.getsockname()[0] for sock in clients}
        assert_relayed_because(auto, lab, best, "translated", "DNAT or redirect", clients)
        ours = {lab.edge.v4 if family == "v4" else lab.edge.v6}
        assert set(server.accepted) == (addresses if client_ip == "transparent" else ours)


@pytest.fixture
def source_nat(lab):
    """What comes in gets another source address, and port, on its way to the socket."""
    lab.edge.run("nft", "-f", "-", input="""
table inet led {
    chain input {
        type nat hook input priority 100; policy accept;
        meta nfproto ipv4 tcp dport 443 snat ip to 198.51.100.200
        meta nfproto ipv6 tcp dport 443 snat ip6 to [2001:db8:443::200]:30000-40000
    }
}
""")
    yield {"v4": "198.51.100.200", "v6": "2001:db8:443::200"}
    lab.edge.run("nft", "delete", "table", "inet", "led")


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_source_nat(lab, auto, best, source_nat, family):
    """The web server sees what it saw before; on the wire it is another connection."""
    with Echo(lab.edge) as server:
        auto.ok("open")
        assert_relayed_because(auto, lab, best, "translated", "SNAT of what comes in", two_clients(lab, family))
        assert set(server.accepted) == {source_nat[family]}


@pytest.mark.parametrize("family, mss", [("v4", 500), ("v6", 1200)])
def test_tiny_mss(lab, auto, best, family, mss):
    def client():
        sock = socket.socket(socket.AF_INET if family == "v4" else socket.AF_INET6)
        sock.settimeout(longer(10))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, mss)
        sock.connect((lab.edge.v4 if family == "v4" else lab.edge.v6, 443))
        return sock

    with Echo(lab.edge):
        auto.ok("open")
        assert_relayed_because(auto, lab, best, "small_mss", "the client's MSS is below",
                               [lab.ca.inside(client) for _ in range(2)])


def test_syncookies_off(lab, auto, best):
    before = lab.edge.run("sysctl", "-n", "net.ipv4.tcp_syncookies").strip()
    lab.edge.run("sysctl", "-qw", "net.ipv4.tcp_syncookies=0")
    try:
        with Echo(lab.edge):
            auto.ok("open")
            assert_relayed_because(auto, lab, best, "syncookies_off", "net.ipv4.tcp_syncookies is 0", two_clients(lab))
    finally:
        lab.edge.run("sysctl", "-qw", f"net.ipv4.tcp_syncookies={before}")


def test_forced(lab, auto, best):
    with Echo(lab.edge):
        auto.ok("open", "--plane", "relay")
        assert_relayed_because(auto, lab, best, "forced", "--plane=relay", two_clients(lab))


def test_each_window_says_it(lab, auto):
    """A reason is logged once for each window, not for each connection."""
    with Echo(lab.edge):
        for _ in range(2):
            auto.ok("open", "--plane", "relay")
            for sock in two_clients(lab):
                assert ask(sock) == b"over and back"
            auto.ok("close", "--kill")
    assert auto.log().count("connections are relayed: ") == 2, auto.log()


# For how long?


def test_drain_waits(lab, relay, kernel):
    with Echo(lab.edge):
        open_relay(relay)
        sock, other = two_clients(lab)
        assert ask(sock) == ask(other) == b"over and back"
        relayed(relay, 2)

        began = time.monotonic()
        result = relay.run("close", "--drain=1s")
        assert time.monotonic() - began >= 1
        assert result.code == 0 and "2 connections are still" in result.err, result
        assert 'window "default" closed' in result.out, result
        result = relay.run("close", "--drain=0s", "--strict")
        assert result.code == 1 and "2 connections are still" in result.err, result

        # With nothing attached or listening: only they are left.
        wait_until(lambda: relay.status()["state"] == "lingering", what="all but the relays has gone")
        status = relay.status()
        assert status["windows"] == [] and status["pid"], status
        [closed] = status["closed_windows"]
        assert (closed["name"], closed["connections"], closed["relayed"]) == ("default", 2, 2), closed
        assert "closed window: default" in relay.run("status").out
        assert [o for o in kernel.objects() if o[0] == "link"] == []
        assert not [line for line in lab.edge.run("ss", "-Htlnp").splitlines() if "acme-steer" in line]

        waiting = lab.edge.start("drain", [BINARY, "close", "--drain", "--strict"])
        assert ask(sock) == ask(other) == b"over and back", "they go on"
        other.close()
        relayed(relay, 1)
        assert waiting.running()
        sock.close()
        assert waiting.wait(10) == 0 and waiting.stderr() == "", waiting.stderr()
        wait_until(lambda: not leftovers(lab, kernel, relay), what="nothing is left")


def test_drain_of_nothing(lab, relay, kernel):
    for command in (["--drain"], ["--kill"], ["--drain=1s", "--kill", "--all"]):
        result = relay.run("close", "--strict", *command)
        assert result.code == 0 and result.err == "", result
    with Echo(lab.edge):
        open_relay(relay)
        result = relay.run("close", "--strict", "--drain")
        assert result.code == 0 and result.err == "", result
        wait_until(lambda: not leftovers(lab, kernel, relay), what="nothing is left")


@pytest.mark.parametrize("options", [["--kill"], ["--drain=1s", "--kill"], ["--all", "--kill"]], ids=" ".join)
def test_kill(lab, relay, kernel, options):
    with Echo(lab.edge) as server:
        open_relay(relay)
        sock, other = two_clients(lab)
        assert ask(sock) == ask(other) == b"over and back"
        relayed(relay, 2)
        result = relay.run("close", "--strict", *options)
        assert result.code == 0 and result.err == "", result
        assert "2 relayed connections ended" in result.out, result
        for killed in (sock, other):
            with pytest.raises(ConnectionResetError):
                killed.recv(1)
        wait_until(lambda: not server.connections, what="the web server has lost them, too")
        wait_until(lambda: not leftovers(lab, kernel, relay), what="nothing is left")


def test_kill_when_a_client_waits(lab, relay, kernel):
    """The web server is not there: a connection that waits for it is ended, too."""
    with Echo(lab.edge):
        open_relay(relay)
    sock = lab.ca.connect(lab.edge.v4)
    sock.sendall(b"is anybody there?")
    wait_until(lambda: states(relay)["waiting"] == 1, what="it is kept")
    relay.ok("close", "--kill")
    with pytest.raises(ConnectionResetError):
        sock.recv(1)
    wait_until(lambda: not leftovers(lab, kernel, relay), what="nothing is left")


def test_windows_are_drained_apart(lab, relay):
    """--drain and --kill are about one window's connections."""
    with Echo(lab.edge), Echo(lab.edge, port=8443) as other_server:
        open_relay(relay, "--name", "a")
        open_relay(relay, "--name", "b", "--port", "8443")
        sock, other = lab.ca.connect(lab.edge.v4), lab.ca.connect(lab.edge.v4, 8443)
        assert ask(sock) == ask(other) == b"over and back"
        relayed(relay, 2)
        assert [w["relayed"] for w in relay.windows().values()] == [1, 1]
        relay.ok("close", "--name", "a", "--kill", "--strict")
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
        assert ask(other) == b"over and back"
        relay.ok("close", "--name", "a", "--drain", "--strict")
        assert list(relay.windows()) == ["b"]
        relay.ok("close", "--name", "b")
        # A window of the same name, open anew, is another one.
        open_relay(relay, "--name", "b", "--port", "8443")
        new = lab.ca.connect(lab.edge.v4, 8443)
        assert ask(new) == b"over and back"
        relayed(relay, 2)
        result = relay.run("close", "--name", "b", "--drain=0s", "--strict")
        assert result.code == 1 and result.err.count("1 connections are still") == 2, result
        relay.ok("close", "--all", "--kill", "--strict")
        for killed in (other, new):
            with pytest.raises(ConnectionResetError):
                killed.recv(1)
        wait_until(lambda: not other_server.connections, what="the web server has lost them, too")


def test_drain_interrupted(lab, relay):
    """Ctrl-C on a close that waits: the window is closed, the connections go on, others may ask."""
    with Echo(lab.edge):
        open_relay(relay)
        sock = lab.ca.connect(lab.edge.v4)
        assert ask(sock) == b"over and back"
        waiting = lab.edge.start("drain", [BINARY, "close", "--drain"])
        wait_until(lambda: not relay.windows(), what="the window is closed")
        assert waiting.running()
        waiting.stop(signal.SIGINT)
        assert ask(sock) == b"over and back"
        relayed(relay, 1)
        sock.close()
        wait_until(lambda: not relay.residents(), what="the resident process ends")


# Every byte


def blocks(total):
    """Blocks of no pattern, each another one; the same ones each time."""
    base = hashlib.shake_128(b"a relay's load").digest(CHUNK - 8)
    for number in range(-(-total // CHUNK)):
        yield (number.to_bytes(8, "big") + base)[:min(CHUNK, total - number * CHUNK)]


def send_all(sock, total):
    digest = hashlib.sha256()
    for block in blocks(total):
        digest.update(block)
        sock.sendall(block)
    sock.shutdown(socket.SHUT_WR)
    return digest.hexdigest()


def read_slowly(sock, total):
    """Reads to the end: in fits and starts at first, so that queues and pipes fill up to the sender; then as fast
    as it comes. (length, digest)"""
    digest = hashlib.sha256()
    buffer = bytearray(CHUNK)
    length = 0
    while True:
        if length < total // 16:
            # One small read in 5 ms; nothing is waited for here but time.
            select.select([], [], [], 0.005)
            n = sock.recv_into(buffer, 65536)
        else:
            n = sock.recv_into(buffer)
        if not n:
            return length, digest.hexdigest()
        length += n
        digest.update(memoryview(buffer)[:n])


@pytest.mark.parametrize("family", ["v4", "v6"])
@pytest.mark.parametrize("direction", ["upload", "download"])
def test_gigabyte(lab, relay, direction, family):
    """Byte for byte, to a slow reader; a half-closed connection takes the reader's answer back."""
    total = max(CHUNK, round((GIB if family == "v4" else GIB // 8) * less(1000) / 1000))

    def reader(sock):
        length, digest = read_slowly(sock, total)
        sock.sendall(f"{length} {digest}".encode())
        sock.shutdown(socket.SHUT_WR)
        return length, digest

    def sender(sock):
        digest = send_all(sock, total)
        answer = b""
        while part := sock.recv(4096):
            answer += part
        return answer.decode(), f"{total} {digest}"

    def served(sock):
        sock.settimeout(longer(60))
        assert sock.recv(1) == b"!"
        return reader(sock) if direction == "upload" else sender(sock)

    with Once(lab.edge, served) as server:
        open_relay(relay)
        sock = lab.ca.connect(lab.edge.v4 if family == "v4" else lab.edge.v6, timeout=60)
        sock.sendall(b"!")
        relayed(relay, 1)
        relay.close()
        mine = sender(sock) if direction == "upload" else reader(sock)
        theirs = server.result(longer(60))
        sock.close()
    answer, wanted = mine if direction == "upload" else theirs
    assert answer == wanted
    wait_until(lambda: not relay.residents(), what="its last connection has ended")


# At what cost?


def private_bytes(pid):
    """Memory of a process that is nobody else's."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as f:
        return 1024 * sum(int(kib) for kib in re.findall(r"^(?:Private_Dirty|Private_Clean|Swap): *(\d+) kB", f.read(),
                                                         re.M))


def test_idle_memory(lab, relay):
    # The process that relays has two descriptors for each, and so have we, with both ends in our hands.
    # Above 15/16 of the relays that it may have nothing new is steered.
    # Memory is measured, not speed: as many on every machine.
    count = min(10000, allow_descriptors(25000) * 7 // 16 * 15 // 16 - 100)
    assert count > 8000, "RLIMIT_NOFILE is too low for this test: set it to 25000 or more"

    batch = 50  # more at once, and some pass by the sniffer
    number_open = 0

    def connect(number):
        sources = [s for s in lab.sources if ":" not in s]
        sockets = []
        for i in range(number):
            sock = socket.socket()
            sock.settimeout(longer(10))
            sock.bind((sources[i % len(sources)], 0))
            sock.connect((lab.edge.v4, 443))
            sock.sendall(b"!")
            sockets.append(sock)
        return sockets

    def steered():
        """All but those that came by while the sniffer was busy: (relayed, on the way there)."""
        status = relay.ask()
        passed = sum(n for name, n in status["counters"].items() if name.startswith("passed_") and name != "passed_own")
        return status["connections"]["relayed"], number_open - passed

    def connect_and_wait(number):
        """So many more that are relayed."""
        nonlocal number_open
        sockets = []
        wanted = steered()[0] + number
        while (missing := wanted - steered()[0]) > 0:
            some = lab.ca.inside(connect, min(batch, missing))
            assert all(sock.recv(1) == b"!" for sock in some)
            number_open += len(some)
            wait_until(lambda: len(set(steered())) == 1, what="they are relayed")
            sockets += some
        return sockets

    with Echo(lab.edge):
        open_relay(relay)
        warm = connect_and_wait(batch)
        pid = relay.pid()
        before = private_bytes(pid)
        sockets = connect_and_wait(count)
        after = private_bytes(pid)
        descriptors = len(os.listdir(f"/proc/{pid}/fd"))
        for sock in (*warm, *sockets):
            sock.close()
    cost = (after - before) / count
    print(f"{cost:.0f} bytes for each of {count} idle connections, {descriptors} descriptors")
    assert cost < IDLE_BYTES, (before, after)
    assert descriptors < 2 * (batch + count) + 200, "pipes are held by idle connections"


# Clients whose address can't be kept


def link_local(netns):
    text = netns.run("ip", "-6", "-o", "address", "show", "dev", netns.device, "scope", "link")
    return re.search(r"inet6 (fe80:[^/]*)/", text)[1]


def link_local_client(lab):
    address = link_local(lab.edge)

    def connect():
        sock = socket.socket(socket.AF_INET6)
        sock.settimeout(longer(10))
        sock.connect((address, 443, 0, socket.if_nametoindex(lab.ca.device)))
        return sock

    wait_until(lambda: "tentative" not in lab.edge.run("ip", "-6", "address"), what="the address can be used")
    wait_until(lambda: "tentative" not in lab.ca.run("ip", "-6", "address"), what="the address can be used")
    return lab.ca.inside(connect)


def test_link_local_client(lab, relay):
    """transparent is impossible for it: it is relayed all the same, and counted."""
    with Echo(lab.edge) as server:
        open_relay(relay, client_ip="transparent")
        assert ask(link_local_client(lab)) == b"over and back"
        assert server.accepted == [f"{link_local(lab.edge)}"], server.accepted
        assert relay.counter("client_ip_lost") == 1
        assert ask(lab.ca.connect(lab.edge.v6, source=lab.ca.v6)) == b"over and back"
        assert server.accepted[1:] == [lab.ca.v6], server.accepted
        assert relay.counter("client_ip_lost") == 1
        relay.ok("close", "--kill")


def test_link_local_client_of_loopback(lab, relay):
    """It must not look like this host itself to a web server that trusts it."""
    with Echo(lab.edge, address="::1", port=8443) as server:
        open_relay(relay, "--web-server", "[::1]:8443", client_ip="transparent")
        sock = link_local_client(lab)
        with pytest.raises(ConnectionResetError):
            ask(sock)
        status = relay.status()
        assert status["counters"]["no_client_ip"] == 1, status
        assert sum(status["connections"].values()) == 0 and server.accepted == [], status
