# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""The ways to the web server that are measured: the same nginx on 443 behind each of them.

A variant is reached at its own port, so that all can be there at once; each is used in its turn only. What
has to be switched on for its turn (a window, a redirection) is switched off after it.
"""

import contextlib
import json
import os
import pathlib
import resource
import shlex
import shutil
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent / "tests" / "e2e"))

# pylint: disable=wrong-import-position
from lab import kill_pid, sh, wait_until  # noqa: E402
from servers import make_cert  # noqa: E402
from steer import BINARY, Steer  # noqa: E402

STREAM_MODULE = "/usr/lib/nginx/modules/ngx_stream_module.so"
OTHER = "BENCH_OTHER"

SMALL = b"a small page, the same for everybody\n" * 20
BULK_BYTES = 16 << 20


class BenchError(Exception):
    """What was measured is not what it says it is."""


def pattern(n):
    """Bytes that do not repeat soon, the same at each call."""
    block = bytearray()
    state = 1
    while len(block) < 65521:  # a prime: no two copies are alike at the same power of two
        state = state * 6364136223846793005 + 1442695040888963407 & (1 << 64) - 1
        block += state.to_bytes(8, "little")[3:]
    return (bytes(block[:65521]) * (n // 65521 + 1))[:n]


def file_limit():
    """Descriptors that a process can have; this one, and so its children, get as many."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(ValueError, OSError):
        hard = max(hard, 65536)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


class WebServer:
    """nginx on 443. It tells each client, in X-Peer, whom it saw."""

    CONF = """
user root;
worker_processes 2;
worker_rlimit_nofile {files};
daemon off;
pid {dir}/nginx.pid;
error_log {dir}/error.log warn;
events {{ worker_connections 32768; }}
http {{
    access_log off;
    client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;
    default_type application/octet-stream;
    client_max_body_size 2g;
    keepalive_timeout 600s;
    keepalive_requests 100000000;
    server {{
        listen 443 ssl;
        ssl_protocols TLSv1.3;
        ssl_certificate {cert};
        ssl_certificate_key {key};
        add_header X-Peer $remote_addr always;
        root {dir}/www;
        location / {{ try_files /small =404; }}
        location = /bulk {{ try_files /bulk =404; }}
        location /upload/ {{ root {dir}; dav_methods PUT; }}
    }}
}}
"""

    def __init__(self, lab):
        self.lab = lab
        # Where memory is the disk: the web server's writing is not what is measured.
        self.dir = pathlib.Path("/dev/shm") / lab.name
        for sub in ("www", "upload", "body"):
            (self.dir / sub).mkdir(parents=True)
        self.small = self.dir / "www" / "small"
        self.bulk = self.dir / "www" / "bulk"
        self.small.write_bytes(SMALL)
        self.bulk.write_bytes(pattern(BULK_BYTES))
        cert, key = make_cert(self.dir, "web", ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"],
                              "DNS:www.example.test")
        conf = self.dir / "nginx.conf"
        conf.write_text(self.CONF.format(dir=self.dir, cert=cert, key=key, files=file_limit()))
        self.process = lab.edge.start("web", ["nginx", "-p", self.dir, "-c", conf,
                                              "-e", self.dir / "error.log"])
        wait_listening(lab, 443, self.process)

    def check_uploads(self):
        """Whoever has uploaded: what the web server has of it is right, to the last byte."""
        want = self.bulk.read_bytes()
        files = sorted((self.dir / "upload").iterdir())
        if not files:
            raise BenchError("upload: the web server has nothing")
        for path in files:
            if path.read_bytes() != want:
                raise BenchError(f"upload: the web server has wrong bytes in {path.name}")
            path.unlink()

    def close(self):
        shutil.rmtree(self.dir, ignore_errors=True)


def wait_listening(lab, port, process):
    wait_until(lambda: lab.edge.listening(port) or not process.running(),
               what=f"{process.name} listens on port {port}")
    if not process.running():
        raise BenchError(f"{process.name} did not start: {process.stderr().strip()}")


def descendants(pid):
    """The process and all below it."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{parent}/task"):
                text = pathlib.Path(f"/proc/{parent}/task/{task}/children").read_text(encoding="ascii")
                found += map(int, text.split())
    return found


class Variant:
    """One way. Used as `with variant.turn(): ...`; check_route() inside, after a load."""

    name = label = None
    port = 443
    peer = "self"  # whom the web server must see

    def __init__(self, lab):
        self.lab = lab

    @property
    def target(self):
        return f"{self.lab.edge.v4}:{self.port}"

    @contextlib.contextmanager
    def turn(self):
        yield

    def check_route(self, connections):
        """Raises BenchError unless the last load's connections went this way."""

    def pids(self):
        """The processes that this way needs besides the web server."""
        return []


class Direct(Variant):
    name, label = "direct", "direct"

    def check_route(self, connections):
        for link in json.loads(sh("bpftool", "-j", "link", "show")):
            if link.get("netns_ino") == self.lab.edge.inode:
                raise BenchError("direct: something steers in the web server's namespace")


class Steered(Variant):
    """acme-steer with a window open; `counter` must have counted every connection, `other` none."""

    plane = counter = other = None
    options = ()

    def __init__(self, lab, steer):
        super().__init__(lab)
        self.steer = steer
        self._before = None

    def counters(self):
        return self.steer.ask()["counters"]

    @contextlib.contextmanager
    def turn(self):
        self.steer.open("--plane", self.plane, *self.options)
        self._before = self.counters()
        try:
            yield
        finally:
            self.steer.close()
            wait_until(lambda: not self.unfinished(), 30, "the window's connections have ended")

    def unfinished(self):
        links = json.loads(sh("bpftool", "-j", "link", "show"))
        return any(link.get("netns_ino") == self.lab.edge.inode for link in links)

    def check_route(self, connections):
        now = self.counters()
        grown = {name: now[name] - self._before[name] for name in now}
        self._before = now
        if grown[self.counter] < connections:
            raise BenchError(f"{self.name}: {connections} connections, but {self.counter} grew by {grown[self.counter]} "
                             f"only; all that grew: { {name: n for name, n in grown.items() if n} }")
        for name in (self.other, "lost"):
            if grown[name]:
                raise BenchError(f"{self.name}: {name} grew by {grown[name]}")

    def pids(self):
        return self.steer.residents()


class Auto(Steered):
    """As it comes: visitors' ClientHellos are read in passing, and hardly any connection is steered."""

    name, label = "auto", "acme-steer"
    plane, counter, other = "auto", "read_in_passing", "relayed_web"

    @contextlib.contextmanager
    def turn(self):
        with super().turn():
            # The devices may be guarded a moment after the window is open.
            before = self.counters()[self.counter]
            wait_until(lambda: self.visit() and self.counters()[self.counter] > before, what="the device is guarded")
            self._before = self.counters()
            yield

    def visit(self):
        with self.lab.ca.connect(self.lab.edge.v4) as sock:
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return sock.recv(100)


class HandOff(Steered):
    name, label = "handoff", "acme-steer, hand-off"
    plane, counter, other = "handoff", "handed_off_web", "relayed_web"


class Relay(Steered):
    name, label = "relay", "acme-steer, relay"
    plane, counter, other = "relay", "relayed_web", "handed_off_web"
    options = ("--client-ip", "none")  # as the proxies below
    peer = None  # set from where the relay connects from

    def __init__(self, lab, steer):
        super().__init__(lab, steer)
        self.peer = lab.edge.v4  # it asks for the address that the client asked for


class Proxy(Variant):
    """A program that listens on a port of its own all the time."""

    peer = "127.0.0.1"
    process = None

    def start(self, argv, port=None):
        self.process = self.lab.edge.start(self.name, argv)
        wait_listening(self.lab, port or self.port, self.process)

    def pids(self):
        return descendants(self.process.pid)

    def check_route(self, connections):
        """That the web server saw the proxy is checked response by response; is it this one's port?"""
        line = self.lab.edge.run("ss", "-Htlnp", f"sport = :{self.port}")
        if not any(f"pid={pid}," in line for pid in self.pids()):
            raise BenchError(f"{self.name}: port {self.port} is not its own: {line.strip()}")


class NginxStream(Proxy):
    name, label, port = "nginx-stream", "nginx stream, ssl_preread", 444

    CONF = """
load_module {module};
user root;
worker_processes 2;
worker_rlimit_nofile {files};
daemon off;
pid {dir}/nginx.pid;
error_log {dir}/error.log warn;
events {{ worker_connections 32768; }}
stream {{
    map $ssl_preread_alpn_protocols $target {{
        acme-tls/1 127.0.0.1:31443;
        default 127.0.0.1:443;
    }}
    server {{
        listen {port};
        ssl_preread on;
        proxy_pass $target;
    }}
}}
"""

    def __init__(self, lab):
        super().__init__(lab)
        directory = lab.dir / self.name
        directory.mkdir()
        conf = directory / "nginx.conf"
        conf.write_text(self.CONF.format(module=STREAM_MODULE, dir=directory, port=self.port,
                                         files=file_limit()))
        self.start(["nginx", "-p", directory, "-c", conf, "-e", directory / "error.log"])


class HAProxy(Proxy):
    name, label, port = "haproxy", "HAProxy, req.ssl_alpn", 445

    CONF = """
global
    maxpipes 64
    maxconn {maxconn}
defaults
    mode tcp
    option splice-auto
    timeout connect 10s
    timeout client 600s
    timeout server 600s
frontend tls
    bind :{port}
    {rules}
    default_backend web
backend acme
    server acme 127.0.0.1:31443
backend web
    server web 127.0.0.1:443
"""
    RULES = """tcp-request inspect-delay 5s
    tcp-request content accept if { req.ssl_hello_type 1 }
    use_backend acme if { req.ssl_alpn acme-tls/1 }"""

    def start_haproxy(self, port, rules):
        conf = self.lab.dir / f"{self.name}.cfg"
        # What it works out by itself leaves room for more pipes.
        maxconn = min(10000, (file_limit() - 1000) // 2)
        conf.write_text(self.CONF.format(port=port, rules=rules, maxconn=maxconn))
        self.start(["haproxy", "-db", "-f", conf], port)

    def __init__(self, lab):
        super().__init__(lab)
        self.start_haproxy(self.port, self.RULES)


class Ualpn(Proxy):
    name, label, port = "ualpn", "ualpn", 446

    def __init__(self, lab):
        super().__init__(lab)
        self.start(["ualpn", "-b", f"0.0.0.0@{self.port}", "-c", "127.0.0.1@443", "-P", "0",
                    "-p", lab.dir / "ualpn.pid", "-s", lab.dir / "ualpn.sock"])


class Redirected(Proxy):
    """A program behind a REDIRECT that is there in its turn only. `listening` is the program's port."""

    listening = None
    RULES = """table ip bench {{
    counter redirected {{ }}
    chain prerouting {{
        type nat hook prerouting priority dstnat;
        tcp dport {port} counter name redirected redirect to :{listening}
    }}
}}
"""

    _before = 0

    def redirected(self):
        text = self.lab.edge.run("nft", "-j", "list", "counter", "ip", "bench", "redirected")
        return next(o["counter"]["packets"] for o in json.loads(text)["nftables"] if "counter" in o)

    @contextlib.contextmanager
    def turn(self):
        self.lab.edge.run("nft", "-f", "-", input=self.RULES.format(port=self.port,
                                                                    listening=self.listening))
        self._before = 0
        try:
            yield
        finally:
            self.lab.edge.run("nft", "delete", "table", "ip", "bench")

    def check_route(self, connections):
        now = self.redirected()
        grown, self._before = now - self._before, now
        if grown < connections:
            raise BenchError(f"{self.name}: {connections} connections, {grown} of them redirected")


class Redirect(Redirected, HAProxy):
    """HAProxy without a look at the bytes is the plain forwarder."""

    name, label, port, listening = "redirect", "REDIRECT to a plain forwarder", 447, 8447

    def __init__(self, lab):  # pylint: disable=super-init-not-called
        Variant.__init__(self, lab)
        self.start_haproxy(self.listening, "")


def other_variant(lab, number, text):
    """Of "NAME=COMMAND", where {listen}, or {redirect}, and {web} stand for what it is to use."""
    name, equals, command = text.partition("=")
    if not equals or ("{listen}" in command) == ("{redirect}" in command):
        raise BenchError(f"{OTHER}: not NAME=COMMAND with either {{listen}} or {{redirect}} in it: {text}")
    port = 450 + number
    base = Redirected if "{redirect}" in command else Proxy
    other = type("Other", (base,), {"name": name, "label": name, "port": port,
                                    "listening": 8000 + port})(lab)
    words = {"listen": f"0.0.0.0:{port}", "redirect": f"0.0.0.0:{8000 + port}",
             "web": "127.0.0.1:443", "responder": "127.0.0.1:31443"}
    argv = [word.format(**words) for word in shlex.split(command)]
    other.start(argv, other.listening if base is Redirected else port)
    return other


def all_variants(lab):
    """Starts what is needed; (the resident process's Steer, the variants), direct first."""
    steer = Steer(lab.edge, "auto")
    steer.serve()
    variants = [Direct(lab), Auto(lab, steer), HandOff(lab, steer), Relay(lab, steer), NginxStream(lab), HAProxy(lab),
                Ualpn(lab), Redirect(lab)]
    for number, text in enumerate(filter(None, os.environ.get(OTHER, "").split(";"))):
        variants.append(other_variant(lab, number, text.strip()))
    return steer, variants


__all__ = ["Auto", "BINARY", "BULK_BYTES", "BenchError", "Direct", "HandOff", "Relay", "Variant", "WebServer",
           "all_variants", "kill_pid", "sh", "wait_until"]
