# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""Web servers with the configurations that their Debian packages bring.

Changed are only names of folders, users and certificates, for each has a folder of its own in the lab,
and the log, which is to show the client's port. What makes them serve port 443 is deploy/README.md's.
"""

import json
import os
import shutil
import signal
import socket
import threading

import documented
from lab import sh, wait_until
from servers import SMALL, make_cert

SO_RCVBUFFORCE = 33
SYSLOG_BUFFER = 16 << 20


class WebServer:
    """What the tests want of a web server: a page, and who has got it."""

    name = None

    def __init__(self, netns):
        self.netns = netns
        self.dir = netns.lab.dir / f"{next(netns.lab.serial):03}-{self.name}"
        self.www = self.dir / "www"
        self.www.mkdir(parents=True)
        self.small = self.www / "index.html"
        self.small.write_bytes(SMALL)
        self.log = self.dir / "access.log"
        self.cert, self.key = make_cert(self.dir, "web",
                                        ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"],
                                        "DNS:www.example.test")
        self.pem = self.dir / "web-and-key.pem"
        self.pem.write_bytes(self.cert.read_bytes() + self.key.read_bytes())
        argv, env = self.configure()
        self.process = netns.start(self.name, argv, env=dict(os.environ, **env))
        wait_until(lambda: netns.listening(443) or not self.process.running(), 20,
                   f"{self.name} listens")
        assert self.process.running(), (
            f"{self.name} did not start: {self.process.stderr()}{self.process.stdout()}")

    def configure(self):
        """Writes the configuration; (argv, environment) of the server in the foreground."""
        raise NotImplementedError

    def documented(self, heading):
        """The page's lines, with our names and files."""
        text, = documented.snippets(heading)
        for page, ours in ((documented.NAME + ".crt", self.cert), (documented.NAME + ".key", self.key),
                           (documented.NAME + ".pem", self.pem)):
            for folder in ("/etc/ssl/", "/etc/haproxy/"):
                text = text.replace(folder + page, str(ours))
        return text.replace("/var/www/html", str(self.www)).replace(documented.NAME,
                                                                    "www.example.test")

    def stop(self):
        """Ends it in order, so that its log is written."""
        self.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not self.process.running(), 15, f"{self.name} ends")
        wait_until(lambda: not self.netns.listening(443), 15, f"{self.name} has let go of 443")

    def log_position(self):
        return self.log.stat().st_size if self.log.exists() else 0

    def peers(self, since=0):
        """(address, port) of each request in the log."""
        with open(self.log, "rb") as f:
            f.seek(since)
            lines = f.read().decode().splitlines()
        peers = [peer for peer in map(self.peer, lines) if peer]
        return [(address.removeprefix("::ffff:"), port) for address, port in peers]

    @staticmethod
    def peer(line):
        """(address, port) of a line of the log."""
        address, port = line.split()[:2]
        return address, int(port)


class Nginx(WebServer):
    """/etc/nginx/nginx.conf and a site."""

    name = "nginx"

    def configure(self):
        text = open("/etc/nginx/nginx.conf", encoding="utf-8").read()
        (self.dir / "site").write_text(self.documented("nginx"))
        for old, new in (("/var/log/nginx", self.dir), ("/run/nginx.pid", self.dir / "pid"),
                         ("/etc/nginx/sites-enabled/*", self.dir / "site"),
                         ("include /etc/nginx/modules-enabled/*.conf;", ""),
                         ("include /etc/nginx/conf.d/*.conf;", ""),
                         ("user www-data;", "user root; daemon off;")):
            assert old in text, old
            text = text.replace(old, str(new))
        text = text.replace(f"access_log {self.log};",
                            f"log_format peer '$remote_addr $remote_port'; access_log {self.log} peer;")
        (self.dir / "nginx.conf").write_text(text)
        return ["nginx", "-c", self.dir / "nginx.conf", "-e", self.dir / "error.log"], {}


class Apache(WebServer):
    """/etc/apache2 with mod_ssl and its default site."""

    name = "apache2"

    def configure(self):
        conf = self.dir / "etc"
        shutil.copytree("/etc/apache2", conf, symlinks=True)
        env = {"APACHE_CONFDIR": str(conf), "APACHE_LOG_DIR": str(self.dir),
               "APACHE_RUN_DIR": str(self.dir), "APACHE_LOCK_DIR": str(self.dir),
               "APACHE_PID_FILE": str(self.dir / "pid"), "APACHE_RUN_USER": "www-data",
               "APACHE_RUN_GROUP": "www-data"}
        for line in self.documented("Apache").splitlines():
            sh(*line.split(), env=dict(os.environ, **env))
        site = conf / "sites-available" / "default-ssl.conf"
        self._replace(site, "/etc/ssl/certs/ssl-cert-snakeoil.pem", self.cert)
        self._replace(site, "/etc/ssl/private/ssl-cert-snakeoil.key", self.key)
        self._replace(site, "/var/www/html", self.www)
        self._replace(conf / "apache2.conf", "/var/www/", self.www)
        self._replace(conf / "apache2.conf", '"%h %l %u %t \\"%r\\" %>s %O \\"%{Referer}i\\"',
                      '"%h %{remote}p \\"%r\\" %>s %O \\"%{Referer}i\\"')
        return ["apache2", "-d", conf, "-DFOREGROUND"], env

    @staticmethod
    def _replace(file, old, new):
        text = file.read_text()
        assert old in text, f"{file} has no {old}"
        file.write_text(text.replace(old, str(new)))


class Haproxy(WebServer):
    """/etc/haproxy/haproxy.cfg, TLS ended by it, and a backend, which is a second part of it here."""

    name = "haproxy"

    BACKEND = """
listen page
	bind 127.0.0.1:8080
	http-request return status 200 content-type text/html file {small}
"""

    def configure(self):
        text = open("/etc/haproxy/haproxy.cfg", encoding="utf-8").read()
        for old, new in (("log /dev/log\tlocal0\n", f"log 127.0.0.1:{self._syslog()} local0\n"),
                         ("\tlog /dev/log\tlocal1 notice\n", ""), ("\tdaemon\n", ""),
                         ("/run/haproxy/admin.sock", self.dir / "admin.sock")):
            assert old in text, old
            text = text.replace(old, str(new))
        text += "\n" + self.documented("HAProxy") + self.BACKEND.format(small=self.small)
        (self.dir / "haproxy.cfg").write_text(text)
        return ["haproxy", "-db", "-f", self.dir / "haproxy.cfg"], {}

    def _syslog(self):
        """The port of a syslog of ours. haproxy drops lines that two threads write to a file at once."""
        def body():
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, SYSLOG_BUFFER)
            sock.bind(("127.0.0.1", 0))
            return sock

        def write():
            with open(self.log, "ab", buffering=0) as f:
                while True:
                    f.write(sock.recv(65536).rstrip() + b"\n")

        sock = self.netns.inside(body)
        threading.Thread(target=write, daemon=True).start()
        return sock.getsockname()[1]

    @staticmethod
    def peer(line):
        if " https~ " not in line:
            return None
        # <134>Nov 24 11:10:06 haproxy[4711]: ADDRESS:PORT ...
        address, port = line.split("]: ", 1)[1].split()[0].rsplit(":", 1)
        return address, int(port)


class Lighttpd(WebServer):
    """/etc/lighttpd with its ssl and accesslog modules."""

    name = "lighttpd"

    def configure(self):
        assert self.documented("lighttpd") == "lighty-enable-mod ssl\n"
        conf = self.dir / "etc"
        shutil.copytree("/etc/lighttpd", conf, symlinks=True)
        for file in (conf / "lighttpd.conf", *conf.glob("conf-available/*.conf")):
            text = file.read_text()
            for old, new in (("/etc/lighttpd", conf), ("/var/log/lighttpd", self.dir),
                             ("/var/cache/lighttpd/uploads", self.dir), ("/var/www/html", self.www),
                             ("/run/lighttpd.pid", self.dir / "pid")):
                text = text.replace(old, str(new))
            file.write_text(text)
        # What lighty-enable-mod does, which knows /etc/lighttpd only.
        for module in ("10-ssl.conf", "10-accesslog.conf"):
            link = conf / "conf-enabled" / module
            link.unlink(missing_ok=True)
            link.symlink_to(conf / "conf-available" / module)
        with open(conf / "lighttpd.conf", "a", encoding="utf-8") as f:
            f.write('accesslog.format = "%h %{remote}p %r"\n')
        self.pem.rename(conf / "server.pem")
        shutil.chown(self.dir, "www-data")
        return ["lighttpd", "-D", "-f", conf / "lighttpd.conf"], {}


class Caddy(WebServer):
    """A site of a Caddyfile, with a certificate that somebody else gets."""

    name = "caddy"

    def configure(self):
        site = self.documented("Caddy")
        log = f"\tlog {{\n\t\toutput file {self.log}\n\t}}\n"
        end = site.rindex("}")
        (self.dir / "Caddyfile").write_text("{\n\tadmin off\n}\n" + site[:end] + log + site[end:])
        return (["caddy", "run", "--adapter", "caddyfile", "--config", self.dir / "Caddyfile"],
                {"HOME": str(self.dir)})

    @staticmethod
    def peer(line):
        entry = json.loads(line)
        if "request" not in entry:
            return None
        return entry["request"]["remote_ip"], int(entry["request"]["remote_port"])


ALL = (Nginx, Apache, Haproxy, Lighttpd, Caddy)
