# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""Each check of doctor is made to say that something is wrong, and what to do; then that all is well."""

import contextlib
import ctypes
import json
import os
import platform
import re
import shutil
import signal
import socket
import struct
import subprocess

import pytest

from lab import TOOLS, longer, wait_until
from servers import openssl_responder
from steer import BINARY, Kernel, Steer
from test_way_out import assert_nothing_left

pytestmark = pytest.mark.needs_steer

IPPROTO_MPTCP = 262
OK, WARN, FAIL = "ok", "warn", "fail"
CHECKS = ["capabilities", "btf", "bpf-sysctls", "lockdown", "other-sk-lookup", "steering", "handoff",
          "syncookies", "web-server", "address-families", "hand-off-target", "published",
          "firewall", "responder", "tls-program", "resident", "clock"]
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
PORT = 47443


class Diagnosis:
    """What one run of doctor said."""

    def __init__(self, done):
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr
        assert self.err == "", self.err
        self.document = json.loads(self.out)
        self.checks = {check["id"]: check for check in self.document["checks"]}
        assert [check["id"] for check in self.document["checks"]] == CHECKS
        failed = [check for check in self.checks.values() if check["level"] == FAIL]
        assert self.code == (1 if failed else 0) and self.document["ok"] == (not failed)
        # Whatever is wrong has a remedy.
        for check in self.checks.values():
            assert check["finding"] and (check["level"] == OK or check["remedy"]), check

    def __getitem__(self, name):
        return self.checks[name]

    def says(self, name, level, finding, remedy=None):
        check = self.checks[name]
        assert check["level"] == level, check
        assert re.search(finding, check["finding"]), check
        if remedy:
            assert re.search(remedy, check["remedy"]), check


@pytest.fixture
def doctor(lab, steer):
    def run(*args, binary=BINARY, around=(), mounts=(), netns=None):
        """around: the argv in front; mounts: shell commands, in a mount namespace of its own."""
        argv = [*around, binary, "doctor", *args]
        if mounts:
            argv = ["unshare", "--mount", "sh", "-ec", "; ".join((*mounts, 'exec "$@"')), "sh", *argv]
        return subprocess.run((netns or lab.edge).command(argv), capture_output=True, text=True,
                              timeout=longer(60), stdin=subprocess.DEVNULL, check=False)

    def diagnose(*args, **kwargs):
        return Diagnosis(run("--json", *args, **kwargs))
    diagnose.run = run
    return diagnose


@pytest.fixture
def listen(lab):
    """Sockets of this process that listen in the edge."""
    sockets = []

    def start(address, port=PORT, protocol=0, v6_only=True):
        def body():
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            sock = socket.socket(family, socket.SOCK_STREAM, protocol)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6_only)
            sock.bind((address, port))
            sock.listen()
            return sock
        sockets.append(lab.edge.inside(body))
    yield start
    for sock in sockets:
        sock.close()


@contextlib.contextmanager
def rules(lab, tool, text, undo):
    lab.edge.run(*tool, input=text)
    try:
        yield
    finally:
        lab.edge.run(*undo)


def nft(lab, chain, rule, hook="input", priority="filter", kind="filter", policy="accept"):
    return rules(lab, ["nft", "-f", "-"], f"""
table inet doctor {{
    chain {chain} {{
        type {kind} hook {hook} priority {priority}; policy {policy};
        {rule}
    }}
}}
""", ["nft", "delete", "table", "inet", "doctor"])


def iptables(lab, text):
    return rules(lab, ["iptables-restore"], text, ["nft", "flush", "ruleset"])


def test_all_is_well(lab, nginx, steer, doctor, request):
    kernel = Kernel(lab)
    found = doctor()
    assert found.code == 0
    for name in CHECKS:
        if name == "clock":  # a virtual machine may have nobody who keeps it right
            assert found[name]["level"] in (OK, WARN)
        elif name == "handoff" and request.config.getoption("best_plane") == "relay":
            found.says(name, WARN, "relayed", "Linux 6.9")
        else:
            assert found[name]["level"] == OK, found[name]
    found.says("web-server", OK, rf"nginx \(pid {nginx.process.pid}\) on 0.0.0.0:443, .* on \[::\]:443")
    found.says("address-families", OK, "IPv4 and IPv6")
    assert found.document["port"] == 443 and found.document["netns"] == lab.edge.inode
    assert_nothing_left(lab, kernel, steer)


def test_table(lab, nginx, doctor):
    """For people the same, the remedy below the finding."""
    document = json.loads(doctor.run("--json", "--port", PORT).stdout)
    done = doctor.run("--port", PORT)
    assert done.returncode == 1 and done.stderr == ""
    lines = done.stdout.splitlines()
    for check in document["checks"]:
        at = next(i for i, line in enumerate(lines) if f" {check['id']} " in line[:24])
        assert lines[at].startswith(check["level"])
        if check["id"] != "clock":
            assert check["finding"] in lines[at]
        if check["remedy"]:
            assert lines[at + 1].strip() == f"-> {check['remedy']}"
    assert re.search(r"\d+ of 17 checks failed", lines[-1])
    assert "nothing is in the way" in doctor.run().stdout.splitlines()[-1]


def test_while_a_window_is_open(lab, nginx, steer, doctor):
    steer.open("--responder", "127.0.0.1:31555")
    found = doctor("--responder", "127.0.0.1:31443")
    found.says("resident", OK, rf"process {steer.pid()}, 1 window open")
    found.says("other-sk-lookup", OK, "acme-steer's own")
    found = doctor()
    found.says("responder", OK, "127.0.0.1:31443, which is as it should be")
    steer.open("--responder", "127.0.0.1:31443")
    doctor().says("responder", WARN, "nobody listens at 127.0.0.1:31443", "start the ACME client")
    steer.close()


def test_capabilities(lab, nginx, doctor):
    found = doctor(around=["setpriv", "--bounding-set=-bpf,-sys_admin,-perfmon", "--inh-caps=-all"])
    found.says("capabilities", FAIL, "missing: CAP_BPF, CAP_PERFMON$", "as root.*group acme-steer")
    found.says("steering", WARN, "not tried", "as root")
    found.says("handoff", WARN, "not tried", "as root")
    found.says("other-sk-lookup", WARN, "not looked", "CAP_SYS_ADMIN")
    found = doctor(around=["setpriv", "--bounding-set=-net_admin,-net_raw", "--inh-caps=-all"])
    found.says("capabilities", FAIL, "missing: CAP_NET_ADMIN, CAP_NET_RAW$", "NET_ADMIN")


def test_user_namespace(lab, nginx, doctor):
    found = doctor(around=["unshare", "--user", "--map-root-user"])
    found.says("capabilities", FAIL, "user namespace", "rootless.*--netns")


def test_not_root(lab, nginx, doctor):
    binary = lab.dir / "acme-steer-doctor"
    shutil.copy(BINARY, binary)
    found = doctor(binary=binary, around=NOBODY)
    found.says("capabilities", FAIL, "CAP_BPF", "as root")
    found.says("web-server", OK, "a process not to be seen", "as root")
    found.says("firewall", WARN, "rules", "as root")


def test_tls_program(lab, nginx, doctor):
    """Somebody copied the one file; then the other, too, for others to write."""
    binary = lab.dir / "half" / "acme-steer"
    binary.parent.mkdir()
    shutil.copy(BINARY, binary)
    doctor(binary=binary).says("tls-program", WARN, "`challenge`.*acme-steer-tls is not there", "install it again")
    tls = binary.with_name("acme-steer-tls")
    shutil.copy(BINARY.with_name("acme-steer-tls"), tls)
    doctor(binary=binary).says("tls-program", OK, "`probe`")
    tls.chmod(0o777)
    doctor(binary=binary).says("tls-program", WARN, "others may write it", "install it again")


def test_btf(lab, nginx, doctor):
    """Without the kernel's type information nothing loads."""
    found = doctor(mounts=["mount -t tmpfs none /sys/kernel/btf"])
    found.says("btf", FAIL, "/sys/kernel/btf", "CONFIG_DEBUG_INFO_BTF")
    found.says("steering", FAIL, "loading the steering program", "BTF")
    found.says("handoff", WARN, "relayed", "Linux 6.9.*BTF")


def test_bpf_sysctls(lab, nginx, doctor):
    net = lab.dir / "net-core"
    net.mkdir()
    (net / "bpf_jit_enable").write_text("0\n")
    found = doctor(mounts=[f"mount --bind {net} /proc/sys/net/core"])
    found.says("bpf-sysctls", WARN, "interpreted", "net.core.bpf_jit_enable=1")


def test_lockdown(lab, nginx, doctor):
    security = lab.dir / "security"
    security.mkdir()
    for state, level in (("[none] integrity confidentiality", OK),
                         ("none [integrity] confidentiality", OK),
                         ("none integrity [confidentiality]", WARN)):
        (security / "lockdown").write_text(f"{state}\n")
        found = doctor(mounts=[f"mount --bind {security} /sys/kernel/security"])
        found.says("lockdown", level, "confidentiality",
                   "lockdown=integrity" if level == WARN else None)


def attach_sk_lookup(netns):
    """A program that lets everything pass; the link's descriptor holds it."""
    libc = ctypes.CDLL(None, use_errno=True)
    number = {"x86_64": 321, "aarch64": 280}[platform.machine()]

    def bpf(command, attr):
        buf = ctypes.create_string_buffer(attr, 128)
        fd = libc.syscall(number, command, buf, 128)
        assert fd >= 0, os.strerror(ctypes.get_errno())
        return fd

    # r0 = SK_PASS; exit
    instructions = ctypes.create_string_buffer(
        struct.pack("<BBhi", 0xb7, 0, 0, 1) + struct.pack("<BBhi", 0x95, 0, 0, 0))
    gpl = ctypes.create_string_buffer(b"GPL")
    prog = bpf(5, struct.pack("<IIQQIIQII16sII", 30, 2, ctypes.addressof(instructions),
                              ctypes.addressof(gpl), 0, 0, 0, 0, 0, b"somebody_else", 0, 36))
    target = os.open(netns.path, os.O_RDONLY)
    link = bpf(28, struct.pack("<IIII", prog, target, 36, 0))
    os.close(prog)
    os.close(target)
    return link


def test_other_sk_lookup(lab, nginx, doctor):
    link = attach_sk_lookup(lab.edge)
    try:
        doctor().says("other-sk-lookup", WARN, '"somebody_else".*python', "bpftool link.*last wins")
        doctor(netns=lab.ca).says("other-sk-lookup", OK, "none")
    finally:
        os.close(link)
    doctor().says("other-sk-lookup", OK, "none")


def test_owner_is_younger(lab, nginx):
    """Doctor finds who holds a link, and not itself, also when it comes first in /proc."""
    gate = lab.dir / "gate"
    os.mkfifo(gate)
    doctor = lab.edge.start("doctor", ["sh", "-c", 'read -r _ <"$0"; exec "$@"', gate, BINARY, "doctor", "--json"])
    link = attach_sk_lookup(lab.edge)
    with subprocess.Popen(["sleep", "60"], pass_fds=[link]) as holder:
        os.close(link)
        gate.write_text("go\n", encoding="ascii")
        doctor.popen.wait(30)
        holder.kill()
    checks = {check["id"]: check for check in json.loads(doctor.stdout())["checks"]}
    assert "sleep" in checks["other-sk-lookup"]["finding"], checks["other-sk-lookup"]


def test_syncookies(lab, nginx, doctor):
    lab.edge.run("sysctl", "-qw", "net.ipv4.tcp_syncookies=0")
    try:
        found = doctor()
    finally:
        lab.edge.run("sysctl", "-qw", "net.ipv4.tcp_syncookies=1")
    found.says("syncookies", WARN, "tcp_syncookies is 0.*relayed", "tcp_syncookies=1")
    assert found["hand-off-target"]["level"] in (WARN, OK)


def test_nobody_listens(lab, nginx, doctor):
    doctor("--port", 47444).says("web-server", FAIL, "nobody listens on port 47444$",
                                 "start the web server.*--netns.*--web-server")


def test_listens_elsewhere(lab, nginx, doctor):
    """As in a container: seen from the other namespace."""
    server = lab.edge.start("s_server", ["openssl", "s_server", "-accept", PORT, "-nocert"])
    wait_until(lambda: lab.edge.listening(PORT), what="it listens")
    found = doctor("--port", PORT, netns=lab.ca)
    found.says("web-server", FAIL, rf"openssl \(pid {server.pid}\) does in another",
               rf"--netns={server.pid}\b")
    # That is what helps.
    found = doctor("--port", PORT, "--netns", server.pid, netns=lab.ca)
    found.says("web-server", OK, rf"openssl \(pid {server.pid}\)")
    assert found.document["netns"] == lab.edge.inode
    server.stop()


def test_loopback_only(lab, nginx, doctor, listen):
    listen("127.0.0.1")
    listen("::1")
    doctor("--port", PORT).says("web-server", FAIL, "loopback only", "own addresses.*--port")


def test_address_families(lab, nginx, doctor, listen):
    listen("0.0.0.0")
    found = doctor("--port", PORT)
    found.says("address-families", WARN, f"IPv4 only.*{lab.edge.v6}", r"listen \[::\]:443.*AAAA")
    listen("::")
    doctor("--port", PORT).says("address-families", OK, "IPv4 and IPv6")


def test_v6_only(lab, nginx, doctor, listen):
    listen("::", v6_only=True)
    found = doctor("--port", PORT)
    found.says("address-families", WARN, f"IPv6 only.*{lab.edge.v4}", "0.0.0.0:443.*A record")


def test_dual_stack(lab, nginx, doctor, listen):
    listen("::", v6_only=False)
    doctor("--port", PORT).says("address-families", OK, "IPv4 and IPv6")


def test_mptcp(lab, nginx, doctor, listen, request):
    listen("0.0.0.0", protocol=IPPROTO_MPTCP)
    listen("127.0.0.1", port=31443, protocol=IPPROTO_MPTCP)
    found = doctor("--port", PORT)
    found.says("web-server", OK, rf"python.* \(pid {os.getpid()}\) on 0.0.0.0:{PORT} \(MPTCP\)")
    found.says("responder", WARN, rf"\(pid {os.getpid()}\).*MPTCP.*relayed", "multipathtcp=0")
    if request.config.getoption("best_plane") == "handoff":
        found.says("hand-off-target", WARN, rf"0.0.0.0:{PORT} can't be handed off.*MPTCP",
                   "multipathtcp=0")


def test_docker_proxy(lab, nginx, doctor):
    """The program that listens for a container, by its name."""
    proxy = lab.dir / "docker-proxy"
    shutil.copy(TOOLS / "byteserver", proxy)
    process = lab.edge.start("docker-proxy", [proxy, "--listen", f"0.0.0.0:{PORT}"])
    wait_until(lambda: lab.edge.listening(PORT), what="it listens")
    found = doctor("--port", PORT)
    process.stop()
    found.says("published", FAIL, rf"docker-proxy \(pid {process.pid}\) publishes", "--netns=PID")


def test_redirect(lab, nginx, doctor):
    with nft(lab, "pre", "tcp dport { 443, 47444 } redirect to :8443", "prerouting", "dstnat", "nat"):
        found = doctor()
        found.says("published", WARN, r"inet doctor, chain pre, rule \d+ \(redirect to :8443\)",
                   "--port=PORT")
        doctor("--port", 47444).says("published", FAIL, "leads connections to port 47444 away")
        doctor("--port", 47445).says("published", OK, "no port forwarding")
        doctor("--port", 8443).says("firewall", WARN, "redirect to :8443.*are relayed", "nothing has to be done")


def test_dnat(lab, nginx, doctor):
    """Docker's way: the container is in another namespace, and DNAT leads there."""
    server = lab.ca.start("s_server", ["openssl", "s_server", "-accept", PORT, "-nocert"])
    wait_until(lambda: lab.ca.listening(PORT), what="it listens")
    with iptables(lab, f"*nat\n:DOCKER - [0:0]\n-A PREROUTING -j DOCKER\n-A DOCKER -p tcp --dport "
                  f"{PORT} -j DNAT --to-destination {lab.ca.v4}:{PORT}\nCOMMIT\n"):
        found = doctor("--port", PORT)
    server.stop()
    found.says("published", FAIL, f"chain DOCKER, rule 1 .dnat to {lab.ca.v4}:{PORT}",
               rf"container's network namespace: --netns={server.pid} \(openssl\)")


@pytest.mark.parametrize("rule, level, finding, remedy", [
    ("tcp dport 443 limit rate over 10/second drop", WARN, "limit.*counts replayed packets",
     "ct state established,related accept"),
    ("ip ttl < 5 drop", WARN, "ip ttl.*replayed packet does not keep", "established,related"),
    ("tcp dport 443 ct state { invalid, untracked } synproxy mss 1460 wscale 7 timestamp sack-perm",
     FAIL, "synproxy.*sequence numbers", "--plane=relay"),
], ids=["limit", "ttl", "synproxy"])
def test_firewall(lab, nginx, doctor, rule, level, finding, remedy):
    with nft(lab, "input", rule):
        doctor().says("firewall", level, rf"inet doctor, chain input, rule \d+ \({finding}", remedy)


def test_firewall_tproxy(lab, nginx, doctor):
    with nft(lab, "pre", "meta l4proto tcp tproxy ip to :8443", "prerouting", "mangle"):
        doctor().says("firewall", FAIL, "tproxy.*another socket", "exempt the port")


def test_firewall_closed(lab, nginx, doctor):
    with nft(lab, "input", "ct state established,related accept", policy="drop"):
        doctor().says("firewall", WARN, "no rule that accepts the port", "from everybody")
        doctor("--port", 22).says("firewall", WARN, "no rule that accepts")


def test_firewall_is_fine(lab, nginx, doctor):
    with nft(lab, "input", "ct state established,related accept; tcp dport { 22, 443 } accept; "
             "tcp dport 443 limit rate over 10/second drop", policy="drop"):
        doctor().says("firewall", OK, "3 rules")


def test_iptables(lab, nginx, doctor):
    with iptables(lab, "*filter\n:INPUT DROP [0:0]\n-A INPUT -p tcp --dport 22 -j ACCEPT\nCOMMIT\n"):
        doctor().says("firewall", WARN, "iptables filter, chain INPUT .policy drop.*no rule")
        lab.edge.run("iptables", "-A", "INPUT", "-p", "tcp", "--dport", "443", "-m", "hashlimit",
                     "--hashlimit-upto", "10/sec", "--hashlimit-name", "web", "-j", "ACCEPT")
        doctor().says("firewall", WARN, "chain INPUT, rule 2 .-m hashlimit.*replayed", "established")


def test_firewall_without_tools(lab, nginx, doctor):
    """nft is not installed: rules are there, and that is all that can be said."""
    mounts = ["mount -t tmpfs none /usr/sbin"]
    doctor(mounts=mounts).says("firewall", OK, "no rules")
    with nft(lab, "input", "tcp dport 443 accept"):
        found = doctor(mounts=mounts)
    found.says("firewall", WARN, r"there are 1 nftables rules.*not installed", "nft")


def test_responder(lab, nginx, doctor, listen):
    doctor("--responder", "127.0.0.1:31444").says("responder", WARN, "nobody listens at 127.0.0.1:31444",
                                                  "start the ACME client.*--responder")
    doctor("--responder", "192.0.2.1:31444").says("responder", WARN, "no address of this",
                                                  "on this host")
    responder = openssl_responder(lab.edge, 31443, ["www.example.test"], lab.dir)
    doctor().says("responder", OK, rf"openssl \(pid {responder.pid}\) listens at 127.0.0.1:31443")
    # It was not asked anything: it serves a hundred connections, or one.
    assert not lab.edge.run("ss", "-Htn", "state", "time-wait", "sport", "=", ":31443")
    responder.stop()
    listen("0.0.0.0", port=31443)
    doctor().says("responder", OK, "on all addresses", "--local-address 127.0.0.1")


def test_resident_hangs(lab, nginx, steer, doctor):
    steer.open()
    pid = steer.pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        found = doctor()
    finally:
        os.kill(pid, signal.SIGCONT)
    found.says("resident", FAIL, "didn't answer", "systemctl restart")
    steer.close()


def test_resident_of_another_version(lab, nginx, steer, doctor):
    """Its binary was replaced while it ran."""
    old = lab.dir / "acme-steer"
    data = BINARY.read_bytes()
    version = json.loads(doctor.run("--json").stdout)["version"].encode()
    assert data.count(version + b"\0") >= 1
    old.write_bytes(data.replace(version + b"\0", b"9.9.9\0".ljust(len(version) + 1, b"\0")))
    old.chmod(0o755)
    process = lab.edge.start("serve", [old, "serve"])
    steer.wait_for(process)
    found = doctor()
    process.stop()
    found.says("resident", WARN, r"another version, 9\.9\.9", "restart it")


def test_clock(lab, nginx, doctor):
    binary = lab.dir / "acme-steer-of-the-future"
    shutil.copy(BINARY, binary)
    os.utime(binary, (2**32, 2**32))
    doctor(binary=binary).says("clock", FAIL, "before this program was installed", "set the clock.*chrony")


def test_relay_options_do_not_matter(lab, nginx, plane, doctor):
    """doctor asks the kernel, whatever plane is in use."""
    steer = Steer(lab.edge, "relay")
    steer.open()
    assert doctor()["handoff"] == doctor()["handoff"]
    steer.close()


BAD = [
    (["doctor", "word"], 2, "word"),
    (["doctor", "--frobnicate"], 2, "unknown option.*--frobnicate"),
    (["doctor", "-q"], 2, "unknown option.*-q"),
    (["doctor", "--port", "0"], 2, "port.*0"),
    (["doctor", "--port", "https"], 2, "port.*https"),
    (["doctor", "--responder", "localhost:1"], 2, "responder.*localhost"),
    (["doctor", "--netns", "/nonexistent"], 1, "/nonexistent"),
    (["doctor", "--netns", "/etc/passwd"], 1, "/etc/passwd"),
]


@pytest.mark.parametrize("argv, code, pattern", BAD, ids=[" ".join(row[0]) for row in BAD])
def test_refused_input(lab, steer, argv, code, pattern):
    result = steer.run(*argv)
    assert result.code == code and result.out == ""
    assert len(result.err.splitlines()) == 1 and re.match(r"acme-steer: .", result.err), result.err
    assert re.search(pattern, result.err), result.err
