# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""The manual page: no warnings, and what it shows as an example works when it is copied."""

import base64
import os
import re
import secrets
import subprocess

import pytest

from documented import ROOT, local
from lab import longer, wait_until
from servers import Pebble
from shell import NAME, Shell

pytestmark = pytest.mark.needs_steer

PAGE = ROOT / "deploy" / "man" / "acme-steer.8"
EXAMPLES = re.findall(r"^\.Bd -literal[^\n]*\n(.*?)^\.Ed$", PAGE.read_text(), re.M | re.S)
PID = "4711"


def plain(text):
    """What the reader sees of literal text, and copies."""
    assert not re.search(r"^\.", text, re.M) and not re.search(r"\\[^e-]", text), text
    return text.replace("\\e", "\\").replace("\\-", "-")


def of_example(text):
    """A test's name."""
    words = re.findall(r"^acme-steer (\w+)|^(acme\.sh)", text, re.M)
    return "-".join(first or second for first, second in words)


@pytest.fixture(scope="module")
def pebble(lab):
    # As far away as CAs are, for the armed example.
    return Pebble(lab, dns_delay_s=longer(0.02))


@pytest.fixture
def shell(lab, pebble, nginx, steer):
    return Shell(lab, pebble, steer.plane)


def test_no_warnings():
    done = subprocess.run(["man", "--warnings", "--local-file", PAGE], capture_output=True, text=True,
                          env=dict(os.environ, MANWIDTH="80", LC_ALL="C.UTF-8"), check=False, timeout=60)
    assert done.returncode == 0 and not done.stderr, done.stderr
    shown = re.sub(r".\x08", "", done.stdout)
    assert "\nEXAMPLES\n" in shown
    # A macro that goes on to the end of its line puts more between quotes than was meant.
    assert "‘" in shown and not re.findall(r"‘[^’]*‘|’[^‘]*’", shown)
    done = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", PAGE], capture_output=True, text=True,
                          check=False, timeout=60)
    assert done.returncode == 0 and not done.stdout, done.stdout


def test_no_line_is_too_long():
    """Indented as it is, on a terminal of 80 columns."""
    for example in EXAMPLES:
        assert max(map(len, plain(example).splitlines())) <= 68, example


def test_there_are_examples():
    assert len(EXAMPLES) >= 7
    section = PAGE.read_text().split("\n.Sh EXAMPLES\n")[1].split("\n.Sh ")[0]
    assert section.count(".Bd") == len(EXAMPLES)


@pytest.mark.parametrize("example", EXAMPLES, ids=of_example)
def test_example(lab, nginx, pebble, steer, shell, example):
    digest = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode().rstrip("=")
    env = {"digest": digest}
    script = local(plain(example), "/nowhere").replace(PID, str(nginx.process.pid))
    elsewhere = PID in example
    if "probe" in script:
        shell.run('acme-steer challenge add www.example.org "$digest"', env=env)
    out = shell.run(script, netns=lab.ca if elsewhere else None, env=env)
    if " lego " in f" {script}" or "acme.sh" in script:
        cert = shell.home / "acme.sh" / "fullchain.cer" if "acme.sh" in script else shell.certificate()
        issuer, names = pebble.describe(cert)
        assert "Pebble Intermediate CA" in issuer and names == {NAME}
    if "renew" in script:
        assert "Trying renewal" in out and out.count("Server responded with a certificate") == 2, out
    if "status" in script:
        assert 'window "blog"' in out and "blog.example.org" in out, out
    if "probe" in script:
        assert "nothing is in the way" in out and "with the digest that is expected" in out, out
    assert steer.windows() == {} or "probe" in script, out
    if "acme-steer serve" in script:
        # It was put into the background, and stays.
        assert len(steer.residents()) == 1
        steer.kill()
        wait_until(lambda: not steer.residents(), what="it ends")
