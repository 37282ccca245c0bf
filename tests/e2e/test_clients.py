# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""Every ACME client beside nginx, by the lines of deploy/README.md: issue, renew, no visitor who noticed."""

import os
import subprocess

import pytest

from clients import (NAMES, AcmeSh, Certbot, Dehydrated, Installation, Lego, LegoWrapper, Uacme, Watch,
                     names_of_families, visitors)
from documented import ROOT
from lab import sh, wait_until
from servers import Pebble
from steer import BINARY

pytestmark = pytest.mark.needs_steer

DIGEST = ":".join(["a5"] * 32)


@pytest.fixture(scope="module")
def pebble(lab):
    pebble = Pebble(lab)
    names_of_families(lab)
    return pebble


@pytest.fixture(scope="module")
def installation(lab, plane):
    return Installation(lab, plane)


@pytest.fixture
def serve(lab, steer):
    """The resident process as a service; the number of its socket's group."""
    process = lab.edge.start("serve", [BINARY, "serve"])
    socket = f"/run/acme-steer/{lab.edge.inode}.sock"
    wait_until(lambda: os.path.exists(socket) and steer.status(), 15, "serve listens")
    yield os.stat(socket).st_gid
    assert process.stop() == 0, process.stderr()


def serial(client, names):
    return sh("openssl", "x509", "-noout", "-serial", "-in", client.certificate(names))


def assert_certificate(client, names):
    issuer, described = client.pebble.describe(client.certificate(names))
    assert "Pebble Intermediate CA" in issuer and described == set(names)


def by_name(client):
    return client.__name__


@pytest.mark.parametrize("client", [Lego, AcmeSh, Dehydrated, Uacme, Certbot], ids=by_name)
def test_issue_and_renew(lab, nginx, pebble, installation, steer, client):
    """Started by root, with no resident process: three names in one order, and the same again."""
    client = client(installation, pebble)
    watch = Watch(steer)
    with visitors(lab, nginx, steer.plane):
        client.issue(NAMES, watch=watch)
        assert_certificate(client, NAMES)
        first = serial(client, NAMES)
        client.renew(NAMES, watch=watch)
        assert_certificate(client, NAMES)
        assert serial(client, NAMES) != first
    assert watch.seen["came"] > 0 and watch.seen["lost"] == 0, watch.seen
    assert steer.windows() == {}
    wait_until(lambda: not steer.residents(), 15, "the resident process ends")


@pytest.mark.parametrize("client", [LegoWrapper, AcmeSh, Dehydrated, Uacme, Certbot], ids=by_name)
def test_not_root(lab, nginx, pebble, installation, steer, serve, client):
    """A user of the socket's group, who can do nothing else, beside the service."""
    client = client(installation, pebble, "nobody", serve)
    client.issue(NAMES)
    assert_certificate(client, NAMES)
    counters = steer.status()["counters"]
    answered = counters["handed_off_responder"] + counters["relayed_responder"]
    assert answered >= 3 * len(NAMES) and counters["lost"] == 0, counters
    assert steer.windows() == {}


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_address(lab, nginx, pebble, installation, steer, family):
    """A certificate for an IP address (RFC 8738), which of Debian 12's clients uacme alone asks for."""
    address = getattr(lab.edge, family)
    client = Uacme(installation, pebble)
    client.issue([address])
    text = sh("openssl", "x509", "-noout", "-ext", "subjectAltName",
              "-in", client.certificate([address]))
    shown = address if family == "v4" else "2001:DB8:443:0:0:0:0:1"
    assert f"IP Address:{shown}\n" in text


def hook(lab, installation, name, *argv, cwd=None, **env):
    """Runs a hook with pipes, as some clients do: one that leaves them open makes this time out."""
    environment = dict(os.environ, PATH=f"{installation.bin / 'root'}:{os.environ['PATH']}", **env)
    done = subprocess.run(lab.edge.command([installation.hooks / name, *argv]), capture_output=True,
                          text=True, timeout=20, env=environment, cwd=cwd, check=False)
    return done


def test_hooks_let_go(lab, nginx, installation, steer):
    """Each verb ends at once, with the exit code its client wants, and closes what it opened."""
    triple = ["www.example.test", "token", DIGEST]
    for name, begin, end, env in (
            ("acme.sh-pre", [], [], {"Le_Domain": "www.example.test", "Le_Alt": "no"}),
            ("dehydrated", ["deploy_challenge", *triple, "b.example.test", "t", DIGEST],
             ["clean_challenge", *triple, "b.example.test", "t", DIGEST], {}),
            ("uacme", ["begin", "tls-alpn-01", "www.example.test", "token", "A" * 43],
             ["done", "tls-alpn-01", "www.example.test", "token", "A" * 43], {})):
        begun = hook(lab, installation, name, *begin, **env)
        assert begun.returncode == 0, begun
        assert steer.windows(), name
        ended = hook(lab, installation, name.replace("-pre", "-post"), *end)
        assert ended.returncode == 0, ended
        assert not steer.windows(), name


def test_acme_sh_hooks_of_two_at_once(lab, nginx, installation, steer):
    """Each in its certificate's folder; of names that a window can't have one is no concern of its, one gets another."""
    idn = installation.bin / "root" / "idn"
    idn.write_text("#!/usr/bin/python3\nimport sys\nprint(sys.argv[1].encode('idna').decode())\n")
    idn.chmod(0o755)
    folders = []
    for first, others in (("a.example.test", "*.b.example.test,m\u00fcnchen.example.test"), ("c.example.test", "no")):
        folders.append(lab.dir / first)
        folders[-1].mkdir()
        done = hook(lab, installation, "acme.sh-pre", cwd=folders[-1], Le_Domain=first, Le_Alt=others)
        assert done.returncode == 0, done
    domains = [window["domains"] for window in steer.windows().values()]
    assert domains == [["a.example.test", "xn--mnchen-3ya.example.test"], ["c.example.test"]], domains
    assert hook(lab, installation, "acme.sh-post", cwd=folders[0]).returncode == 0
    assert [window["domains"] for window in steer.windows().values()] == [["c.example.test"]]
    assert hook(lab, installation, "acme.sh-post", cwd=folders[1]).returncode == 0
    assert not steer.windows()


def test_dehydrated_hook(lab, nginx, installation, steer):
    """Verbs it does not know are no error; one bad name undoes the others; an address by its PTR name."""
    for verb in ("startup_hook", "exit_hook", "deploy_cert",
                 "this_hookscript_is_broken__dehydrated_is_working_fine__please_ignore_unknown_hooks"):
        assert hook(lab, installation, "dehydrated", verb).returncode == 0
    failed = hook(lab, installation, "dehydrated", "deploy_challenge", "good.example.test", "token", DIGEST,
                  "*.example.test", "token", DIGEST)
    assert failed.returncode == 1 and "acme-steer:" in failed.stderr, failed
    assert steer.windows() == {}
    nibbles = "1" + ".0" * 19 + ".3.4.4.0.8.b.d.0.1.0.0.2.ip6.arpa"
    for ptr, address in (("1.100.51.198.in-addr.arpa", "198.51.100.1"), (nibbles, "2001:db8:443::1")):
        assert hook(lab, installation, "dehydrated", "deploy_challenge", ptr, "token",
                    DIGEST).returncode == 0
        assert address in steer.ok("challenge", "list").out
        hook(lab, installation, "dehydrated", "clean_challenge", ptr, "token", DIGEST)
    assert steer.windows() == {}


def test_uacme_hook_declines(lab, nginx, installation, steer):
    """uacme goes on to the next type when the hook fails."""
    for argv in (["begin", "http-01", "www.example.test", "token", "auth"],
                 ["begin", "dns-01", "www.example.test", "token", "auth"], [], ["begin"]):
        assert hook(lab, installation, "uacme", *argv).returncode == 1
    assert steer.windows() == {}


def test_certbot_plugin():
    """Its own tests, with the certbot that is installed, and as with one that has no such class."""
    sh("/usr/bin/python3", "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests",
       cwd=ROOT / "deploy" / "certbot", env=dict(os.environ, PYTHONDONTWRITEBYTECODE="1"), timeout=120)
