# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""However a window ends, port 443 is the web server's, and nothing is left."""

import os
import signal
import subprocess
import time

import pytest

from lab import kill_pid, less, longer, wait_until
from load import (assert_all_ok, start_longlived, start_tlsload, wait_established)
from servers import SMALL, get, get_on, openssl_responder, responder_cert, tls_client
from steer import BINARY, came, leftovers, plane_options

pytestmark = pytest.mark.needs_steer

WEB = "CN = web"


def assert_nothing_left(lab, kernel, steer, timeout=10, killed=False):
    left = []

    def nothing():
        left[:] = leftovers(lab, kernel, steer, killed)
        return not left

    try:
        wait_until(nothing, timeout, interval=0.05)
    except AssertionError:
        raise AssertionError(f"left after {timeout} s: {left}") from None


def test_close_leaves_nothing(lab, nginx, steer, kernel):
    assert leftovers(lab, kernel, steer) == []
    load = start_tlsload(lab, nginx, rate=200)
    steer.open()
    wait_until(lambda: steer.came() > less(50), what="connections come in the window")
    assert leftovers(lab, kernel, steer) != [], "an open window can be seen"
    longlived = start_longlived(lab)
    wait_established(longlived, 3)
    steer.close()
    # With handed-off connections alive: they are nobody's but the web server's.
    if steer.plane != "relay":
        assert_nothing_left(lab, kernel, steer)
    assert_all_ok(longlived.stop_and_result(), 3)
    assert_all_ok(load.stop_and_result())
    assert_nothing_left(lab, kernel, steer)
    assert steer.run("status").code == 3


def test_serve_stays(lab, nginx, steer, kernel):
    """Between two windows nothing is attached and nobody listens; what was counted goes on."""
    def attached():
        listeners = [line for line in lab.edge.run("ss", "-Htlnp").splitlines() if "acme-steer" in line]
        return listeners + [o for o in kernel.objects() if o[0] == "link"]

    serve = steer.serve()
    loaded = {o for o in kernel.objects() if o[0] == "prog"}
    assert loaded and not attached()
    for window in (1, 2):
        steer.open()
        for address in (lab.edge.v4, lab.edge.v6):
            assert get(lab, address) == SMALL
        assert attached(), "an open window can be seen"
        steer.close()
        if steer.plane != "relay":
            wait_until(lambda: not attached(), what="nothing is attached")
            assert {o for o in kernel.objects() if o[0] == "prog"} == loaded, "the same programs, kept"
        counters = steer.status()["counters"]
        assert came(counters) == 2 * window, counters
        assert steer.plane == "auto" or counters["steered"] >= 2 * window, counters
        for address in (lab.edge.v4, lab.edge.v6):
            assert get(lab, address) == SMALL
    assert serve.stop() == 0
    assert_nothing_left(lab, kernel, steer)


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_kill_9(lab, nginx, steer, kernel, family):
    address = lab.edge.v4 if family == "v4" else lab.edge.v6
    targets = [t for t in lab.targets() if t.startswith("[") == (family == "v6")]
    for _ in range(5):
        steer.open()
        longlived = start_longlived(lab, targets=targets)
        wait_established(longlived, 3)
        assert steer.came() >= 3
        kill_pid(steer.pid(), signal.SIGKILL)
        for _ in range(5):
            assert get(lab, address) == SMALL
        result = longlived.stop_and_result()
        if steer.plane != "relay":
            assert_all_ok(result, 3)
            nginx.check_uploads(result)
    assert_nothing_left(lab, kernel, steer, killed=True)
    steer.open()
    steer.close()
    assert_nothing_left(lab, kernel, steer)


def test_kill_term(lab, nginx, steer, kernel):
    """An orderly end, as of a service that is stopped: nobody loses anything."""
    load = start_tlsload(lab, nginx, rate=200)
    steer.open()
    wait_until(lambda: steer.came() > less(50), what="connections come in the window")
    kill_pid(steer.pid(), signal.SIGTERM, timeout=15)
    assert_all_ok(load.stop_and_result())
    assert_nothing_left(lab, kernel, steer)


def test_stop_signal(lab, nginx, steer, kernel):
    """A stopped process: within 1 s new connections reach the web server; the others wait for it."""
    steer.open()
    get(lab)
    pid = steer.pid()
    load = lab.ca.tool("tlsload", "--rate", less(100), "--seconds", longer(2), "--expect-file", nginx.small,
                       "--timeout", longer(20), "--stall-ms", longer(150), *lab.targets())
    wait_until(lambda: load.progress()[1] > 10, what="the load is under way")
    stopped = time.monotonic()
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: time.monotonic() > stopped + 1.5, what="1.5 s of load on a stopped process")
    after = lab.ca.tool("tlsload", "--rate", less(100), "--seconds", longer(0.5), "--expect-file", nginx.small,
                        "--timeout", longer(10), *lab.targets())
    assert_all_ok(after.finish(), less(40))
    os.kill(pid, signal.SIGCONT)
    result = load.finish()
    assert_all_ok(result)
    late = [stall["start"] - stopped for stall in result["stalled"]]
    assert late or steer.plane == "auto", "the stopped process held nobody up?"
    assert max(late, default=0) <= 1.0, late
    steer.close()
    assert_nothing_left(lab, kernel, steer)


def test_deadline(lab, nginx, steer, kernel):
    """Nobody closes the window: it closes itself."""
    load = start_tlsload(lab, nginx, rate=200)
    opening = time.monotonic()
    steer.open("--ttl", "2s")
    opened = time.monotonic()
    assert 0 < steer.windows()["default"]["remaining_s"] <= 2
    wait_until(lambda: not steer.windows(), 5, "the window is closed", interval=0.05)
    closed = time.monotonic()
    assert closed - opening >= 1.9 and closed - opened <= 3
    came_by_then = steer.came()
    get(lab)
    assert steer.came() in (came_by_then, 0), "steered after the deadline"
    assert_all_ok(load.stop_and_result())
    assert_nothing_left(lab, kernel, steer)


def test_second_open_renews(lab, nginx, steer):
    steer.open("--ttl", "10s")
    result = steer.open("--ttl", "10m")
    assert "renewed" in result.out
    windows = steer.windows()
    assert list(windows) == ["default"]
    assert windows["default"]["remaining_s"] > 590
    assert len(steer.residents()) == 1
    steer.close()
    assert steer.windows() == {}


def test_second_close(lab, nginx, steer):
    assert steer.run("close").code == 0, "nothing was ever open"
    steer.open()
    for options in ((), (), ("--name", "nobody"), ("--all",), ("--all",)):
        result = steer.run("close", *options)
        assert result.code == 0 and result.err == "", result


def test_two_windows(lab, nginx, steer, kernel):
    """Closing one leaves the other."""
    responders = {name: openssl_responder(lab.edge, port, [f"{name}.example.test"], lab.dir)
                  for name, port in (("a", 31443), ("b", 31444))}
    for name, port in (("a", 31443), ("b", 31444)):
        steer.open("--name", name, "--domain", f"{name}.example.test",
                   "--responder", f"127.0.0.1:{port}")

    def validate(name):
        return {address: tls_client(lab.ca, address, f"{name}.example.test", "acme-tls/1")
                for address in (lab.edge.v4, lab.edge.v6)}

    def answered_by(name, port):
        return all(answer == {"subject": f"CN = responder-{port}", "alpn": "acme-tls/1"}
                   for answer in validate(name).values())

    assert answered_by("a", 31443), validate("a")
    assert answered_by("b", 31444), validate("b")
    assert answered_by("B", 31444), "names are compared without regard to case"
    steer.close("--name", "a")
    assert list(steer.windows()) == ["b"]
    assert answered_by("b", 31444), validate("b")
    for answer in validate("a").values():
        assert "no application protocol" in answer.get("error", ""), answer
    assert get(lab) == SMALL
    steer.close("--name", "b")
    for process in responders.values():
        process.kill()
    assert_nothing_left(lab, kernel, steer)


def test_responder_gone(lab, nginx, steer):
    """Nobody listens at the responder's address: after some seconds the web server has it."""
    direct = tls_client(lab.ca, lab.edge.v4, "www.example.test", "acme-tls/1")
    assert "no application protocol" in direct["error"]
    steer.open()
    for address in (lab.edge.v4, lab.edge.v6):
        assert tls_client(lab.ca, address, "www.example.test", "acme-tls/1", timeout=30) == direct
    assert get(lab) == SMALL
    assert steer.counter("lost") == 0
    steer.close()


def test_responder_comes_late(lab, nginx, steer):
    """lego opens its listener per name: a connection waits for it."""
    cert = responder_cert(31443, ["www.example.test"], lab.dir)
    steer.open()
    process = lab.ca.start("validator", [
        "openssl", "s_client", "-connect", f"{lab.edge.v4}:443", "-servername", "www.example.test",
        "-alpn", "acme-tls/1"])
    wait_until(lambda: sum(steer.status()["connections"].values()) > 0, what="it is kept")
    responder = openssl_responder(lab.edge, 31443, ["www.example.test"], lab.dir, cert=cert)
    wait_until(lambda: "CN = responder-31443" in process.stdout() or not process.running(),
               what="the validator has its answer")
    assert "CN = responder-31443" in process.stdout(), process.stderr()
    process.kill()
    responder.kill()
    steer.close()


@pytest.mark.steered
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGQUIT], ids=["at once", "gracefully"])
def test_web_server_restarts(lab, nginx, steer, how):
    """It can bind its port although we hold connections to it, and then it gets those."""
    steer.open("--sniff-timeout", "30s")
    silent = [lab.ca.connect(address, source=source) for address, source in
              ((lab.edge.v4, lab.ca.v4), (lab.edge.v6, lab.ca.v6)) for _ in range(3)]
    wait_until(lambda: steer.counter("accepted") >= len(silent) or
               sum(steer.status()["connections"].values()) >= len(silent), what="they are held")
    for sock in silent[:2]:
        assert get_on(sock) == SMALL, "and serve some, so that other states are held too"
    nginx.stop(how)
    nginx.start()
    for sock in silent[2:]:
        assert get_on(sock) == SMALL
    for address in (lab.edge.v4, lab.edge.v6):
        assert get(lab, address) == SMALL
    steer.close()


def test_web_server_away(lab, nginx, steer):
    """While there is no web server, a connection waits some seconds for it."""
    steer.open()
    get(lab)
    nginx.stop()
    sock = lab.ca.connect(lab.edge.v4)
    load = lab.ca.tool("tlsload", "--rate", 20, "--seconds", 0.5, "--expect-file", nginx.small,
                       *lab.targets())
    wait_until(lambda: sum(steer.status()["connections"].values()) >= 10, what="they are kept")
    nginx.start()
    assert_all_ok(load.finish(), 9)
    assert get_on(sock) == SMALL
    steer.close()


def test_open_keeps_no_descriptor(lab, nginx, steer):
    """A hook that holds a pipe open would hang the ACME client."""
    ours, hook = os.pipe()
    argv = steer.netns.command([BINARY, "open", *plane_options(steer.plane)])
    done = subprocess.run(argv, stdout=hook, stderr=hook, stdin=subprocess.DEVNULL, timeout=longer(20),
                          pass_fds=(hook,), check=False)
    os.close(hook)
    os.set_blocking(ours, False)
    got = b""
    while data := os.read(ours, 65536):  # raises BlockingIOError where somebody holds the other end
        got += data
    os.close(ours)
    assert done.returncode == 0, got
    (resident,) = steer.residents()
    assert os.getsid(resident) != os.getsid(0)
    assert os.readlink(f"/proc/{resident}/cwd") == "/"
    steer.close()


@pytest.mark.parametrize("command, code", [
    (["true"], 0), (["sh", "-c", "exit 7"], 7), (["sh", "-c", "kill -TERM $$"], 143),
    (["/nonexistent/command"], 127)], ids=["0", "7", "killed", "no command"])
def test_run_passes_exit_code(lab, nginx, steer, kernel, command, code):
    result = steer.run("run", *plane_options(steer.plane), "--", *command)
    assert result.code == code, result
    assert_nothing_left(lab, kernel, steer)
