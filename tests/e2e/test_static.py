# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""The one file of `make static`: in a root directory that has nothing else, it does its work."""

import json
import os
import secrets
import shutil
import socket

import pytest

from lab import BUILD, kill_pid, longer, sh, wait_until
from servers import get
from steer import BINARY, RULE_PROTOCOL, plane_options
from test_challenge import base64url

pytestmark = pytest.mark.needs_steer

STATIC = BUILD / "acme-steer-static"
NAME = "www.example.test"


@pytest.fixture(scope="module")
def root(lab):
    """A directory with the program, and nothing of a distribution."""
    assert STATIC.exists(), "make static first"
    root = lab.dir / "root"
    for name in ("proc", "sys", "run", "etc", "dev"):
        (root / name).mkdir(parents=True)
    (root / "dev" / "null").touch()
    shutil.copy(STATIC, root / "acme-steer")
    (root / "etc" / "hosts").write_text(f"{lab.edge.v4} {NAME}\n{lab.edge.v6} {NAME}\n")
    # As machines have it, with services that would have to be loaded.
    (root / "etc" / "nsswitch.conf").write_text("hosts: mymachines resolve [!UNAVAIL=return] files\n"
                                                "group: files systemd sss\n")
    return root


@pytest.fixture
def inside(lab, root, nginx):
    """Starts it in there, with the kernel's file systems, /dev/null and a /run of its own."""
    started = []

    def start(*args, env=None):
        script = ('mount --rbind /sys "$0/sys"; mount -t proc none "$0/proc"; mount -t tmpfs none "$0/run"; '
                  'mount --bind /dev/null "$0/dev/null"; '
                  'exec chroot "$0" "$@"')
        process = lab.edge.start("static", ["unshare", "--mount", "sh", "-ec", script, root,
                                            "/acme-steer", *args], env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                                                                        **(env or {})})
        started.append(process)
        return process

    def run(*args, code=0):
        process = start(*args)
        assert process.wait(30) == code, (args, process.stdout(), process.stderr())
        return process.stdout()
    run.start = start
    yield run
    for process in started:
        process.kill()
    for pid in lab.edge.pids():
        if os.path.exists(f"/proc/{pid}/exe") and os.readlink(f"/proc/{pid}/exe").endswith("/acme-steer"):
            kill_pid(pid)


def test_needs_nothing():
    assert "INTERP" not in sh("readelf", "-lW", STATIC)
    assert "NEEDED" not in sh("readelf", "-dW", STATIC)
    assert sh(STATIC, "--version") == sh(BINARY, "--version")


def test_run(lab, nginx, plane, inside):
    """A window in which a command runs, which here can only be the program itself."""
    document = json.loads(inside("run", "--quiet", "--name", "alone", *plane_options(plane), "--",
                                 "/acme-steer", "status", "--json"))
    assert [window["name"] for window in document["windows"]] == ["alone"]
    assert document["windows"][0]["plane"] == ("handoff" if plane == "auto" else plane)


def test_answers(lab, nginx, plane, inside):
    """The built-in responder gives up its rights and answers; the window ends with its command."""
    data = secrets.token_bytes(32)
    serve = inside.start("serve")
    run = f"/proc/{serve.pid}/root/run/acme-steer"
    wait_until(lambda: os.path.exists(f"{run}/{lab.edge.inode}.sock"), what="it listens")

    def ask(*lines):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(f"{run}/{lab.edge.inode}.sock")
            sock.sendall(("\n".join(lines) + "\n\n").encode())
            answer = b""
            while more := sock.recv(65536):
                answer += more
        return answer.decode()

    words = [f"{option[2:]}={value}" for option, value in zip(*[iter(plane_options(plane))] * 2)]
    assert ask("challenge-add", f"name={NAME}", f"digest={data.hex()}", *words).endswith("ok\n")
    for address in (lab.edge.v6, lab.edge.v4):
        assert "answers acme-tls/1 as a CA wants it" in lab.ca.run(
            BINARY, "probe", NAME, "--address", address, "--expect", base64url(data))
        assert get(lab, address)
    # By name, from /etc/hosts, whatever nsswitch.conf says.
    assert f"[{lab.edge.v6}]:443" in inside("probe", NAME, "--expect", base64url(data))
    if plane == "relay":
        assert f"proto {RULE_PROTOCOL}" in lab.edge.run("ip", "rule")
    assert serve.stop() == 0
    assert f"proto {RULE_PROTOCOL}" not in lab.edge.run("ip", "rule")


def test_doctor(lab, nginx, inside):
    document = json.loads(inside("doctor", "--json"))
    checks = {check["id"]: check for check in document["checks"]}
    assert f"nginx (pid {nginx.process.pid})" in checks["web-server"]["finding"]
    assert checks["steering"]["level"] == "ok" and document["ok"]


@pytest.mark.parametrize("abstract", [False, True])
def test_tells_systemd(lab, nginx, inside, root, abstract):
    name = f"\0{lab.name}" if abstract else str(root / "notify")
    with lab.edge.inside(socket.socket, socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(longer(10))
        sock.bind(name)
        process = inside.start("serve", env={"NOTIFY_SOCKET": f"@{lab.name}" if abstract else "/notify",
                                             "WATCHDOG_USEC": "300000"})
        assert sock.recv(100) == b"READY=1"
        assert sock.recv(100) == b"WATCHDOG=1"
        assert process.stop() == 0
        seen = []
        while not seen or seen[-1] != b"STOPPING=1":
            seen.append(sock.recv(100))
        assert set(seen[:-1]) <= {b"WATCHDOG=1"}
