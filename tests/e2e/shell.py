# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""Lines that the documentation has for a shell, run as they are: the programs that they name are the lab's."""

import json
import os
import shlex
import shutil
import sys

from clients import Installation
from lab import BUILD, HERE, wait_until
from steer import plane_options

NAME = "www.example.org"

# Renewals are not due yet, and the CA is the lab's.
LEGO = """#!/bin/sh
for word; do test "$word" != renew || renew='--days 9999'; done
exec {program} -s {directory} --path {path} "$@" $renew
"""

ACME_SH = """#!/bin/sh
exec {python} {tool} "$@" --server {directory} --ca-bundle {ca} --home {home}
"""


class Shell:
    """A shell in the edge whose lego, acme.sh and acme-steer are those of the lab.

    `www.example.org` is the edge, and the CA finds it there, too.
    """

    def __init__(self, lab, pebble, plane, binary=BUILD / "acme-steer"):
        self.lab = lab
        self.pebble = pebble
        self.dir = lab.dir / f"shell-{next(lab.serial)}"
        self.bin = self.dir / "bin"
        self.home = self.dir / "home"
        for path in (self.bin, self.home):
            path.mkdir(parents=True)
        self.program("acme-steer", Installation.PROGRAM.format(
            options=" ".join(plane_options(plane)), binary=binary))
        self.program("lego", LEGO.format(program=shutil.which("lego"), directory=pebble.directory,
                                         path=self.home / "lego"))
        self.program("acme.sh", ACME_SH.format(
            python=sys.executable, tool=HERE / "tools" / "acme_sh_like.py", home=self.home / "acme.sh",
            directory=pebble.directory, ca=pebble.ca_cert))
        (self.home / "acme.sh").mkdir()
        self.hosts = self.dir / "hosts"
        self.names({NAME: [lab.edge.v6, lab.edge.v4]})
        self.env = dict(os.environ, HOME=str(self.home), LEGO_CA_CERTIFICATES=str(pebble.ca_cert),
                        PATH=f"{self.bin}:{os.environ['PATH']}:/usr/sbin:/sbin")

    def program(self, name, text):
        path = self.bin / name
        path.write_text(text)
        path.chmod(0o755)

    def names(self, addresses):
        """What programs on the edge find for names: {name: [address, ...]}."""
        self.hosts.write_text("127.0.0.1 localhost\n" + "".join(
            f"{address} {name}\n" for name, all_of_it in addresses.items() for address in all_of_it))

    def run(self, script, netns=None, timeout=120, code=0, env=None):
        """Its output, both streams; ends with what it left in the background."""
        text = f"mount --bind {shlex.quote(str(self.hosts))} /etc/hosts\nexec sh -eu -c {shlex.quote(script)} sh"
        process = (netns or self.lab.edge).start("shell", ["unshare", "--mount", "sh", "-ec", text],
                                                 env={**self.env, **(env or {})}, cwd=self.dir)
        wait_until(lambda: not process.running(), timeout, f"it ends: {script}", interval=0.05)
        out = process.stdout() + process.stderr()
        assert code is None or process.popen.returncode == code, f"{script}\nexit {process.popen.returncode}\n{out}"
        return out

    def certificate(self):
        """Of lego, for www.example.org."""
        return self.home / "lego" / "certificates" / f"{NAME}.crt"


def tell_dns(lab, verb, **what):
    """Changes what the CA finds."""
    lab.ca.run("curl", "-fsS", "-d", json.dumps(what), f"http://127.0.0.1:8055/{verb}")
