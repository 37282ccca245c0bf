# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""The limits of user/limit.h that no other test reaches (silent clients: test_overload; descriptors: the same)."""

import os
import pathlib
import re
import socket
import subprocess
import sys

import pytest

from lab import HERE, longer, wait_until
from peers import Echo
from servers import SMALL, get, request_on, tls_on
from steer import BINARY, plane_options

sys.path.insert(0, str(HERE / "tools"))
import oddclient  # noqa: E402  pylint: disable=wrong-import-position

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
DESCRIPTORS = 1024       # of the resident process
PLACES = 64              # CONN_MAX_UNCLASSIFIED_PER_SOURCE, of one worker
WORKERS = 4              # at most: they don't count under a lock
RELAYS = DESCRIPTORS * 7 // 16
PAUSE = RELAYS * 15 // 16  # nothing new is steered from here on
RESUME = RELAYS * 7 // 8
PORTS = 8


@pytest.fixture
def few(lab, steer):
    """A resident process that may have few relays."""
    process = lab.edge.start("serve", ["prlimit", f"--nofile={DESCRIPTORS}:{DESCRIPTORS}", BINARY, "serve"])
    steer.wait_for(process)
    yield process
    process.kill()


@pytest.mark.needs_steer
def test_relays(lab, nginx, steer, few):
    """At the limit new connections go straight to the web server; when relays end they are steered again."""
    steer.ok("open", *plane_options("relay"))
    kept = []

    def keep():
        kept.append(tls_on(lab.ca.connect((lab.edge.v4, lab.edge.v6)[len(kept) % 2])))
        assert request_on(kept[-1]) == SMALL

    for _ in range(PAUSE):
        keep()
    wait_until(lambda: steer.ask()["relay_limit"]["reached"], what="the limit is seen")
    before = steer.ask()
    assert before["relay_limit"] == {"connections": before["connections"]["relayed"], "max": RELAYS, "reached": True,
                                     "times": 1}
    assert before["connections"]["relayed"] == PAUSE
    for _ in range(20):
        keep()
    after = steer.ask()
    assert after["counters"]["accepted"] == before["counters"]["accepted"]
    assert after["counters"]["passed_lease_over"] >= before["counters"]["passed_lease_over"] + 20
    assert after["counters"]["lost"] == after["counters"]["server_down"] == 0
    # Nobody notices: those that are relayed go on, as do those that are not.
    for tls in kept:
        assert request_on(tls) == SMALL
    while steer.ask()["connections"]["relayed"] >= RESUME:
        kept.pop(0).close()
    wait_until(lambda: not steer.ask()["relay_limit"]["reached"], what="it steers again")
    before = steer.ask()["counters"]["accepted"]
    assert get(lab, lab.edge.v4) == SMALL
    assert steer.ask()["counters"]["accepted"] == before + 1
    for tls in kept:
        tls.close()
    steer.close()


@pytest.mark.needs_steer
def test_relays_come_at_once(lab, nginx, steer, few, best):
    """More than there may be, before steering ends: the others are handed off, or wait until a relay ends."""
    steer.ok("open", *plane_options("relay"), "--sniff-timeout", "60s")
    many = RELAYS + 20
    sources = [source for source in lab.sources if ":" not in source]
    assert many / len(sources) < PLACES
    # Silent so far, they are waited for, and none is relayed; then all of them have their say.
    sockets = [lab.ca.connect(lab.edge.v4, source=sources[i % len(sources)]) for i in range(many)]
    wait_until(lambda: steer.ask()["connections"]["sniffing"] == many, what="they are accepted")
    for sock in sockets:
        sock.settimeout(longer(20))
        sock.sendall(b"G")
    wait_until(lambda: steer.ask()["counters"]["over_relays"] >= many - RELAYS - WORKERS, what="they are too many")
    assert RELAYS <= steer.ask()["relay_limit"]["connections"] < RELAYS + WORKERS
    for sock in sockets:
        sock.sendall(b"ET / HTTP/1.0\r\n\r\n")
    for sock in sockets:
        answer = b""
        while data := sock.recv(4096):
            answer += data
        assert b"400 The plain HTTP request" in answer, answer
        sock.close()
    counters = steer.ask()["counters"]
    assert counters["lost"] == counters["server_down"] == 0, counters
    if best == "handoff":
        assert counters["handed_off_web"] > 0, counters
    assert steer.ask()["relay_limit"]["max"] == RELAYS
    steer.close()


def cpu_seconds(pid):
    """What the process has used so far."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.needs_steer
@pytest.mark.steered
def test_urgent_data(lab, steer):
    """
    A ClientHello that is there, and can't be peeked at beyond the urgent mark: the socket is readable all the time. It
    costs a look, and not a processor; and the web server gets every byte.
    """
    hello = oddclient.client_hello("www.example.test", alpn=b"acme-tls/1")
    with Echo(lab.edge, port=8443):
        steer.open("--port", "8443", "--sniff-timeout", "2s")
        pid = steer.pid()
        with lab.ca.connect(lab.edge.v4, 8443) as sock:
            before = cpu_seconds(pid)
            sock.send(hello[:50], socket.MSG_OOB)
            sock.sendall(hello[50:])
            wait_until(lambda: steer.ask()["counters"]["timed_out"] == 1, what="it is waited for",
                       interval=0.2)  # the answers cost it something, too
            used = cpu_seconds(pid) - before
            assert used < 0.5, f"{used} s of the processor in 2 s"
            got = b""
            while len(got) < len(hello) and (data := sock.recv(65536)):
                got += data
            assert got == hello
        steer.close()


@pytest.fixture
def few_ports(lab, steer):
    """A resident process with few source ports to connect from."""
    name = "net.ipv4.ip_local_port_range"
    usual = lab.edge.run("sysctl", "-n", name).split()
    lab.edge.run("sysctl", "-qw", f"{name}=40000 {40000 + PORTS - 1}")
    process = lab.edge.start("serve", [BINARY, "serve"])
    steer.wait_for(process)
    yield
    process.kill()
    lab.edge.run("sysctl", "-qw", f"{name}={' '.join(usual)}")


@pytest.mark.needs_steer
def test_no_source_port(lab, nginx, steer, few_ports):
    """One has to wait for a port; then new connections go straight to the web server, and nobody else waits."""
    steer.ok("open", "--plane", "relay", "--client-ip", "none")
    kept = [tls_on(lab.ca.connect(lab.edge.v4)) for _ in range(PORTS)]
    assert [request_on(tls) for tls in kept] == [SMALL] * PORTS
    waiting = lab.ca.connect(lab.edge.v4)
    waiting.settimeout(longer(20))
    waiting.sendall(b"GET / HTTP/1.0\r\n\r\n")
    wait_until(lambda: steer.ask()["relay_limit"]["reached"], what="the lack of ports is seen")
    before = steer.ask()["counters"]
    for _ in range(10):
        assert get(lab, lab.edge.v4) == SMALL
    after = steer.ask()["counters"]
    assert after["accepted"] == before["accepted"]
    assert after["passed_lease_over"] >= before["passed_lease_over"] + 10
    kept.pop().close()
    answer = b""
    while data := waiting.recv(4096):
        answer += data
    waiting.close()
    assert b"400 The plain HTTP request" in answer, answer
    wait_until(lambda: not steer.ask()["relay_limit"]["reached"], what="it steers again")
    assert get(lab, lab.edge.v4) == SMALL
    last = steer.ask()["counters"]
    assert last["accepted"] == after["accepted"] + 1 and last["lost"] == last["server_down"] == 0
    for tls in kept:
        tls.close()
    steer.close()


def test_manual_has_them():
    """The table in the manual, and user/limit.h, are one."""
    header = subprocess.run(["cpp", "-dM", ROOT / "user" / "limit.h"], capture_output=True, text=True, check=True).stdout
    defined = dict(re.findall(r"^#define (\w+) (.+)$", header, re.M))
    manual = (ROOT / "deploy" / "man" / "acme-steer.8").read_text(encoding="utf-8")
    table = manual[manual.index(".Sh LIMITS"):manual.index(".Sh SEE ALSO")]
    rows = dict(re.findall(r"^\.It (.+?) Ta (.+?) Ta ", table, re.M))
    for row, names in {
            "unclassified connections": ["CONN_MAX_UNCLASSIFIED"],
            "of one address, IPv6 /64": ["CONN_MAX_UNCLASSIFIED_PER_SOURCE"],
            "bytes of a ClientHello": ["HELLO_MAX_HANDSHAKE"],
            "waiting for a ClientHello": ["WINDOW_MAX_SNIFF_MS"],
            "waiting for a responder": ["CONN_RESPONDER_WAIT_NS"],
            "waiting for a web server": ["CONN_SERVER_WAIT_NS"],
            "waiting for its queue": ["CONN_QUEUE_WAIT_NS"],
            "relayed connections": ["RELAY_MAX_CONNS", "RELAY_FDS_16THS"],
            "windows": ["WINDOW_MAX"],
            "ports, names of a window": ["WINDOW_MAX_PORTS", "WINDOW_MAX_DOMAINS"],
            "challenges, their ports": ["CHALLENGE_MAX", "CHALLENGE_MAX_PORTS"],
            "responder's handshakes": ["ANSWER_MAX_CONNS", "ANSWER_HANDSHAKE_NS"],
            "control conversations": ["CTL_MAX_CONNS"],
            "bytes, lines of a request": ["CTL_MAX_REQUEST", "CTL_MAX_PAIRS"],
            "time to send it": ["CTL_REQUEST_TIMEOUT_S"],
            "relayed without a port": ["ROUTES_NO_PORTS_NS"],
            "close with Fl -drain": ["CLOSING_MAX_DRAIN"]}.items():
        said = [int(n) for n in re.findall(r"\d+", rows[row])]
        for name in names:
            number = int(re.search(r"\d+", defined[name].replace("UINT64_C", ""))[0])
            assert (number // 1000 if name.endswith("_MS") else number) in said, (row, rows[row], name, number)
