# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""Data that arrives while a connection is in neither socket."""

import collections
import os
import signal

import pytest

from lab import less, longer, sh, wait_until
from load import assert_hammered, start_hammer
from steer import BINARY, came


def held_by(backlog):
    """So many connections, at most, wait in the accept queue: sk_acceptq_is_full() is asked without a lock."""
    return backlog + os.cpu_count()


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


def hammer(lab, steer, connections, *options, targets=None, timeout=100):
    return start_hammer(lab, steer.plane, connections, *options, targets=targets).finish(timeout)


def assert_steered(steer, connections):
    """Practically all of them changed hands, and none was given up."""
    if steer.plane == "none":
        return
    counters = steer.status()["counters"]
    assert counters["lost"] == 0, counters
    assert came(counters) >= 0.95 * connections, counters


def test_twelve_segments(lab, server, steer, rps):
    connections = less(20000)
    bytes_seen = server()
    steer.open()
    result = hammer(lab, steer, connections)
    assert_steered(steer, connections)
    steer.close()
    assert_hammered(result, connections)
    seen = bytes_seen.stop_and_result()
    assert seen["ok"] == connections and seen["bad"] == 0, seen["reasons"]


def test_upload_behind_hello(lab, server, steer, rps):
    connections = less(300)
    server()
    steer.open()
    result = hammer(lab, steer, connections, "--upload", 5_000_000)
    assert_steered(steer, connections)
    steer.close()
    assert_hammered(result, connections)


def peers_per_listener(log, listeners):
    """How many addresses and ports each listening socket got. A listener is chosen by them, so those that a relay uses
    again, for a client that is back, say nothing new."""
    peers = set()
    for line in log.read_text().splitlines():
        address, port, listener, _what = line.split(" ", 3)
        peers.add((address, port, int(listener)))
    counts = collections.Counter(listener for _address, _port, listener in peers)
    return [counts[i] for i in range(listeners)]


@pytest.mark.parametrize("listeners", [["--dual"], ["--reuseport", "4"],
                                       ["--dual", "--reuseport", "4"]], ids=" ".join)
def test_listeners(lab, server, steer, tmp_path, listeners):
    connections = less(4000)
    bytes_seen = server(*listeners, "--log", tmp_path / "log")
    steer.open()
    result = hammer(lab, steer, connections)
    assert_steered(steer, connections)
    steer.close()
    assert_hammered(result, connections)
    per_listener = bytes_seen.stop_and_result()["per_listener"]
    assert sum(per_listener) == connections, per_listener
    peers = peers_per_listener(tmp_path / "log", len(per_listener))
    assert sum(peers) >= (less(400) if steer.plane == "relay" else 0.95 * connections), peers
    share = sum(peers) / len(peers)
    slack = 5 / share ** 0.5  # standard deviations
    assert all(abs(n - share) < slack * share for n in peers), peers


@pytest.fixture
def no_cookies(lab, plane):
    """A relay's own connections are, to the web server, any client's. Beyond a full queue its kernel answers some of
    them by a SYN cookie, takes them for established without room for them, and in the end resets them, whoever the
    client is. Without cookies it leaves their SYN unanswered, and then a relay has to wait and lose nobody."""
    if plane != "relay":
        yield
        return
    before = lab.edge.run("sysctl", "-n", "net.ipv4.tcp_syncookies").strip()
    lab.edge.run("sysctl", "-qw", "net.ipv4.tcp_syncookies=0")
    yield
    lab.edge.run("sysctl", "-qw", f"net.ipv4.tcp_syncookies={before}")


def cookies_of_full_queues(lab):
    """SYN cookies that the edge's kernel has sent because a queue was full."""
    return int(lab.edge.run("nstat", "-asz", "TcpExtTCPReqQFullDoCookies").splitlines()[-1].split()[1])


def assert_delayed(result, clients):
    """All are served in the end."""
    assert result["ok"] == clients, result


@pytest.mark.needs_steer  # without it, connections beyond the queue are sometimes reset
@pytest.mark.parametrize("family", ["v4", "v6"])
def test_full_accept_queue_delays(lab, server, steer, no_cookies, family):
    target = [t for t in lab.targets() if t.startswith("[") == (family == "v6")]
    clients, backlog = 20, 4
    full = server("--backlog", backlog, "--hold")
    steer.open()
    load = start_hammer(lab, steer.plane, clients, "--threads", clients,
                        "--hung-ms", longer(20000), targets=target)

    def queue_is_full():
        lines = lab.edge.run("ss", "-Htln", "sport", "=", ":443").splitlines()
        return any(int(line.split()[1]) > backlog for line in lines)

    def rest_is_kept():
        connections = steer.status()["connections"]
        return sum(connections.values()) >= clients - held_by(backlog)

    wait_until(queue_is_full, what="the accept queue is full")
    if steer.plane != "none":
        wait_until(rest_is_kept, what="the other connections are kept")
    full.send_signal(signal.SIGUSR1)
    result = load.finish()
    assert_delayed(result, clients)
    if steer.plane != "none":
        assert steer.counter("lost") == 0
    steer.close()


@pytest.mark.needs_steer
def test_closing_with_full_accept_queue(lab, server, steer, no_cookies):
    """close, and the end of the resident process, wait for what is still kept."""
    clients, backlog = 12, 4
    full = server("--backlog", backlog, "--hold")
    steer.open()
    load = start_hammer(lab, steer.plane, clients, "--threads", clients,
                        "--hung-ms", longer(20000), targets=lab.targets()[:1])
    wait_until(lambda: sum(steer.status()["connections"].values()) >= clients - held_by(backlog),
               what="connections are kept")
    closing = lab.edge.start("close", [BINARY, "close"])
    wait_until(lambda: not steer.windows() or not closing.running(), what="the window is closed")
    full.send_signal(signal.SIGUSR1)
    result = load.finish()
    assert_delayed(result, clients)
    assert closing.wait(20) == 0


@pytest.mark.needs_steer
def test_cookies_of_a_full_accept_queue(lab, server, steer):
    """A relay loses no more connections than the web server's kernel itself resets; a hand-off none."""
    clients, backlog = 20, 4
    full = server("--backlog", backlog, "--hold")
    cookies = cookies_of_full_queues(lab)
    steer.open()
    load = start_hammer(lab, steer.plane, clients, "--threads", clients,
                        "--hung-ms", longer(20000), targets=lab.targets()[:1])
    wait_until(lambda: sum(steer.status()["connections"].values()) >= clients - held_by(backlog),
               what="connections are kept")
    full.send_signal(signal.SIGUSR1)
    result = load.finish()
    steer.close()
    cookies = cookies_of_full_queues(lab) - cookies if steer.plane == "relay" else 0
    assert result["ok"] + result["reset"] == clients and result["reset"] <= cookies, (result, cookies)
