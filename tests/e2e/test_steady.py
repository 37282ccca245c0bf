# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""A resident process holds, after many windows and connections, what it held after the first few.

    pytest tests/e2e/test_steady.py --steady=100 -s    the long form: 100 windows, 10,000 connections in each plane
"""

import collections
import os
import re

import pytest

from lab import wait_until
from load import assert_hammered, start_hammer
from sanitizer import Reports
from servers import tls_client
from steer import BINARY, RULE_PROTOCOL, Kernel, Steer, came, plane_options

pytestmark = pytest.mark.needs_steer

CONNECTIONS = 100      # in each window
WARM_UP = 5            # windows
CHALLENGE_EVERY = 5    # windows: its responder is a process that comes and goes
NAME = "steady.example.test"
DIGEST = "0" * 64
# What malloc keeps is not the same each time; of a sanitizer's, what has been freed is kept for a while as well.
NOISE_BYTES = 32 << 20 if Reports.built_in() else 128 << 10
BYTES_PER_CONNECTION = 16


def private_bytes(pid):
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as f:
        return 1024 * sum(int(kib) for kib in re.findall(r"^(?:Private_Dirty|Private_Clean|Swap): *(\d+) kB", f.read(),
                                                         re.M))


def descriptors(pid):
    """By kind: [timerfd], socket, bpf-map ..."""
    kinds = collections.Counter()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        kinds[re.sub(r":\[\d+\]$", "", os.readlink(f"/proc/{pid}/fd/{fd}"))] += 1
    return kinds


def posix_timers(pid):
    with open(f"/proc/{pid}/timers", encoding="ascii") as f:
        return len(re.findall("^ID:", f.read(), re.M))


def held(lab, kernel, steer):
    """All but memory, while no window is open."""
    processes = sorted(steer.processes())
    return {
        "descriptors": {pid: descriptors(pid) for pid in processes},
        "threads": {pid: len(os.listdir(f"/proc/{pid}/task")) for pid in processes},
        "timers": {pid: posix_timers(pid) for pid in processes},
        "BPF objects": collections.Counter((kind, name) for kind, _number, name in kernel.objects()),
        "sockets": sum(BINARY.name in line for line in lab.edge.run("ss", "-Hanp").splitlines()),
        "rules": [lab.edge.run("ip", family, *what) for family in ("-4", "-6")
                  for what in (("rule", "show"), ("route", "show", "table", "all", "proto", RULE_PROTOCOL))],
    }


def window(lab, steer, number):
    steer.open()
    result = start_hammer(lab, steer.plane, CONNECTIONS).finish()
    assert_hammered(result, CONNECTIONS)
    if number % CHALLENGE_EVERY == 0:
        steer.ok("challenge", "add", NAME, DIGEST, *plane_options(steer.plane))
        for address in (lab.edge.v4, lab.edge.v6):
            assert tls_client(lab.ca, address, NAME, "acme-tls/1")["alpn"] == "acme-tls/1"
        steer.ok("challenge", "remove", NAME)
    steer.close()


@pytest.fixture(scope="module")
def server(lab):
    server = lab.edge.tool("byteserver")
    wait_until(lambda: lab.edge.listening(443), what="byteserver listens")
    return server


@pytest.mark.parametrize("plane", [pytest.param("handoff", marks=pytest.mark.of_handoff), "relay"])
def test_steady(lab, server, plane, request):
    windows = request.config.getoption("steady")
    kernel = Kernel(lab)
    steer = Steer(lab.edge, plane)
    serve = steer.serve()

    def calm():
        """The last relays have ended, the workers, and the last responder."""
        return len(os.listdir(f"/proc/{serve.pid}/task")) == 1 and len(steer.processes()) == 2

    for number in range(WARM_UP):
        window(lab, steer, number)
    wait_until(calm, what="nothing is under way")
    before, bytes_before = held(lab, kernel, steer), private_bytes(serve.pid)
    for number in range(WARM_UP, WARM_UP + windows):
        window(lab, steer, number)
    wait_until(calm, what="nothing is under way")
    after = {}

    def as_before():
        after.update(held(lab, kernel, steer))
        return after == before

    try:
        wait_until(as_before)
    except AssertionError:
        assert after == before
    bytes_after = private_bytes(serve.pid)
    counters = steer.ask()["counters"]

    connections = windows * CONNECTIONS
    print(f"{plane}: {windows} windows, {connections} connections: {sum(before['descriptors'][serve.pid].values())} "
          f"descriptors, {sum(before['BPF objects'].values())} BPF objects, {before['threads'][serve.pid]} threads, "
          f"{sum(before['timers'].values())} timers, {before['sockets']} sockets as before; {bytes_before} private bytes, "
          f"then {bytes_after}")
    assert came(counters) >= (windows + WARM_UP) * CONNECTIONS * 0.9, counters
    assert counters["lost"] == 0, counters
    assert bytes_after - bytes_before < NOISE_BYTES + connections * BYTES_PER_CONNECTION
    # In order: a build with a leak sanitizer looks for leaks then.
    assert serve.stop() == 0
