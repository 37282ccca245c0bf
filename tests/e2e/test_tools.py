# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""The load tools see what goes wrong: without that, no failures would mean nothing."""

import os
import signal

import pytest

from lab import Lab, kill_pid, wait_until
from load import (assert_all_ok, assert_hammered, more_connections, start_longlived,
                  start_tlsload, wait_established)
from servers import DOWNLOAD_BYTES, Nginx


def test_tlsload_direct(lab, nginx):
    since = nginx.log_position()
    load = start_tlsload(lab, nginx, "--seconds", 1, rate=200)
    result = load.finish()
    assert_all_ok(result, 190)
    assert len(nginx.peers(since)) == result["ok"]


def test_tlsload_sees_restart(lab, nginx):
    load = start_tlsload(lab, nginx, rate=300)
    nginx.restart()
    failed = wait_until(lambda: load.progress()[2], what="failures")
    result = load.stop_and_result()
    assert result["failed"] >= failed > 0
    assert any("refused" in reason or "reset" in reason for reason in result["reasons"]), result
    assert load.popen.returncode == 1
    assert result["failures"][0]["local_port"] > 0


@pytest.fixture
def own_lab():
    """For a web server that others would be disturbed by."""
    lab = Lab()
    yield lab
    lab.close()


def test_tlsload_keeps_its_sessions(own_lab):
    """A connection that fails takes no other one with it: those that resume the same session."""
    nginx = Nginx(own_lab.edge, early_data=True)
    load = start_tlsload(own_lab, nginx, "--early-fraction", 0.5, rate=300)
    for _ in range(20):
        for pid in nginx.workers():
            kill_pid(pid)
        more_connections(load, 60)
    result = load.stop_and_result()
    assert result["failed"] > 20, result
    assert "handshake: closed" not in result["reasons"], result["reasons"]


def test_tlsload_sees_hang(lab, nginx):
    """A server that takes connections and does not serve them."""
    workers = nginx.workers()
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    try:
        load = lab.ca.tool("tlsload", "--rate", 50, "--seconds", 0.2, "--timeout", 0.5,
                           "--expect-file", nginx.small, *lab.targets())
        result = load.finish()
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
    assert result["ok"] == 0 and any("timeout" in r for r in result["reasons"]), result


def test_tlsload_sees_wrong_body(lab, nginx, tmp_path):
    wrong = tmp_path / "wrong"
    body = bytearray(nginx.small.read_bytes())
    body[-1] ^= 1
    wrong.write_bytes(body)
    load = lab.ca.tool("tlsload", "--rate", 50, "--seconds", 0.1, "--expect-file", wrong,
                       *lab.targets())
    result = load.finish()
    assert result["ok"] == 0 and result["reasons"] == {
        "response: wrong byte in body": result["failed"]}


def test_longlived_direct(lab, nginx):
    load = start_longlived(lab, "--trios", 2)
    wait_established(load, 6)
    result = load.stop_and_result()
    assert_all_ok(result, 6)
    nginx.check_uploads(result)
    assert result["idle_requests"] == 4
    assert result["bytes_down"] == 2 * DOWNLOAD_BYTES


def test_longlived_sees_lost_connections(lab, nginx):
    load = start_longlived(lab)
    wait_established(load, 3)
    nginx.restart()
    # The download still trickles what the kernel has of it; it ends short at full speed.
    wait_until(lambda: load.progress()[2] >= 2, what="two failures")
    result = load.stop_and_result()
    assert result["failed"] == 3 and result["ok"] == 0
    assert load.popen.returncode == 1


@pytest.fixture
def byteserver(lab, nginx):
    """Takes nginx' place for a while."""
    started = []

    def start(*options):
        server = lab.edge.tool("byteserver", *options)
        wait_until(lambda: lab.edge.listening(443), what="byteserver listens")
        started.append(server)
        return server

    nginx.stop()
    yield start
    for server in started:
        server.stop()
    nginx.start()


def test_hammer_direct(lab, byteserver):
    server = byteserver()
    load = lab.ca.tool("hammer", "--connections", 2000, *lab.source_options(), *lab.targets(),
                       progress=False)
    assert_hammered(load.finish(), 2000)
    result = server.stop_and_result()
    assert result["ok"] == 2000 and result["bad"] == 0


def test_hammer_upload_direct(lab, byteserver):
    byteserver()
    load = lab.ca.tool("hammer", "--connections", 20, "--upload", 5000000, *lab.targets(),
                       progress=False)
    assert_hammered(load.finish(), 20)


def test_hammer_sees_wrong_byte(lab, byteserver):
    byteserver("--corrupt")
    load = lab.ca.tool("hammer", "--connections", 10, *lab.targets(), progress=False)
    result = load.finish()
    assert result["wrong"] == 10 and "server saw a wrong byte" in result["reasons"]


def test_hammer_sees_hung_and_refused(lab, byteserver):
    server = byteserver("--hold")
    load = lab.ca.tool("hammer", "--connections", 2, "--hung-ms", 300, *lab.targets(),
                       progress=False)
    assert load.finish()["hung"] == 2
    server.stop()
    load = lab.ca.tool("hammer", "--connections", 2, *lab.targets(), progress=False)
    result = load.finish()
    assert result["other"] == 2 and "connect: Connection refused" in result["reasons"]


def test_hammer_sees_reset(lab, byteserver):
    """A server that dies with connections in its hands."""
    server = byteserver("--hold")
    load = lab.ca.tool("hammer", "--connections", 2, *lab.targets(), progress=False)
    wait_until(lambda: len(lab.edge.run("ss", "-Htn", "state", "established").splitlines()) == 2,
               what="both are connected")
    server.kill()
    assert load.finish()["reset"] == 2
