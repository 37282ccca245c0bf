# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""
docs/migrating.md, gone step by step with the programs that it speaks of.

What is there before is the page's, and has to work: visitors are served and a certificate is issued, or the page does
not describe what people have. Then the page's steps. After them the web server has port 443 by itself, sees who comes,
and the next certificate comes through acme-steer.
"""

import contextlib
import re
import subprocess
import textwrap

import pytest

from documented import HOOKS, ROOT
from lab import sh, wait_until
from servers import NGINX_TEMP_PATHS, SMALL, Pebble, get, get_on, make_cert, tls_client
from shell import NAME, Shell

pytestmark = pytest.mark.needs_steer

PAGE = (ROOT / "docs" / "migrating.md").read_text()

NGINX = """
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
user root;
pid {dir}/nginx.pid;
error_log {dir}/error.log info;
events {{ }}
http {{
    log_format peer '$remote_addr $ssl_server_name';
    access_log {dir}/access.log peer;
""" + NGINX_TEMP_PATHS + """    server {{
{site}
        server_name www.example.org www.example.test;
        ssl_certificate {cert};
        ssl_certificate_key {key};
        root {dir}/www;
    }}
}}
{more}
"""

HAPROXY = """
defaults
    timeout connect 10s
    timeout client 60s
    timeout server 60s

{frontend}

backend web
    mode tcp
    server web 127.0.0.1:8443
"""

# What systemd would do for a service of the lab.
SYSTEMCTL = """#!/bin/sh -e
cd {dir}
verb=$1; shift
[ "$1" != --now ] || {{ now=1; shift; }}
pid=$(cat "$1.pid" 2>/dev/null) || pid=
case "$verb $1" in
"start nginx") exec nginx ;;
"stop nginx") kill -QUIT "$pid" ;;
"reload nginx") exec nginx -s reload ;;
"start haproxy") exec haproxy -W -D -f {dir}/haproxy.cfg -p {dir}/haproxy.pid ;;
"reload haproxy") kill -USR2 "$pid"; exit ;;
"stop haproxy") kill -TERM "$pid" ;;
"disable haproxy") test "$now"; kill -TERM "$pid" ;;
*) echo "systemctl: $verb $1?" >&2; exit 1 ;;
esac
tail --pid="$pid" -f /dev/null # as `systemctl stop`, it returns when the service has ended
rm -f "$1.pid"
"""


def section(heading):
    """The code blocks of a section, as [(language, text), ...]."""
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    assert found, f"the page has no section {heading}"
    blocks = re.findall(r"^( *)```(\w+)\n(.*?)^ *```$", found[1], re.M | re.S)
    return [(language, textwrap.dedent(text)) for _indent, language, text in blocks]


def only(heading, language):
    return [text for has, text in section(heading) if has == language]


class Host:
    """The edge with what is to be migrated: programs, their files, and a shell that finds both."""

    def __init__(self, lab, pebble, plane):
        self.lab = lab
        self.shell = Shell(lab, pebble, plane)
        self.dir = self.shell.dir
        (self.dir / "www").mkdir()
        (self.dir / "www" / "index.html").write_bytes(SMALL)
        # nginx is given lego's certificate, and one that it can start with.
        self.cert = self.shell.certificate()
        self.key = self.cert.with_suffix(".key")
        self.cert.parent.mkdir(parents=True)
        for made, path in zip(make_cert(self.dir, "first", ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"],
                                        f"DNS:{NAME}"), (self.cert, self.key)):
            made.rename(path)
        self.program("nginx", 'exec /usr/sbin/nginx -p {dir} -c {dir}/nginx.conf -e {dir}/error.log "$@"')
        self.program("haproxy", 'exec /usr/sbin/haproxy "$@"')
        self.program("ualpn", 'exec /usr/bin/ualpn -p {dir}/ualpn.pid -s {dir}/ualpn.sock "$@"')
        # The script's uacme is in a namespace of its own with its mounts.
        self.program("uacme", f"mount --bind {pebble.ca_cert} /etc/ssl/certs/ca-certificates.crt\n"
                     f'exec /usr/bin/uacme -a {pebble.directory} -c {{dir}}/uacme "$@"')
        self.shell.program("systemctl", SYSTEMCTL.format(dir=self.dir))

    def program(self, name, text):
        self.shell.program(name, "#!/bin/sh -e\n" + text.format(dir=self.dir) + "\n")

    def nginx(self, site, more=""):
        """Writes its configuration; site: the lines that say where the virtual host listens."""
        (self.dir / "nginx.conf").write_text(NGINX.format(dir=self.dir, cert=self.cert, key=self.key, site=site,
                                                          more=more))

    def haproxy(self, frontend):
        (self.dir / "haproxy.cfg").write_text(HAPROXY.format(frontend=frontend))

    def run(self, script, **kwargs):
        """The page's lines; the CA wants another domain for its mail, and files are where the lab has them."""
        script = script.replace("admin@example.org", "admin@example.test")
        script = script.replace(HOOKS, str(ROOT / "deploy" / "hooks"))
        return self.shell.run(script.replace("/etc/haproxy/haproxy.cfg", str(self.dir / "haproxy.cfg")), **kwargs)

    def first(self, line, **kwargs):
        """A line of the page that renews, the first time."""
        return self.run(re.sub(r" renew\b.*", " run", line), **kwargs)

    def peers(self):
        """Whom the virtual host saw, all of them."""
        return [line.split()[0] for line in (self.dir / "access.log").read_text().splitlines()]

    def seen(self, count=1, before=0):
        """Whom it saw since, when it has written so many lines."""
        wait_until(lambda: len(self.peers()) >= before + count, what="nginx writes its log")
        return set(self.peers()[before:])

    def owners(self, port=443):
        """The names of the programs that listen on it, by address."""
        lines = self.lab.edge.run("ss", "-Htlnp", f"sport = :{port}").splitlines()
        return {line.split()[3]: set(re.findall(r'\("([^"]+)"', line)) for line in lines}

    def visit(self, address):
        assert get(self.lab, address) == SMALL


@pytest.fixture(scope="module")
def pebble(lab):
    return Pebble(lab)


@pytest.fixture
def host(lab, pebble, steer):
    host = Host(lab, pebble, steer.plane)
    yield host
    host.shell.run("for service in nginx haproxy; do test ! -s $service.pid || systemctl stop $service; done; "
                   "test ! -s ualpn.pid || ualpn -t")
    wait_until(lambda: not lab.edge.listening(443), what="443 is free")


@contextlib.contextmanager
def served(lab):
    """A visitor after the other, while the body runs: none fails."""
    script = ('while test ! -e "$0"; do curl -ksS --max-time 10 -o /dev/null -w "%{http_code}\\n" '
              '--resolve "www.example.test:443:$1" https://www.example.test/ || echo failed; done')
    end = lab.dir / f"served-{next(lab.serial)}"
    loops = [lab.ca.start("visitor", ["sh", "-c", script, end, address])
             for address in (lab.edge.v4, f"[{lab.edge.v6}]")]
    for loop in loops:
        wait_until(loop.stdout, what="the first visitor was served")
    yield
    end.touch()
    for loop in loops:
        assert loop.wait(15) == 0
        assert set(loop.stdout().split()) == {"200"}, loop.stdout() + loop.stderr()


def serial(path):
    return sh("openssl", "x509", "-noout", "-serial", "-in", path)


def issued(host, path=None):
    """It is the CA's; its number."""
    issuer, names = Pebble.describe(path or host.cert)
    assert "Pebble Intermediate CA" in issuer and names == {NAME}
    return serial(path or host.cert)


def served_serial(lab):
    """Of the certificate that visitors get."""
    done = subprocess.run(lab.ca.command(["openssl", "s_client", "-connect", f"{lab.edge.v4}:443", "-servername", NAME]),
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=15, check=True)
    return sh("openssl", "x509", "-noout", "-serial", input=done.stdout)


def assert_after(host, owner, sees_clients=True):
    """The web server answers on 443 by itself, over both families, and asks for nobody's help with visitors."""
    lab = host.lab
    # What it was before may not have ended yet.
    wait_until(lambda: (owners := host.owners()) and set().union(*owners.values()) == {owner},
               what=f"{owner} has the port")
    if sees_clients:
        wait_until(lambda: not lab.edge.listening(8443), what="nginx' old worker ends")
    before = len(host.peers())
    for address in (lab.edge.v4, lab.edge.v6):
        host.visit(address)
        # It is not the web server that answers the CA.
        assert "error" in tls_client(lab.ca, address, NAME, "acme-tls/1")
    if sees_clients:
        assert host.seen(2, before) <= set(lab.sources)
    assert "nothing is in the way" in host.run("acme-steer doctor")
    assert "no window is open" in host.run("acme-steer status", code=3)


def through_acme_steer(host, line):
    """The page's line gets a certificate; acme-steer says that the CA's connections went to the responder."""
    with served(host.lab):
        out = host.run(line)
    assert re.search(rf"; challenges: {re.escape(NAME)} [1-9]", out), out


def test_from_downtime(lab, host):
    before, now = only("From lego (or another client) with downtime", "sh")
    host.nginx("listen 443 ssl; listen [::]:443 ssl;")
    host.run("systemctl start nginx")
    host.run(before.replace("renew --no-random-sleep", "run"))
    first = issued(host)
    host.run(before)
    second = issued(host)
    assert first != second
    host.visit(lab.edge.v6)
    pid = (host.dir / "nginx.pid").read_text()
    through_acme_steer(host, now)
    assert issued(host) not in (first, second)
    wait_until(lambda: served_serial(lab) == issued(host), what="nginx has read the new one")
    assert (host.dir / "nginx.pid").read_text() == pid, "it was never stopped"
    assert_after(host, "nginx")


def test_from_nginx_stream(lab, host):
    before, at_8443, at_443 = only("From nginx stream with ssl_preread", "nginx")
    reload, line = only("From nginx stream with ssl_preread", "sh")
    host.nginx(at_8443, more=before)
    host.run("systemctl start nginx")
    host.visit(lab.edge.v4)
    assert host.seen() == {"127.0.0.1"}
    host.first("lego -a -m admin@example.org -d www.example.org --tls --tls.port 127.0.0.1:31443 run")
    first = issued(host)
    old = lab.ca.connect(lab.edge.v4)
    host.nginx(at_443)
    host.run(reload)
    wait_until(lambda: lab.edge.listening(443, "[::]"), what="it listens over IPv6, too")
    assert get_on(old) == SMALL, "who came through the stream block is served to the end"
    assert_after(host, "nginx")
    through_acme_steer(host, line)
    assert issued(host) != first


@pytest.fixture
def behind_haproxy(lab, host):
    """HAProxy as the page has it, with nginx behind; the first certificate. Returns the page's blocks."""
    before, after = only("From HAProxy, req.ssl_alpn", "haproxy")
    host.nginx(*only("From nginx stream with ssl_preread", "nginx")[1:2])
    host.haproxy(before)
    host.run("systemctl start nginx; systemctl start haproxy")
    host.visit(lab.edge.v4)
    assert host.seen() == {"127.0.0.1"}
    host.first("lego -a -m admin@example.org -d www.example.org --tls --tls.port 127.0.0.1:31443 run")
    issued(host)
    return after


def as_above_for_nginx():
    return only("From nginx stream with ssl_preread", "sh")[1]


def test_from_haproxy(host, behind_haproxy):
    """It goes."""
    first = issued(host)
    host.nginx(only("From nginx stream with ssl_preread", "nginx")[2])
    host.run(only("From HAProxy, req.ssl_alpn", "sh")[0])
    wait_until(lambda: len(host.owners()) == 2, what="nginx listens over IPv4 and IPv6")
    assert_after(host, "nginx")
    through_acme_steer(host, as_above_for_nginx())
    assert issued(host) != first


@pytest.mark.parametrize("by_name", [False, True], ids=["plain", "by-name"])
def test_haproxy_stays(host, behind_haproxy, by_name):
    """It is the web server to acme-steer. by_name: it balances by req.ssl_sni, for which two lines stay."""
    first = issued(host)
    after = behind_haproxy
    if by_name:
        waits = "".join(re.findall(r"^ *tcp-request .*\n", only("From HAProxy, req.ssl_alpn", "haproxy")[0], re.M))
        assert waits.count("\n") == 2
        after = after.replace("    default_backend web\n",
                              waits + "    use_backend web if { req.ssl_sni -m end .example.org .example.test }\n")
    host.haproxy(after)
    host.run(only("From HAProxy, req.ssl_alpn", "sh")[1])
    wait_until(lambda: any(address.startswith(("[::]", "*")) for address in host.owners()), what="it listens over IPv6")
    assert_after(host, "haproxy", sees_clients=False)
    through_acme_steer(host, as_above_for_nginx())
    assert issued(host) != first


def test_from_ualpn(lab, host):
    heading = "From ualpn"
    (at_8443, at_443), (before, stop, line) = only(heading, "nginx"), only(heading, "sh")
    start, uacme = before.splitlines()
    host.nginx(at_8443)
    host.run(f"systemctl start nginx; {start}")
    pid = int((host.dir / "ualpn.pid").read_text())
    # It listens before, and closes what comes.
    wait_until(lambda: sh("pgrep", "--parent", pid, check=False), what="ualpn has its workers")
    for address in (lab.edge.v4, lab.edge.v6):
        host.visit(address)
    assert host.seen(2) <= set(lab.sources)
    host.run("uacme -y new admin@example.org")
    host.run(uacme)
    certificate = host.dir / "uacme" / NAME / "cert.pem"
    first = issued(host, certificate)
    host.nginx(at_443)
    host.run(stop)
    wait_until(lambda: len(host.owners()) == 2, what="nginx listens over IPv4 and IPv6")
    assert_after(host, "nginx")
    with served(lab):
        host.run(line.replace("uacme -h", "uacme -f -h"))
    assert issued(host, certificate) != first


@pytest.fixture
def killed(lab):
    """What acme-alpn-proxy leaves when it is killed: its rules, and nobody at their port."""
    rule = ["PREROUTING", "-p", "tcp", "--dport", "443", "-j", "REDIRECT", "--to-port", "21443",
            "-m", "comment", "--comment", "acme-alpn-proxy"]
    for tool in ("iptables", "ip6tables"):
        lab.edge.run(tool, "-t", "nat", "-A", *rule)
    yield
    for tool in ("iptables", "ip6tables"):
        lab.edge.run(tool, "-t", "nat", "-F")


def test_from_acme_alpn_proxy(lab, host, killed):
    show, delete, line = only("From acme-alpn-proxy, or an iptables REDIRECT", "sh")
    host.nginx("listen 443 ssl; listen [::]:443 ssl;")
    host.run("systemctl start nginx")
    for address in (lab.edge.v4, lab.edge.v6):
        with pytest.raises(ConnectionRefusedError):
            get(lab, address)
    assert "leads connections to port 443 away" in host.run("acme-steer doctor", code=None)
    rules = [rule for rule in host.run(show).splitlines() if rule.startswith("-A")]
    lines = delete.splitlines()
    assert [rule.replace("-A", "-D", 1) for rule in rules] == [line.split("nat ", 1)[1] for line in lines]
    host.run(delete)
    assert_after(host, "nginx")
    with served(lab):
        host.first(line)
    first = issued(host)
    through_acme_steer(host, line)
    assert issued(host) != first
