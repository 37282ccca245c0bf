# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""probe tells apart what can answer where a CA connects; run as nobody, from the namespace of the CA."""

import json
import re
import secrets
import shutil
import socket
import ssl
import struct
import subprocess
import threading

import pytest

from lab import longer, wait_until
from servers import make_cert, openssl_responder
from steer import BINARIES, BINARY
from test_challenge import add, base64url, colons, remove

pytestmark = pytest.mark.needs_steer

NAME = "www.example.test"
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
EC = ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
PORT = 9443


class Result:
    """What one run of probe said."""

    def __init__(self, done):
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr
        self.document = json.loads(self.out) if self.out.startswith("{") else None

    def address(self, address):
        return next(a for a in self.document["addresses"] if a["address"] == address)

    @property
    def only(self):
        address, = self.document["addresses"]
        return address


@pytest.fixture(scope="module")
def binary(lab):
    folder = lab.dir / "for-all"
    folder.mkdir()
    for program in BINARIES:
        shutil.copy(program, folder)
    return folder / BINARY.name


@pytest.fixture
def probe(lab, binary, nginx):
    def run(*args, files=None, timeout=2):
        """files: {path: text}, in its own mount namespace."""
        argv = [*NOBODY, binary, "probe", f"--timeout={round(longer(timeout))}", *args]
        if files:
            script = "set -e; "
            for number, (path, text) in enumerate(files.items()):
                ours = lab.dir / f"file-{number}"
                ours.write_text(text)
                script += f"mount --bind {ours} {path}; "
            argv = ["unshare", "--mount", "sh", "-c", f'{script} exec "$@"', "sh", *argv]
        done = subprocess.run(lab.ca.command(argv), capture_output=True, text=True,
                              timeout=longer(60), stdin=subprocess.DEVNULL, check=False)
        assert "AddressSanitizer" not in done.stderr, done.stderr
        return Result(done)

    def look(*args, **kwargs):
        result = run("--json", *args, **kwargs)
        assert result.document, (result.out, result.err)
        # What people get to read says the same, and the remedies stand below it.
        text = run(*args, **kwargs)
        assert text.code == result.code and text.err == result.err == ""
        lines = text.out.splitlines()
        assert result.document["verdict"] in lines[-1]
        for address in result.document["addresses"]:
            if address["situation"] not in ("silent", "timeout"):  # how long differs
                assert address["finding"] in text.out
            for cause in address["causes"]:
                assert cause in text.out
            assert address["causes"] or address["situation"] == "ready"
        return result
    look.run = run
    return look


@pytest.fixture
def server(lab):
    """Python servers in the edge: handler(connection) is called for each connection, in a thread."""
    listeners = []

    def start(handler, address=None, port=PORT):
        def listen():
            family = socket.AF_INET6 if ":" in (address or "") else socket.AF_INET
            sock = socket.socket(family)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((address or lab.edge.v4, port))
            sock.listen()
            return sock

        def handle(connection):
            try:
                handler(connection)
            except OSError:
                pass

        def serve():
            while True:
                try:
                    connection, _peer = listener.accept()
                except OSError:
                    return
                threading.Thread(target=handle, args=(connection,), daemon=True).start()

        listener = lab.edge.inside(listen)
        listeners.append(listener)
        threading.Thread(target=serve, daemon=True).start()
    yield start
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@pytest.fixture
def firewall(lab):
    def load(*rules):
        text = "".join(f"        {rule}\n" for rule in rules)
        lab.edge.run("nft", "-f", "-", input="table inet probe {\n    chain input {\n"
                     "        type filter hook input priority 0; policy accept;\n"
                     f"{text}    }}\n}}\n")
    yield load
    lab.edge.run("nft", "delete", "table", "inet", "probe", check=False)


def at(lab, port=PORT):
    return ["--address", lab.edge.v4, "--port", port]


def tls_server(lab, names, alpn=None, response=b"HTTP/1.1 200 OK\r\n\r\n", sni=None):
    """A handler that speaks TLS, and answers the request."""
    cert, key = make_cert(lab.dir, f"server-{secrets.token_hex(3)}", EC,
                          ",".join(f"DNS:{name}" for name in names))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    if alpn:
        context.set_alpn_protocols(alpn)
    context.sni_callback = sni

    def handler(connection):
        with connection, context.wrap_socket(connection, server_side=True) as tls:
            if tls.recv(4096):
                tls.sendall(response)
    return handler


def test_ready(lab, nginx, steer, probe):
    data = secrets.token_bytes(32)
    addresses = ["--address", lab.edge.v6, "--address", lab.edge.v4]
    add(steer, NAME, data)
    result = probe(NAME, *addresses)
    assert result.code == 0, result.out
    assert [a["address"] for a in result.document["addresses"]] == [lab.edge.v6, lab.edge.v4]
    for address in result.document["addresses"]:
        assert (address["situation"], address["level"]) == ("ready", "ok")
        assert address["digest"] == base64url(data) and address["alpn"] == "acme-tls/1"
    assert "--expect" in result.document["verdict"]

    for form in (base64url(data), data.hex(), colons(data).upper()):
        result = probe(NAME, *addresses, "--expect", form)
        assert result.code == 0 and "expected" in result.document["verdict"], result.out
    result = probe(NAME, *addresses, f"--expect={base64url(secrets.token_bytes(32))}")
    assert result.code == 1
    for address in result.document["addresses"]:
        assert address["situation"] == "other-digest" and base64url(data) in address["finding"]
        assert "challenge list" in address["causes"][0]
    # In capitals it is the same name.
    assert probe(NAME.upper(), *addresses).code == 0
    remove(steer, NAME)
    assert probe(NAME, *addresses).code == 1


def test_ready_for_an_address(lab, nginx, steer, probe):
    """An IP identifier: the SNI is its reverse name, the certificate has the address."""
    for address in (lab.edge.v4, lab.edge.v6):
        data = secrets.token_bytes(32)
        add(steer, address, data)
        result = probe(address, "--expect", base64url(data))
        assert result.code == 0 and result.only["address"] == address, result.out
        remove(steer, address)
        assert probe(address).only["situation"] == "default-certificate"


def test_web_server(lab, probe):
    result = probe(NAME, "--address", lab.edge.v6, "--address", lab.edge.v4)
    assert result.code == 1
    for address in result.document["addresses"]:
        assert address["situation"] == "web-server"
        assert address["alert"] == 120 and "no_application_protocol" in address["finding"]
        assert address["certificate"]["names"] == NAME and address["certificate"]["for_name"]
        assert address["server"].startswith("nginx/")
        assert "no window is open" in address["causes"][0]
        assert "--netns" in address["causes"][1] and "in front" in address["causes"][2]


def test_default_certificate(lab, probe):
    result = probe("other.example.test", *at(lab, 443))
    assert result.code == 1 and result.only["situation"] == "default-certificate"
    assert "self-signed" in result.only["finding"]
    assert result.only["certificate"]["names"] == NAME
    assert "A and AAAA records" in result.only["causes"][0]


def test_bad_certificate(lab, probe):
    """A responder that makes ordinary certificates, on loopback, seen by a port forwarding."""
    lab.edge.run("sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1")
    lab.edge.run("nft", "-f", "-", input="""
table ip forward {
    chain prerouting {
        type nat hook prerouting priority dstnat;
        tcp dport %d dnat to 127.0.0.1:31444
    }
}
""" % PORT)
    responder = openssl_responder(lab.edge, 31444, [NAME], lab.dir)
    try:
        result = probe(NAME, *at(lab))
    finally:
        responder.stop()
        lab.edge.run("nft", "delete", "table", "ip", "forward")
    assert result.code == 1 and result.only["situation"] == "bad-certificate"
    assert result.only["alpn"] == "acme-tls/1" and result.only["digest"] is None
    assert "no acmeIdentifier" in result.only["finding"]
    assert "responder" in result.only["causes"][0]


def test_alpn_stripped(lab, probe, server):
    server(tls_server(lab, [NAME]))
    result = probe(NAME, *at(lab))
    assert result.code == 1 and result.only["situation"] == "alpn-stripped"
    assert "drops ALPN" in result.only["causes"][0]


def test_alpn_ignored(lab, probe, server):
    """A web server that answers with a protocol of its own, or none, instead of an alert."""
    server(tls_server(lab, [NAME], alpn=["http/1.1"]))
    result = probe(NAME, *at(lab))
    assert result.only["situation"] == "web-server"
    assert "no protocol instead of acme-tls/1" in result.only["finding"]


def test_cdn(lab, probe, server):
    server(tls_server(lab, [NAME, "*.example.test"], alpn=["h2", "http/1.1"],
                      response=b"HTTP/1.1 200 OK\r\nServer: cloudflare\r\nCF-RAY: 1-ABC\r\n\r\n"))
    result = probe(NAME, *at(lab))
    assert result.code == 1 and result.only["situation"] == "cdn"
    assert result.only["cdn"] == "Cloudflare" and "Cloudflare" in result.only["finding"]
    assert "DNS-01" in result.only["causes"][0]


def test_tls_refused(lab, probe, server):
    server(tls_server(lab, [NAME],
                      sni=lambda *_: ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME))
    result = probe(NAME, *at(lab))
    assert result.code == 1 and result.only["situation"] == "tls-refused"
    assert result.only["alert"] == 112 and "unrecognized_name" in result.only["finding"]
    assert "no certificate yet" in result.only["causes"][0]


def test_not_tls(lab, probe, server):
    def plain(connection):
        with connection:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 400 Bad \x1b[31mRequest\r\nServer: x\r\n\r\n")
    server(plain)
    result = probe(NAME, *at(lab))
    assert result.code == 1 and result.only["situation"] == "not-tls"
    assert '"HTTP/1.1 400 Bad ?[31mRequest"' in result.only["finding"]
    assert "plain HTTP" in result.only["causes"][0]


def test_plain_http_nginx(lab, probe):
    conf = lab.dir / "plain.conf"
    conf.write_text(f"daemon off; pid {lab.dir}/plain.pid; error_log stderr; events {{}}\n"
                    f"http {{ access_log off; server {{ listen {PORT}; }} }}\n")
    nginx = lab.edge.start("plain", ["nginx", "-p", lab.dir, "-e", "stderr", "-c", conf])
    wait_until(lambda: lab.edge.listening(PORT), what="nginx listens")
    result = probe(NAME, *at(lab))
    nginx.stop()
    assert result.only["situation"] == "not-tls" and "HTTP/1.1 400" in result.only["finding"]


def test_refused(lab, probe):
    result = probe(NAME, *at(lab))
    assert result.code == 1 and result.only["situation"] == "refused"
    assert "nobody listens" in result.only["causes"][0]
    assert "could not connect" in result.document["verdict"]


def test_timeout(lab, probe, firewall):
    firewall(f"tcp dport {PORT} drop")
    result = probe(NAME, *at(lab), timeout=1)
    assert result.code == 1 and result.only["situation"] == "timeout"
    assert "firewall" in result.only["causes"][0] and "443" in result.only["causes"][0]


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_unreachable(lab, probe, firewall, family):
    firewall(f"tcp dport {PORT} reject with icmpx type admin-prohibited")
    result = probe(NAME, "--address", getattr(lab.edge, family), "--port", PORT)
    assert result.code == 1 and result.only["situation"] == "unreachable"
    assert "rejects" in result.only["causes"][0]


def test_no_route(lab, probe):
    result = probe(NAME, "--address", "203.0.113.1", "--port", PORT)
    assert result.code == 1 and result.only["situation"] == "no-route"
    assert result.only["level"] == "warn" and "another machine" in result.only["causes"][0]
    assert "nothing is known" in result.document["verdict"]


def test_reset(lab, probe, server):
    def reset(connection):
        connection.recv(1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
    server(reset)
    result = probe(NAME, *at(lab))
    assert result.code == 1 and result.only["situation"] == "reset"
    assert "inspects" in result.only["causes"][0]


def test_closed(lab, probe, server):
    def close(connection):
        with connection:
            while len(connection.recv(65536, socket.MSG_PEEK)) < 200:
                pass
            connection.recv(65536)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
    server(close)
    result = probe(NAME, *at(lab))
    assert result.code == 1 and result.only["situation"] == "closed"
    assert "nobody behind" in result.only["causes"][0]


def test_silent(lab, probe, server):
    held = []
    server(held.append)
    result = probe(NAME, *at(lab), timeout=1)
    assert result.code == 1 and result.only["situation"] == "silent"
    assert "hangs" in result.only["causes"][0]
    for connection in held:
        connection.close()


def test_long_hello_lost(lab, probe, server, firewall):
    """A way that drops what is longer than its MTU: only a CA's ClientHello is."""
    server(tls_server(lab, [NAME], alpn=["http/1.1"]))
    firewall(f"tcp dport {PORT} meta length > 1000 drop")
    result = probe(NAME, *at(lab), timeout=1)
    assert result.code == 1 and result.only["situation"] == "long-hello-lost"
    assert "MTU" in result.only["causes"][0]


def test_aaaa_elsewhere(lab, nginx, steer, probe, server):
    """The A record's host answers; the AAAA record's is another. A CA asks that one."""
    v6 = "2001:db8:443::2"
    lab.edge.run("ip", "address", "add", f"{v6}/64", "dev", lab.edge.device, "nodad")
    hosts = f"{lab.edge.v4} {NAME}\n{v6} {NAME}\n"
    add(steer, NAME, secrets.token_bytes(32), "--port", "443")
    lab.edge.run("nft", "-f", "-", input="""
table ip6 elsewhere {
    chain prerouting {
        type nat hook prerouting priority dstnat;
        ip6 daddr %s tcp dport 443 redirect to :%d
    }
}
""" % (v6, PORT))
    try:
        server(tls_server(lab, ["elsewhere.example.test"], alpn=["http/1.1"]), "::")
        result = probe(NAME, files={"/etc/hosts": hosts})
        assert result.code == 1
        assert result.address(lab.edge.v4)["situation"] == "ready"
        assert result.address(v6)["situation"] == "default-certificate"
        assert "AAAA record points to another host" in result.address(v6)["causes"][0]
        assert v6 in result.document["verdict"] and "IPv6 first" in result.document["verdict"]
        # Nobody there at all: Let's Encrypt goes on to IPv4.
        lab.edge.run("nft", "flush", "chain", "ip6", "elsewhere", "prerouting")
        lab.edge.run("nft", "add", "rule", "ip6", "elsewhere", "prerouting", "ip6", "daddr", v6,
                     "tcp", "dport", "443", "redirect", "to", f":{PORT + 1}")
        result = probe(NAME, files={"/etc/hosts": hosts})
        assert result.code == 0 and result.address(v6)["situation"] == "refused"
        assert "AAAA record" in result.address(v6)["causes"][0]
        assert "Let's Encrypt goes on" in result.document["verdict"]
    finally:
        lab.edge.run("nft", "delete", "table", "ip6", "elsewhere")
        lab.edge.run("ip", "address", "del", f"{v6}/64", "dev", lab.edge.device)
    remove(steer, NAME)


RESOLVER = {"/etc/resolv.conf": "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n",
            "/etc/hosts": "127.0.0.1 localhost\n"}


def test_dns(lab, nginx, probe):
    process = lab.ca.start("dns", [
        "pebble-challtestsrv", "-dns01", "127.0.0.1:53", "-http01", "", "-https01", "", "-tlsalpn01",
        "", "-management", "127.0.0.1:8056", "-defaultIPv4", lab.edge.v4, "-defaultIPv6",
        lab.edge.v6])
    wait_until(lambda: ":53 " in lab.ca.run("ss", "-Huln"), what="the DNS server listens")
    result = probe(NAME, files=RESOLVER)
    assert [a["address"] for a in result.document["addresses"]] == [lab.edge.v6, lab.edge.v4]
    assert {a["situation"] for a in result.document["addresses"]} == {"web-server"}
    assert "1 IPv6 and 1 IPv4" in probe.run(NAME, files=RESOLVER).out
    process.stop()


def test_no_such_name(lab, probe):
    """A DNS server that knows no name at all."""
    sock = lab.ca.inside(lambda: socket.socket(type=socket.SOCK_DGRAM))
    sock.bind(("127.0.0.1", 53))

    def serve():
        while True:
            query, peer = sock.recvfrom(4096)
            if not query:
                return
            # An answer, recursion available, NXDOMAIN; the question alone.
            sock.sendto(query[:2] + b"\x81\x83" + query[4:6] + bytes(6) + query[12:], peer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        result = probe(NAME, files=RESOLVER)
        assert result.code == 1 and result.document["addresses"] == []
        assert "no address to connect to" in result.document["verdict"]
        text = probe.run(NAME, files=RESOLVER).out
        assert "no A and no AAAA record" in text and "-> correct the name" in text
    finally:
        lab.ca.inside(lambda: socket.socket(type=socket.SOCK_DGRAM)).sendto(b"", ("127.0.0.1", 53))
        thread.join()
        sock.close()


def test_dns_fails(lab, probe):
    result = probe(NAME, files=RESOLVER)
    assert result.code == 1 and re.search("(?i)failure", result.document["dns_error"])


def test_private_address(lab, nginx, probe):
    lab.edge.run("ip", "address", "add", "10.99.0.1/24", "dev", lab.edge.device)
    lab.ca.run("ip", "address", "add", "10.99.0.2/24", "dev", lab.ca.device)
    result = probe(NAME, "--address", "10.99.0.1")
    assert result.only["private"] and result.only["situation"] == "web-server"
    assert "no public CA" in probe.run(NAME, "--address", "10.99.0.1").out


BAD = [
    (["probe"], "name is missing"),
    (["probe", "--json"], "name is missing"),
    (["probe", NAME, "more"], "more"),
    (["probe", "*.example.test"], "wildcard"),
    (["probe", "exa mple.test"], "host name"),
    (["probe", NAME, "--frobnicate"], "unknown option.*--frobnicate"),
    (["probe", NAME, "-q"], "unknown option.*-q"),
    (["probe", NAME, "--address", "localhost"], "address.*localhost"),
    (["probe", NAME, "--address", "127.0.0.1:8443"], "address.*8443"),
    (["probe", NAME, "--port", "0"], "port.*0"),
    (["probe", NAME, "--port", "https"], "port.*https"),
    (["probe", NAME, "--timeout", "0"], "timeout.*0"),
    (["probe", NAME, "--timeout", "soon"], "timeout.*soon"),
    (["probe", NAME, "--expect", "abc"], "digest.*abc"),
    (["probe", NAME, "--expect"], "value is missing"),
    (["probe", NAME, *["--address=127.0.0.1"] * 33], "too many addresses"),
]


@pytest.mark.parametrize("argv, pattern", BAD, ids=[" ".join(row[0])[:50] for row in BAD])
def test_refused_input(lab, steer, argv, pattern):
    result = steer.run(*argv)
    assert result.code == 2 and result.out == ""
    assert len(result.err.splitlines()) == 1 and re.match(r"acme-steer: .", result.err), result.err
    assert re.search(pattern, result.err), result.err
