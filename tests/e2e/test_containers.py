# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""The web server of a container: another network namespace, to which the host leads port 443 by DNAT.

      namespace ca                namespace edge: the host                       namespace container
    +--------------+            +--------------------------------+            +---------------------+
    | the CA       |ca0 = edge0 | nft: dnat 443 to the container |host0 = eth0| nginx on :443       |
    | visitors     |            |      masquerade, as Docker     |            | 10.88.0.2           |
    |              |            | acme-steer ... --netns         |            | fd00:88::2          |
    +--------------+            +--------------------------------+            +---------------------+

acme-steer is run on the host, steers in the container, and nothing of the host's rules is changed.
"""

import json
import os
import secrets
import signal
import subprocess

import pytest

from clients import visitors
from lab import Netns, kill_pid, longer, wait_until
from servers import Nginx, Pebble, get
from steer import BINARY, Result, Steer, leftovers, plane_options
from test_challenge import base64url

pytestmark = pytest.mark.needs_steer

NAME = "www.example.test"
HOST = {4: "10.88.0.1", 6: "fd00:88::1"}
INSIDE = {4: "10.88.0.2", 6: "fd00:88::2"}

RULES = f"""
table inet published {{
    chain prerouting {{
        type nat hook prerouting priority dstnat;
        iifname edge0 tcp dport 443 meta nfproto ipv4 dnat ip to {INSIDE[4]}
        iifname edge0 tcp dport 443 meta nfproto ipv6 dnat ip6 to {INSIDE[6]}
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat;
        oifname edge0 masquerade
    }}
}}
"""


@pytest.fixture(scope="module")
def container(lab):
    """The namespace, and the way there and back."""
    netns = Netns(lab, "container")
    lab.namespaces.append(netns)
    host = lab.edge
    host.run("ip", "link", "add", "host0", "type", "veth", "peer", "name", "eth0", "netns", netns.name)
    netns.device = "eth0"
    for where, device, addresses in ((host, "host0", HOST), (netns, "eth0", INSIDE)):
        where.run("ip", "link", "set", device, "up")
        where.run("ip", "address", "add", f"{addresses[4]}/24", "dev", device)
        where.run("ip", "address", "add", f"{addresses[6]}/64", "dev", device, "nodad")
    netns.run("ip", "link", "set", "lo", "up")
    netns.run("ip", "-4", "route", "add", "default", "via", HOST[4])
    netns.run("ip", "-6", "route", "add", "default", "via", HOST[6])
    netns.v4, netns.v6 = INSIDE[4], INSIDE[6]
    host.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    host.run("nft", "-f", "-", input=RULES)
    return netns


@pytest.fixture(scope="module")
def nginx(container):
    return Nginx(container)


@pytest.fixture(scope="module")
def pebble(lab):
    return Pebble(lab)


class FromHost(Steer):
    """acme-steer, run on the host for the container."""

    def __init__(self, container, host, plane, netns):
        super().__init__(container, plane)
        self.host = host
        self.option = f"--netns={netns}"

    def run(self, *args, timeout=30, env=None, stdin=None):
        verb, *rest = args
        words = 2 if verb == "challenge" else 1
        argv = [BINARY, *args[:words], self.option, *args[words:]]
        done = subprocess.run(self.host.command(argv), capture_output=True, text=True,
                              timeout=longer(timeout), env=env, stdin=subprocess.DEVNULL, check=False)
        return Result(done.returncode, done.stdout, done.stderr)


@pytest.fixture(params=["pid", "name", "path"])
def steer(request, lab, container, nginx, plane):
    """Each way to say which container."""
    netns = {"pid": nginx.process.pid, "name": container.name,
             "path": f"/proc/{nginx.process.pid}/ns/net"}[request.param]
    steer = FromHost(container, lab.edge, plane, netns)
    steer.reset()
    yield steer
    steer.reset()


def rules(host):
    return host.run("nft", "list", "ruleset")


def test_issue(lab, container, nginx, pebble, steer, kernel):
    """lego listens in the container, too; visitors come by the same DNAT."""
    before = rules(lab.edge)
    argv, env, cert = pebble.lego(NAME)
    with visitors(lab, nginx, steer.plane):
        run = [BINARY, "run", steer.option, *plane_options(steer.plane), "--domain", NAME, "--",
               "nsenter", "-t", nginx.process.pid, "-n", *argv]
        lego = lab.edge.start("run-lego", run, env=env)
        wait_until(lambda: not lego.running(), 90, "lego ends")
        assert lego.popen.returncode == 0, lego.stderr()[-3000:]
    issuer, names = pebble.describe(cert)
    assert "Pebble Intermediate CA" in issuer and names == {NAME}
    assert rules(lab.edge) == before
    wait_until(lambda: not leftovers(lab, kernel, steer), 15, "nothing is left")


def test_all_verbs(lab, container, nginx, steer):
    """The process, its socket and its windows are the container's; the host has none."""
    data = secrets.token_bytes(32)
    steer.ok("challenge", "add", NAME, base64url(data), *plane_options(steer.plane))
    status = steer.status()
    assert status["netns"] == container.inode
    assert os.path.exists(f"/run/acme-steer/{container.inode}.sock")
    assert os.readlink(f"/proc/{status['pid']}/ns/net") == f"net:[{container.inode}]"
    assert Steer(lab.edge, steer.plane).status()["pid"] is None
    assert NAME in steer.ok("challenge", "list").out
    for address in (lab.edge.v6, lab.edge.v4):
        probe = lab.ca.run(BINARY, "probe", NAME, "--address", address, "--expect", base64url(data))
        assert "answers acme-tls/1 as a CA wants it" in probe
    steer.ok("challenge", "remove", NAME)
    assert steer.run("status").code == 3
    steer.open()
    assert set(steer.windows()) == {"default"}
    steer.close()
    assert steer.windows() == {}


def test_doctor(lab, container, nginx, steer):
    """On the host it names the container; there, all is well."""
    done = subprocess.run(lab.edge.command([BINARY, "doctor", "--json"]), capture_output=True, text=True,
                          timeout=longer(60), check=False)
    checks = {check["id"]: check for check in json.loads(done.stdout)["checks"]}
    assert done.returncode == 1
    assert checks["web-server"]["level"] == "fail" and "in another" in checks["web-server"]["finding"]
    assert f"--netns={nginx.process.pid}" in checks["web-server"]["remedy"]
    assert checks["published"]["level"] == "fail" and INSIDE[4] in checks["published"]["finding"]
    assert f"--netns={nginx.process.pid}" in checks["published"]["remedy"]
    document = json.loads(steer.ok("doctor", "--json").out)
    assert document["ok"] and document["netns"] == container.inode
    checks = {check["id"]: check for check in document["checks"]}
    assert f"nginx (pid {nginx.process.pid})" in checks["web-server"]["finding"]
    assert checks["published"]["level"] == "ok"


def test_killed(lab, container, nginx, steer, kernel):
    steer.open()
    kill_pid(steer.pid(), signal.SIGKILL)
    for address in (lab.edge.v4, lab.edge.v6):
        assert get(lab, address)
    wait_until(lambda: not leftovers(lab, kernel, steer, killed=True), what="nothing is left")


def test_serve(lab, container, nginx, steer):
    """Resident for the container, on the host."""
    process = lab.edge.start("serve", [BINARY, "serve", steer.option])
    steer.wait_for(process)
    assert steer.residents() == [process.pid]
    steer.open()
    assert get(lab) and steer.pid() == process.pid
    assert process.stop() == 0
