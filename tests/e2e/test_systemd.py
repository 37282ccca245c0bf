# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""The unit: what systemd makes of it, and what the process and a service manager say to each other."""

import json
import os
import pathlib
import re
import select
import signal
import socket
import subprocess
import time

import pytest

from lab import longer, wait_until
from steer import BINARY

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
UNIT = ROOT / "deploy" / "systemd" / "acme-steer.service"
WORST_SCORE = 2.8  # with the exceptions that the unit explains


def analyze(*argv):
    done = subprocess.run(["systemd-analyze", *map(str, argv)], capture_output=True, text=True, timeout=longer(60),
                          check=False)
    assert done.returncode == 0, done
    return done


@pytest.fixture
def unit(tmp_path):
    """The unit, with the program that was built."""
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("ExecStart=acme-steer ", f"ExecStart={BINARY} "))
    return copy


def test_verify(unit):
    done = analyze("verify", "--man=no", unit)
    assert done.stdout + done.stderr == ""


def test_score(unit):
    """Each exposure that is left is explained in the unit, and nothing is explained that is not left."""
    rows = json.loads(analyze("security", "--offline=true", "--json=short", unit).stdout)
    left = {row["json_field"] for row in rows if not row["set"] and float(row["exposure"] or 0) > 0}
    explained = set()
    for block in re.findall(r"^# exposed: ((?:.|\n#  )*?) - ", UNIT.read_text(), re.M):
        explained |= set(re.split(r"[,\s#]+", block))
    assert left == explained, (left - explained, explained - left)
    total = re.search(r"exposure level for .*: ([0-9.]+)", analyze("security", "--offline=true", unit).stdout)
    print(f"systemd-analyze security: {total[1]}")
    assert float(total[1]) <= WORST_SCORE


def calls_of(name):
    """A set of systemd's, whole; or one call."""
    if not name.startswith("@"):
        return {name}
    lines = analyze("syscall-filter", name).stdout.splitlines()[1:]
    words = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
    return set().union(*map(calls_of, words))


def test_our_calls_are_allowed():
    """The unit's filter lets through what our own filters do."""
    allowed = set()
    for line in re.findall(r"^SystemCallFilter=(.*)$", UNIT.read_text(), re.M):
        calls = set().union(*map(calls_of, line.lstrip("~").split()))
        allowed = allowed - calls if line.startswith("~") else allowed | calls
    source = (ROOT / "user" / "filter.c").read_text()
    source = re.sub(r"^#if SANITIZED\n.*?^#else$", "", source, flags=re.M | re.S)  # in no release
    deadly = re.search(r"deadly\[\] = \{(.*?)\};", source, re.S)
    ours = set(re.findall(r"SCMP_SYS\((\w+)\)", source.replace(deadly[0], "")))
    assert len(ours) > 100 and not ours - allowed, ours - allowed
    assert {"mount", "init_module", "reboot", "ptrace"}.isdisjoint(allowed)


@pytest.fixture
def manager(lab, tmp_path):
    """The service manager's socket; environment for the service."""
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        sock.settimeout(longer(10))
        yield sock, {**os.environ, "NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "300000"}


@pytest.mark.needs_steer
def test_says_ready_alive_and_stopping(lab, nginx, steer, manager):
    sock, environment = manager
    process = lab.edge.start("serve", [BINARY, "serve"], env=environment)
    assert sock.recv(4096) == b"READY=1"
    assert steer.run("status").code == 3, "it said ready and does not answer"
    began = time.monotonic()
    for _ in range(5):
        assert sock.recv(4096) == b"WATCHDOG=1"
    assert time.monotonic() - began < longer(5 * 0.3), "not in time for the watchdog"
    # One that hangs does not say it.
    process.send_signal(signal.SIGSTOP)
    with open(f"/proc/{process.pid}/stat", encoding="ascii") as stat:
        wait_until(lambda: stat.seek(0) == 0 and stat.read().split()[2] == "T", what="it is stopped")
    while select.select([sock], [], [], 0)[0]:
        sock.recv(4096)
    assert not select.select([sock], [], [], 1)[0], "a stopped process says that it is alive"
    process.send_signal(signal.SIGCONT)
    assert sock.recv(4096) == b"WATCHDOG=1"
    process.send_signal(signal.SIGTERM)
    wait_until(lambda: sock.recv(4096) == b"STOPPING=1", what="it says that it stops")
    assert process.wait(15) == 0
