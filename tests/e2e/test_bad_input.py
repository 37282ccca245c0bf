# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""What is wrong gets one clear line and an exit code, and changes nothing."""

import re
import shutil
import subprocess

import pytest

from lab import longer, wait_until
from steer import BINARY, Kernel, leftovers

pytestmark = pytest.mark.needs_steer

DONE, FAILED, USAGE = 0, 1, 2
LONG = ".".join(["a" * 60] * 5)

TABLE = [
    ([], USAGE, "no command"),
    (["frobnicate"], USAGE, "unknown command.*frobnicate"),
    (["open", "--frobnicate"], USAGE, "unknown option.*--frobnicate"),
    (["open", "-x"], USAGE, "unknown option.*-x"),
    (["open", "word"], USAGE, "word"),
    (["open", "--ttl"], USAGE, "--ttl"),
    (["open", "--ttl", "0"], USAGE, "ttl: 0"),
    (["open", "--ttl", "0s"], USAGE, "ttl: 0"),
    (["open", "--ttl", "2h"], USAGE, "ttl: 2h.*1h"),
    (["open", "--ttl", "61m"], USAGE, "ttl: 61m.*1h"),
    (["open", "--ttl", "-5s"], USAGE, "ttl.*-5s"),
    (["open", "--ttl", "99999999999999999999s"], USAGE, "ttl"),
    (["open", "--ttl", "soon"], USAGE, "ttl.*soon"),
    (["open", "--ttl", ""], USAGE, "ttl"),
    (["open", "--responder", "nonsense"], USAGE, "responder.*nonsense"),
    (["open", "--responder", "127.0.0.1"], USAGE, "responder.*127.0.0.1"),
    (["open", "--responder", "127.0.0.1:0"], USAGE, "responder"),
    (["open", "--responder", "127.0.0.1:99999"], USAGE, "responder"),
    (["open", "--responder", "0.0.0.0:31443"], USAGE, "responder"),
    (["open", "--responder", "[::1:31443"], USAGE, "responder"),
    (["open", "--responder", "localhost:31443"], USAGE, "responder.*localhost"),
    (["open", "--web-server", "nonsense"], USAGE, "web-server.*nonsense"),
    (["open", "--port", "0"], USAGE, "port.*0"),
    (["open", "--port", "65536"], USAGE, "port.*65536"),
    (["open", "--port", "https"], USAGE, "port.*https"),
    (["open", "--plane", "teleport"], USAGE, "plane.*teleport"),
    (["open", "--client-ip", "guess"], USAGE, "client-ip.*guess"),
    (["open", "--sniff-timeout", "0"], USAGE, "sniff-timeout"),
    (["open", "--sniff-timeout", "2h"], USAGE, "sniff-timeout"),
    (["open", "--domain", "*.example.test"], USAGE, "domain.*wildcard"),
    (["open", "--domain", "exa mple.test"], USAGE, "domain"),
    (["open", "--domain", ""], USAGE, "domain"),
    (["open", "--domain", LONG], USAGE, "domain"),
    (["open", "--name", "two words"], USAGE, "name.*two words"),
    (["open", "--name", "../../etc/passwd"], USAGE, "name"),
    (["open", "--netns", "/nonexistent"], FAILED, "/nonexistent"),
    (["open", "--netns", "/etc/passwd"], FAILED, "/etc/passwd"),
    (["open", "--netns", "no-such-name"], FAILED, "no-such-name"),
    (["open", "--netns", "../netns/x"], FAILED, "neither a pid.*absolute path"),
    (["open", "--netns", ""], FAILED, "neither a pid"),
    (["open", "--port", "444"], FAILED, "444"),
    (["open", "--port", "443", "--port", "444"], FAILED, "444"),
    (["close", "--frobnicate"], USAGE, "unknown option.*--frobnicate"),
    (["close", "--name", "a", "--all"], USAGE, "--name or --all"),
    (["close", "word"], USAGE, "word"),
    (["serve", "word"], USAGE, "takes options only, not word;"),
    (["challenge", "word"], USAGE, "takes add, remove or list, not word;"),
    (["close", "--drain=soon"], USAGE, "drain.*soon"),
    (["close", "--drain=25h"], USAGE, "drain.*25h.*24h"),
    (["close", "--drain="], USAGE, "drain"),
    (["close", "--kill=yes"], USAGE, "kill"),
    (["run"], USAGE, "command"),
    (["run", "--ttl", "1m", "--"], USAGE, "command"),
    (["run", "--ttl", "2h", "--", "true"], USAGE, "ttl: 2h"),
    (["run", "--port", "444", "--", "false"], FAILED, "444"),
    (["status", "--frobnicate"], USAGE, "unknown option.*--frobnicate"),
]


def assert_refused(lab, kernel, steer, result, code, pattern):
    assert result.code == code, result
    lines = result.err.splitlines()
    assert len(lines) == 1 and re.match(r"acme-steer: .", lines[0]), result.err
    assert re.search(pattern, lines[0]), lines[0]
    assert result.out == "", result.out
    # The kernel ends what a socket held a grace period after the socket.
    wait_until(lambda: not leftovers(lab, kernel, steer), what="nothing is left")


@pytest.fixture(scope="module")
def kernel(lab):
    """One look for the whole table: nothing in it may change anything."""
    return Kernel(lab)


@pytest.fixture(scope="module")
def page(lab, nginx):
    """nginx is there, so that nothing but the input is wrong."""
    return nginx


@pytest.mark.parametrize("argv, code, pattern", TABLE,
                         ids=[" ".join(row[0])[:40] or "nothing" for row in TABLE])
def test_refused(lab, page, steer, kernel, argv, code, pattern):
    assert_refused(lab, kernel, steer, steer.run(*argv), code, pattern)


@pytest.mark.parametrize("argv", [["open", "--ttl", "2h"], ["open", "--port", "444"],
                                  ["open", "--responder", "x"], ["close", "--all", "--name", "x"]],
                         ids=" ".join)
def test_open_window_is_untouched(lab, page, steer, argv):
    """A refused command changes nothing of a window that is open."""
    steer.open("--ttl", "5m", "--domain", "www.example.test")
    before = steer.windows()["default"]
    assert steer.run(*argv).code in (FAILED, USAGE)
    after = steer.windows()["default"]
    for changing in ("opened_s", "remaining_s"):
        before.pop(changing), after.pop(changing)
    assert before == after
    steer.close()


def run_as(lab, binary, setpriv, *argv):
    done = subprocess.run(lab.edge.command(["setpriv", *setpriv, binary, *argv]),
                          capture_output=True, text=True, timeout=longer(30), check=False)
    return type("Result", (), {"code": done.returncode, "out": done.stdout, "err": done.stderr})()


def test_not_root(lab, page, steer, kernel):
    binary = lab.dir / "acme-steer"
    shutil.copy(BINARY, binary)
    result = run_as(lab, binary, ["--reuid=65534", "--regid=65534", "--clear-groups"], "open")
    assert_refused(lab, kernel, steer, result, FAILED, "root")


def test_no_bpf(lab, page, steer, kernel):
    result = run_as(lab, BINARY, ["--bounding-set=-bpf,-sys_admin,-perfmon", "--inh-caps=-all"],
                    "open")
    assert_refused(lab, kernel, steer, result, FAILED, "(?i)bpf")


def test_no_net_admin(lab, page, steer, kernel):
    result = run_as(lab, BINARY, ["--bounding-set=-net_admin,-sys_admin", "--inh-caps=-all"],
                    "open")
    assert_refused(lab, kernel, steer, result, FAILED, "(?i)net_admin")


def test_no_syncookies(lab, page, steer, kernel):
    """Hand-off would reset connections: it must say so before it opens."""
    if steer.plane == "relay":
        steer.open()
        steer.close()
        return
    lab.edge.run("sysctl", "-qw", "net.ipv4.tcp_syncookies=0")
    try:
        result = steer.run("open", "--plane", "handoff")
        assert_refused(lab, kernel, steer, result, FAILED, "tcp_syncookies")
    finally:
        lab.edge.run("sysctl", "-qw", "net.ipv4.tcp_syncookies=1")
