# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""The web server, the CA and the ACME client: Debian's nginx, pebble and lego, as they are."""

import hashlib
import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import threading

from lab import TOOLS, longer, sh, wait_until

SMALL = b"a small page, the same for everybody\n" * 20
DOWNLOAD_BYTES = 8 << 20


def make_cert(directory, name, key_options, san, ca=None):
    """A self-signed certificate, or one signed by ca; (certificate, key)."""
    cert, key = directory / f"{name}.pem", directory / f"{name}.key"
    argv = ["openssl", "req", "-x509", "-newkey", *key_options, "-nodes", "-days", "30",
            "-subj", f"/CN={name}", "-keyout", key, "-out", cert]
    if san:
        argv += ["-addext", f"subjectAltName={san}"]
    if ca:
        argv += ["-CA", ca[0], "-CAkey", ca[1], "-addext", "basicConstraints=critical,CA:FALSE"]
    sh(*argv)
    return cert, key


# Where nginx has what the package gives it below /var/lib.
NGINX_TEMP_PATHS = """    client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;
"""


class Nginx:
    """nginx in a namespace, with a directory of its own."""

    CONF = """
user root;
worker_processes 2;
worker_rlimit_nofile 16384;
daemon off;
pid {dir}/nginx.pid;
error_log {dir}/error.log info;
events {{ worker_connections 8000; }}
http {{
    log_format peer '$remote_addr $remote_port $status $ssl_server_name $request_uri';
    access_log {dir}/access.log peer;
""" + NGINX_TEMP_PATHS + """    default_type application/octet-stream;
    client_header_timeout {header_timeout};
    client_max_body_size 2g;
    keepalive_timeout 600s;
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_early_data {early_data};
    server {{
        {listen}
        server_name _;
        ssl_certificate {cert};
        ssl_certificate_key {key};
        root {dir}/www;
        location / {{ try_files /small =404; }}
        location = /download {{ try_files /download =404; }}
        location /upload/ {{ root {dir}; dav_methods PUT; }}
    }}
    server {{
        {listen_odd}
        server_name odd.example.test;
        ssl_certificate {odd_cert};
        ssl_certificate_key {odd_key};
        ssl_session_tickets off;
        root {dir}/www;
        location / {{ try_files /small =404; }}
    }}
}}
"""

    def __init__(self, netns, header_timeout=10, port=443, early_data=False):
        self.netns = netns
        self.port = port
        self.process = None
        self.dir = netns.lab.dir / "nginx"
        for sub in ("www", "upload", "body"):
            (self.dir / sub).mkdir(parents=True, exist_ok=True)
        self.small = self.dir / "www" / "small"
        self.small.write_bytes(SMALL)
        sh(TOOLS / "longlived", "--make-file", self.dir / "www" / "download",
           "--download-bytes", DOWNLOAD_BYTES)
        cert, key = make_cert(self.dir, "web", ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"],
                              "DNS:www.example.test")
        # Ed25519 signatures have one length, so handshakes can be compared by record lengths.
        odd_cert, odd_key = make_cert(self.dir, "odd", ["ed25519"], "DNS:odd.example.test")
        addresses = ["0.0.0.0"] if netns.v4 else []
        addresses += ["[::]"] if netns.v6 else []
        listen = [f"listen {a}:{port} ssl{' ipv6only=on' if a == '[::]' else ''};"
                  for a in addresses]
        odd = [f"listen {a}:{port} ssl;" for a in addresses]
        (self.dir / "nginx.conf").write_text(self.CONF.format(
            dir=self.dir, cert=cert, key=key, odd_cert=odd_cert, odd_key=odd_key,
            listen=" ".join(listen), listen_odd=" ".join(odd), header_timeout=f"{longer(header_timeout):.0f}s",
            early_data="on" if early_data else "off"))
        self.start()

    def start(self):
        self.process = self.netns.start("nginx", ["nginx", "-p", self.dir, "-c",
                                                  self.dir / "nginx.conf", "-e",
                                                  self.dir / "error.log"])
        wait_until(lambda: self.netns.listening(self.port) or not self.process.running(),
                   what="nginx listens")
        wait_until(lambda: not self.process.running() or len(self.workers()) >= 2,
                   what="nginx has its workers")
        assert self.process.running(), f"nginx did not start: {self.process.stderr()}"

    def workers(self):
        pid = self.process.pid
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as f:
            return [int(worker) for worker in f.read().split()]

    def stop(self, sig=signal.SIGTERM):
        self.process.stop(sig)

    def restart(self):
        self.stop()
        self.start()

    def log_position(self):
        """Where both logs end now."""
        return tuple((self.dir / name).stat().st_size if (self.dir / name).exists() else 0
                     for name in ("access.log", "error.log"))

    def _lines(self, name, position):
        with open(self.dir / name, "rb") as f:
            f.seek(position)
            return f.read().decode(errors="replace").splitlines()

    def peers(self, since=(0, 0)):
        """(address, port) of each request in the access log."""
        return [(words[0], int(words[1])) for words in
                (line.split() for line in self._lines("access.log", since[0]))]

    def access_lines(self, since=(0, 0)):
        return self._lines("access.log", since[0])

    def error_lines(self, since=(0, 0)):
        """Lines without what differs from run to run: time, process, connection number."""
        cut = re.compile(r"^\S+ \S+ \[(\w+)\] \d+#\d+: (?:\*\d+ )?")
        return [cut.sub(r"[\1] ", line) for line in self._lines("error.log", since[1])]

    def check_uploads(self, result):
        """Every upload that longlived reports is on disk, byte for byte."""
        for upload in result["uploads"]:
            path = self.dir / upload["path"].lstrip("/")
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            assert digest == upload["sha256"], f"{upload['path']}: stored bytes differ"
            path.unlink()


class FarDns:
    """Passes queries on to the DNS server at port 8053 of its namespace, each so much later."""

    def __init__(self, netns, delay_s):
        self.delay_s = delay_s
        self.front = netns.inside(self._socket)
        self.front.bind(("127.0.0.1", 0))
        self.netns = netns
        self.address = "127.0.0.1:%d" % self.front.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    @staticmethod
    def _socket():
        return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def _serve(self):
        while True:
            query, client = self.front.recvfrom(65535)
            threading.Timer(self.delay_s, self._ask, (query, client)).start()

    def _ask(self, query, client):
        with self.netns.inside(self._socket) as back:
            back.settimeout(longer(5))
            back.sendto(query, ("127.0.0.1", 8053))
            self.front.sendto(back.recv(65535), client)


class Pebble:
    """The CA: pebble and its DNS server, in the namespace of the clients.

    dns_delay_s: how long a look-up takes. Without, pebble connects 2 ms after a client has said that it is
    ready, which no CA does that is on another host.
    """

    def __init__(self, lab, dns_delay_s=0):
        self.lab = lab
        self.dir = lab.dir / "pebble"
        self.dir.mkdir()
        ca = make_cert(self.dir, "minica", ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"], None)
        self.ca_cert = ca[0]
        host = lab.ca.v4 or lab.ca.v6
        cert, key = make_cert(self.dir, "pebble", ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"],
                              f"IP:{host}", ca)
        in_url = host if lab.ca.v4 else f"[{host}]"
        self.directory = f"https://{in_url}:14000/dir"
        (self.dir / "pebble.json").write_text(json.dumps({"pebble": {
            "listenAddress": f"{in_url}:14000", "managementListenAddress": "127.0.0.1:15000",
            "certificate": str(cert), "privateKey": str(key),
            "httpPort": 80, "tlsPort": 443, "ocspResponderURL": "",
            "externalAccountBindingRequired": False}}))
        lab.ca.start("challtestsrv", [
            "pebble-challtestsrv", "-dns01", "127.0.0.1:8053", "-http01", "", "-https01", "",
            "-tlsalpn01", "", "-management", "127.0.0.1:8055",
            "-defaultIPv4", lab.edge.v4 or "", "-defaultIPv6", lab.edge.v6 or ""])
        wait_until(lambda: lab.ca.listening(8055), what="pebble-challtestsrv listens")
        env = dict(os.environ, PEBBLE_VA_NOSLEEP="1", PEBBLE_WFE_NONCEREJECT="0",
                   PEBBLE_AUTHZREUSE="0")
        dns = FarDns(lab.ca, dns_delay_s).address if dns_delay_s else "127.0.0.1:8053"
        self.process = lab.ca.start("pebble", ["pebble", "-config", self.dir / "pebble.json",
                                               "-dnsserver", dns], env=env)
        wait_until(lambda: lab.ca.listening(14000), what="pebble listens")

    def lego(self, *domains, responder="127.0.0.1:31443"):
        """lego's command line, its environment, and where its certificate will be."""
        path = self.lab.dir / "lego"
        argv = ["lego", "-a", "-m", "admin@example.test", "-s", self.directory, "--path", path,
                "--tls", "--tls.port", responder]
        for domain in domains:
            argv += ["-d", domain]
        env = dict(os.environ, LEGO_CA_CERTIFICATES=str(self.ca_cert))
        return ([str(a) for a in (*argv, "run")], env,
                path / "certificates" / f"{domains[0]}.crt")

    @staticmethod
    def describe(cert):
        """(issuer, names) of a certificate file."""
        text = sh("openssl", "x509", "-noout", "-issuer", "-ext", "subjectAltName", "-in", cert)
        issuer = re.search(r"issuer=(.*)", text)[1].strip()
        return issuer, set(re.findall(r"DNS:([^\s,]+)", text))


def responder_cert(port, names, directory):
    return make_cert(directory, f"responder-{port}", ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"],
                     ",".join(f"DNS:{name}" for name in names))


def openssl_responder(netns, port, names, directory, connections=100, cert=None):
    """An ACME responder like acme.sh's: openssl s_server, acme-tls/1 only. Without `cert` it makes one first."""
    cert, key = cert or responder_cert(port, names, directory)
    process = netns.start(f"responder-{port}", [
        "openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-alpn", "acme-tls/1",
        "-cert", cert, "-key", key, "-quiet", "-naccept", connections])
    wait_until(lambda: netns.listening(port), what=f"responder on {port}")
    return process


def tls_client(netns, address, sni, alpn, source=None, timeout=15):
    """What a TLS client gets: {"alpn":…, "subject":…} or {"error":…}."""
    host = f"[{address}]" if ":" in address else address
    argv = ["openssl", "s_client", "-connect", f"{host}:443", "-servername", sni,
            "-alpn", alpn, "-tls1_3"]
    if source:
        argv += ["-bind", f"[{source}]:0" if ":" in source else f"{source}:0"]
    done = subprocess.run(netns.command(argv), stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=longer(timeout), check=False)
    subject = re.search(r"^subject=(.*)$", done.stdout, re.M)
    protocol = re.search(r"^ALPN protocol: (.*)$", done.stdout, re.M)
    if not subject:
        error = re.search(r"error:[^\n]*", done.stderr)
        return {"error": re.sub(r"^error:[0-9A-F]*:", "", error[0]) if error else done.stderr}
    return {"subject": subject[1].strip(), "alpn": protocol[1] if protocol else None}


def get(lab, address=None, timeout=5):
    """One request; the body."""
    sock = lab.ca.connect(address or lab.edge.v4, timeout=timeout)
    return get_on(sock)


def tls_on(sock):
    """The TLS connection, of a client that trusts everybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(sock, server_hostname="www.example.test")


def request_on(tls, last=False):
    """One request; the body."""
    connection = "close" if last else "keep-alive"
    tls.sendall(f"GET / HTTP/1.1\r\nHost: www.example.test\r\nConnection: {connection}\r\n\r\n".encode())
    response = http.client.HTTPResponse(tls)
    response.begin()
    return response.read()


def get_on(sock):
    with tls_on(sock) as tls:
        return request_on(tls, last=True)
