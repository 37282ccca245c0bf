# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""Data that arrives while a connection is in neither socket."""

import signal

import pytest

from lab import sh, wait_until
from load import assert_hammered
from steer import BINARY


@pytest.fixture
def server(lab):
    """byteserver on :443; started by the test, stopped here."""
    started = []

    def start(*options):
        server = lab.edge.tool("byteserver", *options)
        wait_until(lambda: lab.edge.listening(443), what="byteserver listens")
        started.append(server)
        return server

    yield start
    for server in started:
        server.stop()


@pytest.fixture(params=["no RPS", "RPS to CPU 0", "RPS to CPU 1"])
def rps(lab, request):
    """Packets are received on one CPU, whoever sends them."""
    path = f"/sys/class/net/{lab.edge.device}/queues/rx-0/rps_cpus"

    def write(mask):
        # Only `ip netns exec` mounts the /sys of that namespace.
        sh("ip", "netns", "exec", lab.edge.name, "sh", "-c", f"echo {mask} > {path}")

    mask = {"no RPS": 0, "RPS to CPU 0": 1, "RPS to CPU 1": 2}[request.param]
    write(mask)
    yield mask
    write(0)


def hammer(lab, connections, *options, targets=None, timeout=100):
    load = lab.ca.tool("hammer", "--connections", connections, *lab.source_options(), *options,
                       *(targets or lab.targets()), progress=False)
    return load.finish(timeout)


def assert_steered(steer, connections):
    """Practically all of them changed hands, and none was given up."""
    if steer.plane == "none":
        return
    counters = steer.status()["counters"]
    assert counters["lost"] == 0, counters
    assert counters["accepted"] >= 0.95 * connections, counters


def test_twelve_segments(lab, server, steer, rps):
    connections = 20000
    bytes_seen = server()
    steer.open()
    result = hammer(lab, connections)
    assert_steered(steer, connections)
    steer.close()
    assert_hammered(result, connections)
    seen = bytes_seen.stop_and_result()
    assert seen["ok"] == connections and seen["bad"] == 0, seen["reasons"]


def test_upload_behind_hello(lab, server, steer, rps):
    connections = 300
    server()
    steer.open()
    result = hammer(lab, connections, "--upload", 5_000_000)
    assert_steered(steer, connections)
    steer.close()
    assert_hammered(result, connections)


@pytest.mark.parametrize("listeners", [["--dual"], ["--reuseport", "4"],
                                       ["--dual", "--reuseport", "4"]], ids=" ".join)
def test_listeners(lab, server, steer, listeners):
    connections = 4000
    bytes_seen = server(*listeners)
    steer.open()
    result = hammer(lab, connections)
    assert_steered(steer, connections)
    steer.close()
    assert_hammered(result, connections)
    per_listener = bytes_seen.stop_and_result()["per_listener"]
    share = connections / len(per_listener)
    assert all(0.75 * share < n < 1.25 * share for n in per_listener), per_listener


@pytest.mark.needs_steer  # without it, connections beyond the queue are sometimes reset
@pytest.mark.parametrize("family", ["v4", "v6"])
def test_full_accept_queue_delays(lab, server, steer, family):
    target = [t for t in lab.targets() if t.startswith("[") == (family == "v6")]
    clients, backlog = 20, 4
    full = server("--backlog", backlog, "--hold")
    steer.open()
    load = lab.ca.tool("hammer", "--connections", clients, "--threads", clients, "--hung-ms", 20000,
                       *target, progress=False)

    def queue_is_full():
        lines = lab.edge.run("ss", "-Htln", "sport", "=", ":443").splitlines()
        return any(int(line.split()[1]) > backlog for line in lines)

    def rest_is_kept():
        connections = steer.status()["connections"]
        return sum(connections.values()) >= clients - backlog - 1

    wait_until(queue_is_full, what="the accept queue is full")
    if steer.plane != "none":
        wait_until(rest_is_kept, what="the other connections are kept")
    full.send_signal(signal.SIGUSR1)
    result = load.finish()
    assert result["ok"] == clients and result["failed"] == 0, result
    if steer.plane != "none":
        assert steer.counter("lost") == 0
    steer.close()


@pytest.mark.needs_steer
def test_closing_with_full_accept_queue(lab, server, steer):
    """close, and the end of the resident process, wait for what is still kept."""
    clients, backlog = 12, 4
    full = server("--backlog", backlog, "--hold")
    steer.open()
    load = lab.ca.tool("hammer", "--connections", clients, "--threads", clients, "--hung-ms", 20000,
                       lab.targets()[0], progress=False)
    wait_until(lambda: sum(steer.status()["connections"].values()) >= clients - backlog - 1,
               what="connections are kept")
    closing = lab.edge.start("close", [BINARY, "close"])
    wait_until(lambda: not steer.windows() or not closing.running(), what="the window is closed")
    full.send_signal(signal.SIGUSR1)
    result = load.finish()
    assert result["ok"] == clients and result["failed"] == 0, result
    assert closing.wait(20) == 0

