# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""
Somebody who has only the README: installs, looks, gets a certificate, renews it, has things go wrong, uninstalls.

Every line that is run is the README's own. What goes wrong is looked up as a user would: by what `doctor` or
`probe` prints, in docs/troubleshooting.md, which must have those words.
"""

import base64
import contextlib
import os
import re
import secrets
import signal
import socket
import subprocess

import pytest

from documented import HOOKS, ROOT
from lab import longer, sh, wait_until
from servers import Nginx, Pebble, get, make_cert, openssl_responder
from shell import NAME, Shell

pytestmark = pytest.mark.needs_steer

README = (ROOT / "README.md").read_text()
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
IPPROTO_MPTCP = 262
SERVED = "www.example.test"  # the name in nginx' certificate
EC = ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"]


def lines(words):
    """The README's command that begins with these words, its continuation lines with it."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", README, re.M | re.S)
    found = [command for block in blocks for command in re.split(r"(?<!\\)\n", block) if command.startswith(words)]
    assert len(found) == 1, f"README has {len(found)} commands that begin with {words}: {found}"
    return found[0]


@pytest.fixture(scope="module")
def installed(lab):
    """`make install`, below a directory of the lab."""
    root = lab.dir / "installed"
    env = dict(os.environ, DESTDIR=str(root))
    sh("sh", "-ec", lines("sudo make install").replace("sudo ", ""), cwd=ROOT, env=env, timeout=300)
    yield root
    sh("sh", "-ec", "make uninstall", cwd=ROOT, env=env, timeout=300)
    assert "`sudo make uninstall`" in README
    assert [path for path in root.rglob("*") if not path.is_dir()] == []


@pytest.fixture(scope="module")
def pebble(lab):
    return Pebble(lab)


@pytest.fixture(scope="module")
def nginx(lab):
    return Nginx(lab.edge)


@pytest.fixture
def user(lab, pebble, nginx, installed, steer):
    shell = Shell(lab, pebble, steer.plane, installed / "usr/local/sbin/acme-steer")
    shell.names({NAME: [lab.edge.v6, lab.edge.v4], SERVED: [lab.edge.v6, lab.edge.v4]})

    def run(script, **kwargs):
        script = script.replace(HOOKS, f"{installed}{HOOKS}").replace("admin@example.org", "admin@example.test")
        return shell.run(script.replace("sudo ", ""), **kwargs)
    run.shell = shell
    yield run
    # The program is another copy than the fixture's, and the process its own.
    shell.run("acme-steer close --all", code=None)


def test_first_certificate_and_renewal(lab, nginx, pebble, user, steer):
    assert "nothing is in the way" in user(lines("sudo acme-steer doctor"))
    assert "no window is open" in user("acme-steer status", code=3)
    user(lines("acme-steer run -- lego -a -m admin@example.org -d www.example.org \\\n"
               "    --tls --tls.port 127.0.0.1:31443 run"))
    issuer, names = pebble.describe(user.shell.certificate())
    assert "Pebble Intermediate CA" in issuer and names == {NAME}
    first = user.shell.certificate().read_bytes()
    user(lines("acme-steer run -- lego -a -m admin@example.org -d www.example.org \\\n"
               "    --tls --tls.port 127.0.0.1:31443 renew --no-random-sleep"))
    assert user.shell.certificate().read_bytes() != first
    assert "no window is open" in user("acme-steer status", code=3)


def test_renewal_by_timer(lab, nginx, pebble, user, tmp_path):
    """The units that the README shows: systemd takes them, and what they start renews."""
    units = dict(re.findall(r"^```ini\n# (/etc/systemd/system/\S+)\n(.*?)^```$", README, re.M | re.S))
    assert sorted(os.path.splitext(path)[1] for path in units) == [".service", ".timer"]
    files = []
    for path, text in units.items():
        files.append(tmp_path / os.path.basename(path))
        files[-1].write_text(re.sub(rf"(?<=ExecStart=){HOOKS}", f"{user.shell.dir.parent}/installed{HOOKS}", text))
    done = subprocess.run(["systemd-analyze", "verify", *files], capture_output=True, text=True, timeout=60,
                          check=False)
    assert done.returncode == 0 and str(tmp_path) not in done.stderr, done.stderr
    timer, = (text for path, text in units.items() if path.endswith(".timer"))
    when, = re.findall(r"^OnCalendar=(.*)$", timer, re.M)
    sh("systemd-analyze", "calendar", when)
    service, = (text for path, text in units.items() if path.endswith(".service"))
    command, = re.findall(r"^ExecStart=(.*)$", service, re.M)
    user(re.sub(r" renew .*", " run", command))
    first = user.shell.certificate().read_bytes()
    user.shell.program("systemctl", '#!/bin/sh\necho "$@" >reloaded\n')
    user(command)
    assert user.shell.certificate().read_bytes() != first
    assert (user.shell.dir / "reloaded").read_text() == "reload nginx\n"
    assert ".lego/certificates" in README and user.shell.certificate().parent.name == "certificates"


# --- what goes wrong ------------------------------------------------------------------------------------------------

def normal(text):
    """Without what differs from host to host."""
    text = re.sub(r"\[[0-9a-f:]+\](:\d+)?|\b[0-9a-f]+(:[0-9a-f]*){3,}[0-9a-f]", "ADDRESS", text)
    text = re.sub(r"\b\d+\.\d+\.\d+\.\d+(:\d+)?", "ADDRESS", text)
    text = re.sub(r"(?<![\w-])[\w-]{43}(?![\w-])", "DIGEST", text)
    text = re.sub(r"\b[a-z0-9_.-]+ \(pid \d+\)", "SOMEBODY", text)
    text = re.sub(r"\d+(\.\d+)?", "#", text)
    return " ".join(text.split())


ENTRIES = {normal(line.strip()) for block in re.findall(r"^```text\n(.*?)^```$", PAGE, re.M | re.S)
           for line in block.splitlines()}


def look_up(output, *wanted):
    """Each of the lines with these words is in the page."""
    for words in wanted:
        found = [line.strip() for line in output.splitlines() if words in line]
        assert found, f"not said: {words}\n{output}"
        assert normal(found[0]) in ENTRIES, f"docs/troubleshooting.md does not have: {found[0]}"


@contextlib.contextmanager
def without(nginx):
    nginx.stop()
    try:
        yield
    finally:
        nginx.start()


@contextlib.contextmanager
def instead(lab, nginx, argv):
    with without(nginx):
        server = lab.edge.start("instead", argv)
        wait_until(lambda: lab.edge.listening(443), what="it listens")
        try:
            yield server
        finally:
            server.stop()


@contextlib.contextmanager
def nft(netns, chain, rule, hook="input", priority="0", kind="filter", policy="accept"):
    netns.run("nft", "-f", "-", input=f"table inet filter {{\n chain {chain} {{\n type {kind} hook {hook} "
              f"priority {priority}; policy {policy}; {rule}\n}}\n}}\n")
    try:
        yield
    finally:
        netns.run("nft", "delete", "table", "inet", "filter")


@contextlib.contextmanager
def listens(lab, nginx, address, protocol=0):
    def body():
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM, protocol)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, 443))
        sock.listen()
        return sock
    with without(nginx):
        with lab.edge.inside(body):
            yield


class Case:
    """All that a breakage may need."""

    def __init__(self, lab, nginx, user):
        self.lab, self.nginx, self.user = lab, nginx, user
        self.digest = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode().rstrip("=")

    def doctor(self, options="", code=None):
        return self.user(f"acme-steer doctor {options}", code=code)

    def probe(self, name=NAME, options="", code=1):
        """From outside."""
        return self.user(f"acme-steer probe {name} --timeout {round(longer(2))} {options}", netns=self.lab.ca, code=code)

    @contextlib.contextmanager
    def challenge(self):
        self.user(f"acme-steer challenge add {NAME} {self.digest}")
        try:
            yield
        finally:
            self.user(f"acme-steer challenge remove {NAME}")


def no_window(case):
    look_up(case.probe(SERVED), "a web server with a certificate for this name answered", "no window is open now")


def no_window_no_certificate(case):
    look_up(case.probe(), "certificate for other names answered", "the name's address is another host's",
            "the web server has no virtual host")


def other_domain(case):
    case.user("acme-steer open --domain other.example.org")
    look_up(case.probe(SERVED), "a window is open, but not for this name (--domain)")
    case.user("acme-steer close")


def web_server_down(case):
    with without(case.nginx):
        look_up(case.doctor(code=1), "nobody listens on port 443", "start the web server; or name its port")
        look_up(case.probe(), "connection refused", "nobody listens on the port there", "a CA could not connect")
        assert "443" in case.user("acme-steer open", code=1)


def firewall_drops(case):
    with nft(case.lab.edge, "input", "tcp dport 22 accept", policy="drop"):
        look_up(case.probe(), "no answer at all", "a firewall or security group drops the port")
        look_up(case.doctor(), "no rule that accepts the port was found", "accept TCP to the port from everybody")


def firewall_rejects(case):
    with nft(case.lab.edge, "input", "tcp dport 443 reject with icmpx type admin-prohibited"):
        look_up(case.probe(), "unreachable: ", "a firewall rejects the port")


def no_ipv6(case):
    with listens(case.lab, case.nginx, "0.0.0.0"):
        look_up(case.doctor(), "IPv4 only, but the host has an IPv6 address", "let the web server listen on IPv6, too")


def aaaa_elsewhere(case):
    """Another server at the name's IPv6 address; here it stands beside the CA."""
    cert, key = make_cert(case.lab.dir, f"elsewhere-{secrets.token_hex(3)}", EC, "DNS:elsewhere.example.org")
    server = case.lab.ca.start("elsewhere", ["openssl", "s_server", "-accept", f"[{case.lab.ca.v6}]:443", "-cert",
                                             cert, "-key", key, "-alpn", "http/1.1", "-www"])
    wait_until(lambda: case.lab.ca.listening(443), what="it listens")
    case.user.shell.names({NAME: [case.lab.ca.v6, case.lab.edge.v4]})
    with case.challenge():
        look_up(case.probe(), "the AAAA record points to another host", "a CA would fail at")
    server.stop()


def plain_http(case):
    conf = case.lab.dir / "plain.conf"
    conf.write_text(f"daemon off; pid {case.lab.dir}/plain.pid; error_log stderr; events {{}}\n"
                    "http { access_log off; server { listen 443; listen [::]:443; } }\n")
    with instead(case.lab, case.nginx, ["nginx", "-p", case.lab.dir, "-e", "stderr", "-c", conf]):
        look_up(case.probe(), "what answered is not TLS", "the port serves something else: plain HTTP on 443")


def syncookies_off(case):
    case.lab.edge.run("sysctl", "-qw", "net.ipv4.tcp_syncookies=0")
    try:
        look_up(case.doctor(), "net.ipv4.tcp_syncookies is 0", "sysctl -w net.ipv4.tcp_syncookies=1")
    finally:
        case.lab.edge.run("sysctl", "-qw", "net.ipv4.tcp_syncookies=1")


def redirected(case):
    with nft(case.lab.edge, "prerouting", "tcp dport 443 redirect to :8443", "prerouting", "dstnat", "nat"):
        look_up(case.doctor(), "leads connections to port 443 away",
                "steer where connections arrive: in the container's network namespace")


def synproxy(case):
    with nft(case.lab.edge, "input", "tcp dport 443 ct state { invalid, untracked } synproxy mss 1460 wscale 7 "
             "timestamp sack-perm"):
        look_up(case.doctor(code=1), "answers handshakes itself", "use --plane=relay")


def in_a_container(case):
    """The CA's namespace stands for a host whose container is the edge."""
    out = case.user("acme-steer doctor", netns=case.lab.ca, code=1)
    look_up(out, "nobody listens on port 443 in this network namespace, but nginx", "steer there: --netns=")


def no_responder(case):
    case.user("acme-steer open --responder 127.0.0.1:31443")
    look_up(case.doctor(), "nobody listens at 127.0.0.1:31443", "start the ACME client")
    look_up(case.user(f"acme-steer probe {NAME} --address {case.lab.edge.v4}", netns=case.lab.ca, code=1),
            "but nobody answers at its responder's address")
    case.user("acme-steer close")


def wrong_certificate(case):
    responder = openssl_responder(case.lab.edge, 31443, [NAME], case.lab.dir)
    case.user("acme-steer open")
    look_up(case.probe(), "answers acme-tls/1, but the certificate ",
            "the ACME client's responder makes another kind of certificate")
    case.user("acme-steer close")
    responder.stop()


def wrong_digest(case):
    other = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode().rstrip("=")
    with case.challenge():
        look_up(case.probe(options=f"--expect={other}"), "answers acme-tls/1, but with another digest",
                "an earlier challenge is still being answered", "several hosts share the name")


def mptcp(case):
    with listens(case.lab, case.nginx, "0.0.0.0", IPPROTO_MPTCP):
        look_up(case.doctor(), "can't be handed off", "let it listen without MPTCP")


def loopback_only(case):
    with listens(case.lab, case.nginx, "127.0.0.1"):
        look_up(case.doctor(code=1), "on loopback only", "let it listen on the host's own addresses")


def not_root(case):
    out = case.user("setpriv --reuid=65534 --regid=65534 --clear-groups acme-steer doctor", code=1)
    look_up(out, "missing: CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN, CAP_NET_RAW", "run it as root; in a container add")


def resident_hangs(case):
    case.user("acme-steer open")
    pid = int(re.search(r'"pid": (\d+)', case.user("acme-steer status --json"))[1])
    os.kill(pid, signal.SIGSTOP)
    try:
        look_up(case.doctor(code=1), "didn't answer within", 'end it (`ps` shows "acme-steer serve"')
        assert get(case.lab), "the web server has the port"
    finally:
        os.kill(pid, signal.SIGCONT)
    case.user("acme-steer close")


def large_packets_lost(case):
    with nft(case.lab.edge, "input", "tcp dport 443 meta length > 1000 drop"):
        look_up(case.probe(), "answers a short ClientHello", "large packets are dropped on the way")


def no_address(case):
    look_up(case.probe("no-such-name.invalid"), "correct the name, or add A or AAAA records")


BREAKAGES = [no_window, no_window_no_certificate, other_domain, web_server_down, firewall_drops, firewall_rejects,
             no_ipv6, aaaa_elsewhere, plain_http, syncookies_off, redirected, synproxy, in_a_container, no_responder,
             wrong_certificate, wrong_digest, mptcp, loopback_only, not_root, resident_hangs, large_packets_lost,
             no_address]


@pytest.mark.parametrize("breakage", BREAKAGES, ids=lambda breakage: breakage.__name__)
def test_breakage(lab, nginx, user, steer, breakage):
    """It is named, and the page has it; then it is mended, and all is well."""
    case = Case(lab, nginx, user)
    breakage(case)
    user.shell.names({NAME: [lab.edge.v6, lab.edge.v4]})
    assert "nothing is in the way" in case.doctor(code=0)
    with case.challenge():
        assert "with the digest that is expected" in case.probe(options=f"--expect={case.digest}", code=0)


def test_each_has_a_page_section():
    """The page is found by what a CA or an ACME client says."""
    for words in ("Cannot negotiate ALPN protocol", "Incorrect validation certificate", "Timeout during connect",
                  "Connection refused", "unauthorized", "could not determine solvers",
                  "The supported validation types are"):
        assert words in PAGE, words
