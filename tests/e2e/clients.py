# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""ACME clients, run by the lines of deploy/README.md with a CA, folders and names of the lab."""

import collections
import contextlib
import json
import os
import shutil
import sys

import documented
from documented import ROOT
from lab import BUILD, HERE, sh, wait_until
from load import assert_all_ok, assert_real_clients, more_connections, start_tlsload
from steer import came, plane_options

# Two cores, and a TLS handshake at both ends.
RATE = 100
VISITORS = 1000
NOBODY = 65534

# One name of each address family, and one of both.
NAMES = ("www.example.test", "v4.example.test", "v6.example.test")


class Installation:
    """acme-steer and its hooks where a user has them; acme-steer itself in this plane."""

    PROGRAM = """#!/bin/sh
case "$1 ${{2-}}" in
"run "* | "open "*) verb=$1; shift; exec {binary} "$verb" {options} "$@" ;;
"challenge add") shift 2; exec {binary} challenge add {options} "$@" ;;
esac
exec {binary} "$@"
"""

    def __init__(self, lab, plane):
        self.lab = lab
        self.dir = lab.dir / "installation"
        self.bin = self.dir / "bin"
        self.bin.mkdir(parents=True)
        # Somebody who is not root may be kept out of the tree.
        binary = self.dir / "acme-steer"
        shutil.copy(BUILD / "acme-steer", binary)
        for user, path in (("root", BUILD / "acme-steer"), ("nobody", binary)):
            (self.bin / user).mkdir()
            program = self.bin / user / "acme-steer"
            program.write_text(self.PROGRAM.format(options=" ".join(plane_options(plane)),
                                                   binary=path))
            program.chmod(0o755)
        self.hooks = self.dir / "hooks"
        line, = documented.snippets("The lines to copy")
        sh("sh", "-c", line.replace("sudo ", "").replace(documented.HOOKS, str(self.hooks)), cwd=ROOT)
        self.certbot = None

    def plugin(self):
        """The folder where certbot's plugin is installed; for PYTHONPATH."""
        if not self.certbot:
            source = self.dir / "certbot-source" # setuptools builds in there
            shutil.copytree(ROOT / "deploy" / "certbot", source)
            self.certbot = self.dir / "certbot"
            sh("/usr/bin/python3", "-m", "pip", "install", "-q", "--root-user-action=ignore",
               "--no-build-isolation", "--no-deps", "--target", self.certbot, source, timeout=120)
        return self.certbot


def names_of_families(lab):
    """Tells the CA's DNS that v4.* has no IPv6 address and v6.* no IPv4 address."""
    def tell(verb, **what):
        lab.ca.run("curl", "-fsS", "-d", json.dumps(what), f"http://127.0.0.1:8055/{verb}")

    for family in ("ipv4", "ipv6"):
        tell(f"set-default-{family}", ip="")
    for name in NAMES:
        if not name.startswith("v6."):
            tell("add-a", host=name + ".", addresses=[lab.edge.v4])
        if not name.startswith("v4."):
            tell("add-aaaa", host=name + ".", addresses=[lab.edge.v6])


@contextlib.contextmanager
def visitors(lab, server, plane):
    """Ordinary load while the body runs: 1,000 visitors or more; none fails, all are seen as they are."""
    since = server.log_position()
    load = start_tlsload(lab, server, rate=RATE)
    try:
        yield load
    except BaseException:
        load.kill()
        raise
    more_connections(load, RATE // 2)
    wait_until(lambda: load.progress()[0] >= VISITORS, 30, f"{VISITORS} visitors")
    result = load.stop_and_result()
    assert_all_ok(result, VISITORS)
    wait_until(lambda: len(server.peers(since)) >= result["ok"], 15, "the server wrote its log")
    assert_real_clients(load, server, since, plane)
    came = (line.split(" ", 2) for line in load.log.read_text().splitlines())
    came = collections.Counter(address for address, _port, outcome in came if outcome == "ok")
    seen = collections.Counter(address for address, _port in server.peers(since))
    assert seen == came and set(seen) == set(lab.sources)


class Client:
    """One ACME client with an account and certificates of its own.

    user "nobody": not root, but in the group of the control socket, whose number is gid.
    """

    name = None

    def __init__(self, installation, pebble, user="root", gid=0):
        self.installation = installation
        self.lab = installation.lab
        self.pebble = pebble
        self.user = user
        self.gid = gid
        self.dir = self.lab.dir / f"{next(self.lab.serial):03}-{self.name}"
        self.dir.mkdir()
        self.env = dict(os.environ, HOME=str(self.dir),
                        PATH=f"{installation.bin / user}:{os.environ['PATH']}")
        self.setup()
        if user == "nobody":
            sh("chown", "-R", f"{NOBODY}:{NOBODY}", self.dir)

    def setup(self):
        """Writes what the client wants to find."""

    def command(self, words, names=(), after=None):
        return documented.command(self.name, words, names, after, self.installation.hooks)

    def run(self, argv, timeout=240, watch=lambda: None):
        """Runs it to its end, calling watch() now and then."""
        if self.user == "nobody":
            argv = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", f"--groups={self.gid}", *argv]
        process = self.lab.edge.start(self.name, argv, env=self.env, cwd=self.dir)

        def ended():
            watch()
            return not process.running()

        wait_until(ended, timeout, f"{self.name} ends", interval=0.05)
        assert process.popen.returncode == 0, (
            f"{' '.join(map(str, argv))}: exit {process.popen.returncode}\n"
            f"{process.stdout()[-2000:]}\n{process.stderr()[-2000:]}")

    def issue(self, names, **kwargs):
        raise NotImplementedError

    def renew(self, names, **kwargs):
        """Gets the same certificate again, by the line that a timer would run."""
        raise NotImplementedError

    def certificate(self, names):
        """The file that holds it."""
        raise NotImplementedError


class Lego(Client):
    """lego, which answers itself."""

    name = "lego"
    first = "31443 run"

    def _lego(self, words, names):
        options = ["-s", self.pebble.directory, "--path", self.dir]
        return self.command(words, names, {"lego": options})

    def setup(self):
        self.env["LEGO_CA_CERTIFICATES"] = str(self.pebble.ca_cert)

    def issue(self, names, **kwargs):
        self.run(self._lego(self.first, names), **kwargs)

    def renew(self, names, **kwargs):
        self.run([*self._lego("renew", names), "--days", "9999"], **kwargs)

    def certificate(self, names):
        return self.dir / "certificates" / f"{names[0].replace(':', '_')}.crt"


class LegoWrapper(Lego):
    """lego by the wrapper."""

    first = "hooks/lego"


class AcmeSh(Client):
    """acme.sh, or what behaves as it does."""

    name = "acme.sh"

    def issue(self, names, **kwargs):
        argv = self.command("--issue", names, {"acme.sh": [
            "--server", self.pebble.directory, "--ca-bundle", self.pebble.ca_cert, "--home", self.dir]})
        assert argv[0] == "acme.sh"
        at = argv.index("letsencrypt")  # of the page; ours is the CA of the tests
        assert argv[at - 1] == "--server"
        del argv[at - 1:at + 1]
        self.run([sys.executable, HERE / "tools" / "acme_sh_like.py", *argv[1:]], **kwargs)

    renew = issue

    def certificate(self, names):
        return self.dir / "fullchain.cer"


class Dehydrated(Client):
    """dehydrated with the hook."""

    name = "dehydrated"

    def setup(self):
        text = documented.local(documented.snippets(self.name)[0], self.installation.hooks)
        (self.dir / "config").write_text(text + f'BASEDIR="{self.dir}"\nCA="{self.pebble.directory}"\n'
                                         f'CURL_OPTS="--cacert {self.pebble.ca_cert}"\nKEYSIZE=2048\n')

    def _dehydrated(self, words, *more):
        return self.command(words, after={"dehydrated": ["-f", self.dir / "config", *more]})

    def issue(self, names, **kwargs):
        (self.dir / "domains.txt").write_text(" ".join(names) + "\n")
        self.run(self._dehydrated("--register"), **kwargs)
        self.run(self._dehydrated("--cron"), **kwargs)

    def renew(self, names, **kwargs):
        self.run(self._dehydrated("--cron", "--force"), **kwargs)

    def certificate(self, names):
        return self.dir / "certs" / names[0] / "cert.pem"


class Uacme(Client):
    """uacme with the hook."""

    name = "uacme"

    def _uacme(self, words, names=(), *more):
        argv = self.command(words, names, {"uacme": []})
        options = ["-a", self.pebble.directory, "-c", self.dir, *more]
        return [argv[0], *options, *argv[1:]]

    def run(self, argv, **kwargs):
        # uacme has no option for the CA's own CA: the file of all is another one in its mounts.
        mount = 'mount --bind "$0" /etc/ssl/certs/ca-certificates.crt && exec "$@"'
        if self.user == "nobody":
            argv = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", f"--groups={self.gid}", *argv]
        user, self.user = self.user, "root"
        try:
            super().run(["unshare", "-m", "sh", "-c", mount, self.pebble.ca_cert, *argv], **kwargs)
        finally:
            self.user = user

    def issue(self, names, **kwargs):
        self.run(self._uacme("new"), **kwargs)
        self.run(self._uacme("issue", names), **kwargs)

    def renew(self, names, **kwargs):
        self.run(self._uacme("issue", names, "-f"), **kwargs)

    def certificate(self, names):
        return self.dir / names[0] / "cert.pem"


class Certbot(Client):
    """Debian's certbot with the plugin."""

    name = "certbot"

    def setup(self):
        self.env.update(REQUESTS_CA_BUNDLE=str(self.pebble.ca_cert),
                        PYTHONPATH=str(self.installation.plugin()))
        self.folders = [f"--{kind}-dir={self.dir / kind}" for kind in ("config", "work", "logs")]

    def issue(self, names, **kwargs):
        self.run(self.command("certonly", names, {"certonly": [
            *self.folders, "--server", self.pebble.directory, "-n", "--agree-tos",
            "--register-unsafely-without-email"]}), **kwargs)

    def renew(self, names, **kwargs):
        # Without the last one it would sleep for up to 8 minutes, and then do the same.
        self.run(self.command("renew", after={"renew": [
            *self.folders, "--force-renewal", "--no-random-sleep-on-renew"]}), **kwargs)

    def certificate(self, names):
        return self.dir / "config" / "live" / names[0] / "cert.pem"


class Watch:
    """What `status` said of a resident process that ends with its window."""

    def __init__(self, steer):
        self.steer = steer
        self.seen = {"came": 0, "lost": 0}

    def __call__(self):
        status = self.steer.status()
        counters = (status or {}).get("counters")
        if counters:
            self.seen = {"came": max(self.seen["came"], came(counters)),
                         "lost": max(self.seen["lost"], counters["lost"])}
