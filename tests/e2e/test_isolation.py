# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""What the processes may do once they are set up, as the kernel says; that all works under it, every other test
shows, and the session's end that nothing was refused."""

import hashlib
import os
import re
import select
import subprocess

import pytest

from lab import longer, wait_until
from servers import SMALL, get
from steer import BINARY, leftovers

pytestmark = pytest.mark.needs_steer

CAPABILITIES = {"CHOWN": 0, "KILL": 5, "SETGID": 6, "SETUID": 7, "SETPCAP": 8, "NET_BIND_SERVICE": 10, "NET_ADMIN": 12,
                "NET_RAW": 13, "SYS_CHROOT": 18, "PERFMON": 38, "BPF": 39}


def mask(*names):
    return sum(1 << CAPABILITIES[name] for name in names)


RESIDENT = mask("BPF", "PERFMON", "NET_ADMIN", "NET_RAW", "NET_BIND_SERVICE")
STARTER = mask("SETUID", "SETGID", "SYS_CHROOT", "SETPCAP", "KILL")


def status_of(path):
    with open(f"{path}/status", encoding="ascii") as f:
        return dict(re.findall(r"^(\w+):\s*(.*)$", f.read(), re.M))


def capabilities(status):
    return {name: int(status[f"Cap{name}"], 16) for name in ("Eff", "Prm", "Bnd", "Inh", "Amb")}


def assert_has_exactly(pid, wanted, filters):
    """Every thread of a process."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        status = status_of(f"/proc/{pid}/task/{thread}")
        assert capabilities(status) == {"Eff": wanted, "Prm": wanted, "Bnd": wanted, "Inh": 0, "Amb": 0}, status
        assert (status["NoNewPrivs"], status["Seccomp"], status["Seccomp_filters"]) == ("1", "2", str(filters)), status
    with open(f"/proc/{pid}/limits", encoding="ascii") as f:
        assert re.search(r"^Max core file size\s+0\s+0\s", f.read(), re.M)


def starter_of(steer, pid):
    found = [p for p in steer.processes() if status_of(f"/proc/{p}")["Name"] == "acme-starter"]
    assert len(found) == 1 and status_of(f"/proc/{found[0]}")["PPid"] == str(pid), found
    return found[0]


def check(lab, steer):
    """While it steers, and has a responder."""
    digest = hashlib.sha256(b"isolation").hexdigest()
    steer.ok("challenge", "add", "isolation.example.test", digest)
    for address in (lab.edge.v4, lab.edge.v6):
        assert get(lab, address) == SMALL
    pid = steer.pid()
    starter = starter_of(steer, pid)
    responder = steer.status()["responder"]["pid"]
    assert_has_exactly(pid, RESIDENT, 2)
    assert_has_exactly(starter, STARTER, 1)
    assert_has_exactly(responder, 0, 2)
    assert status_of(f"/proc/{responder}")["Uid"].split() == ["65534"] * 4
    assert status_of(f"/proc/{responder}")["PPid"] == str(pid)
    assert status_of(f"/proc/{pid}")["Umask"] == "0077"
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    # What speaks TLS, and only that, has a library for it.
    for process, has in ((pid, False), (responder, True)):
        with open(f"/proc/{process}/maps", encoding="utf-8") as f:
            assert ("libssl" in f.read()) == has
    # The starter has a socket to it, the responder's program, and what tells of the responder's end.
    fds = {fd: os.readlink(f"/proc/{starter}/fd/{fd}") for fd in os.listdir(f"/proc/{starter}/fd")}
    assert sorted(re.sub(r":.*", "", link) for link in fds.values()) == sorted(
        ["/dev/null"] * 3 + [str(BINARY.with_name("acme-steer-tls")), "anon_inode", "socket"]), fds
    steer.ok("challenge", "remove", "isolation.example.test")
    return pid


def test_on_demand(lab, nginx, steer, kernel):
    steer.open()
    check(lab, steer)
    steer.close()
    wait_until(lambda: not leftovers(lab, kernel, steer), what="nothing is left")


def test_serve(lab, nginx, steer):
    """It is started by somebody who leaves it a descriptor, variables and a folder that are none of its business."""
    read_end, write_end = os.pipe()
    process = subprocess.Popen(lab.edge.command([BINARY, "serve"]), pass_fds=[write_end], umask=0, cwd=lab.dir,
                               stderr=subprocess.DEVNULL)
    try:
        os.close(write_end)
        assert select.select([read_end], [], [], longer(10))[0] and os.read(read_end, 1) == b"", "it keeps the descriptor"
        wait_until(lambda: (status := steer.status()) and status["pid"] == process.pid, what="it answers")
        steer.open()
        assert check(lab, steer) == process.pid
        steer.close()
        assert check(lab, steer) == process.pid
        process.terminate()
        assert process.wait(15) == 0
    finally:
        process.kill()
        process.wait()
        os.close(read_end)


def test_command_of_run_has_all(lab, nginx, steer):
    """Nothing of it concerns the command of `run`: that has what run has."""
    out = lab.edge.run(*steer.run_command("-q"), "cat", "/proc/self/status")
    ours = lab.edge.run("cat", "/proc/self/status")
    wanted, got = (dict(re.findall(r"^(\w+):\s*(.*)$", text, re.M)) for text in (ours, out))
    assert capabilities(got) == capabilities(wanted)
    for key in ("NoNewPrivs", "Seccomp", "Seccomp_filters", "SigIgn", "SigBlk"):
        assert got[key] == wanted[key], key


def test_starter_dies(lab, nginx, steer):
    """Then windows go on, a responder that is there too; another can't be started, and a line says so."""
    digest = hashlib.sha256(b"isolation").hexdigest()
    steer.open()
    pid = steer.pid()
    os.kill(starter_of(steer, pid), 9)
    assert get(lab, lab.edge.v4) == SMALL
    result = steer.run("challenge", "add", "isolation.example.test", digest)
    assert result.code == 1 and "restart the resident process" in result.err, result
    assert get(lab, lab.edge.v6) == SMALL and steer.pid() == pid
    steer.close()


def test_ready_fd_must_be_a_pipe(lab, steer):
    for fd in ("0", "1", "2", "77", "-1"):
        result = steer.run("serve", f"--ready-fd={fd}")
        assert result.code == 2 and "ready-fd" in result.err and len(result.err.splitlines()) == 1, result
