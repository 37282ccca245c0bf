# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""Challenges of the built-in responder: added, answered over v4 and v6, removed, and nothing left."""

import base64
import hashlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess

import pytest

from lab import kill_pid, wait_until
from load import assert_all_ok, start_tlsload
from servers import tls_client
from steer import BINARY, plane_options
from test_way_out import assert_nothing_left

pytestmark = pytest.mark.needs_steer

NAME = "www.example.test"
WEB = "CN = web"
V6_ADDRESS = "2001:db8:443::1"
V6_SNI = ".".join(reversed("20010db8044300000000000000000001")) + ".ip6.arpa"
KEY_AUTHORIZATION = ("evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA."
                     "nP1qzpXGymHBrUEepNY9HCsQk7K8KhOypzEt62jcerQ")
DONE, FAILED, USAGE = 0, 1, 2


def digest():
    return secrets.token_bytes(32)


def base64url(data):
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def colons(data):
    return ":".join(f"{byte:02x}" for byte in data)


def add(steer, name, data, *options):
    return steer.ok("challenge", "add", name, base64url(data), *plane_options(steer.plane),
                    *options)


def remove(steer, name):
    return steer.ok("challenge", "remove", name)


def challenges(steer):
    document = json.loads(steer.ok("challenge", "list", "--json").out)
    return {challenge["name"]: challenge for challenge in document["challenges"]}


def addresses(lab):
    return [lab.edge.v4, lab.edge.v6]


def answer(lab, address, sni, version="-tls1_3"):
    """What a CA sees: ("DNS:name" or "IP Address:...", digest), or the error."""
    host = f"[{address}]" if ":" in address else address
    done = subprocess.run(lab.ca.command(
        ["openssl", "s_client", "-connect", f"{host}:443", "-servername", sni,
         "-alpn", "acme-tls/1", version]), stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=15, check=False)
    if "ALPN protocol: acme-tls/1" not in done.stdout:
        error = re.search(r"SSL alert number \d+", done.stderr)
        return error[0] if error else done.stderr
    cert = subprocess.run(["openssl", "x509", "-noout", "-text"], input=done.stdout,
                          capture_output=True, text=True, check=True).stdout
    assert re.search(r"1\.3\.6\.1\.5\.5\.7\.1\.31: critical", cert), cert
    names = re.search(r"Subject Alternative Name: \n *(.*)\n", cert)[1]
    der = subprocess.run(["openssl", "x509", "-outform", "DER"], input=done.stdout.encode(),
                         capture_output=True, check=True).stdout
    # id-pe-acmeIdentifier, TRUE, OCTET STRING { OCTET STRING { 32 bytes } }
    begin = der.index(bytes.fromhex("06082b0601050507011f0101ff04220420")) + 17
    return names, der[begin:begin + 32]


def assert_answered(lab, sni, name, data):
    for address in addresses(lab):
        for version in ("-tls1_3", "-tls1_2"):
            assert answer(lab, address, sni, version) == (name, data), (address, version)


def assert_web_server_gets(lab, sni, alpn="acme-tls/1"):
    for address in addresses(lab):
        got = tls_client(lab.ca, address, sni, alpn)
        # nginx takes part in no acme-tls/1, and says so itself.
        assert got.get("subject") == WEB or "no application protocol" in got["error"], got


def test_add_answer_remove(lab, nginx, steer, kernel):
    load = start_tlsload(lab, nginx, rate=200)
    data = digest()
    assert add(steer, NAME, data).out == f"challenge for {NAME} added on port 443 for 10m\n"
    assert_answered(lab, NAME, f"DNS:{NAME}", data)
    assert_answered(lab, NAME.upper(), f"DNS:{NAME}", data)
    assert_web_server_gets(lab, "other.example.test")
    assert_web_server_gets(lab, NAME, "http/1.1")

    listed = challenges(steer)[NAME]
    assert listed["digest"] == base64url(data) and listed["port"] == 443
    assert listed["connections"] >= 8 and 500 < listed["remaining_s"] <= 600
    status = steer.status()
    window = status["windows"][0]
    assert window["name"] == "challenge:443" and window["responder"] == "built-in"
    assert window["challenges"] == status["challenges"] == 1
    assert window["acme_connections"] == listed["connections"]
    assert status["responder"]["state"] == "running"
    assert status["counters"]["lost"] == 0
    if steer.plane == "handoff":
        assert status["counters"]["relayed_responder"] == 0, status["relay_reasons"]
        assert status["counters"]["handed_off_responder"] >= 8
    else:
        assert status["counters"]["relayed_responder"] >= 8

    assert remove(steer, NAME).out == f"challenge for {NAME} removed\n"
    assert steer.windows() == {}
    assert_web_server_gets(lab, NAME)
    assert_all_ok(load.stop_and_result(), 100)
    assert_nothing_left(lab, kernel, steer)


def test_digest_forms_and_addresses(lab, nginx, steer, kernel):
    data = hashlib.sha256(KEY_AUTHORIZATION.encode()).digest()
    table = [
        (["a.example.test", base64url(data)], "a.example.test", "DNS:a.example.test"),
        (["b.example.test", base64url(data) + "="], "b.example.test", "DNS:b.example.test"),
        (["c.example.test", data.hex()], "c.example.test", "DNS:c.example.test"),
        (["d.example.test", colons(data)], "d.example.test", "DNS:d.example.test"),
        (["e.example.test", f"--key-authorization={KEY_AUTHORIZATION}"], "e.example.test",
         "DNS:e.example.test"),
        ([lab.edge.v4, colons(data)], "1.100.51.198.in-addr.arpa", f"IP Address:{lab.edge.v4}"),
        ([V6_SNI, colons(data)], V6_SNI, "IP Address:2001:DB8:443:0:0:0:0:1"),
    ]
    for words, _sni, _name in table:
        steer.ok("challenge", "add", *words, *plane_options(steer.plane))
    for _words, sni, name in table:
        assert_answered(lab, sni, name, data)
    assert lab.edge.v6 == V6_ADDRESS and V6_ADDRESS in challenges(steer)
    # dehydrated's name of it, and ours, are one.
    assert remove(steer, V6_ADDRESS).out.endswith("removed\n")
    assert "absent" not in remove(steer, lab.edge.v4).out
    assert steer.ok("challenge", "remove", "--all").out == "5 challenges removed\n"
    assert_nothing_left(lab, kernel, steer)


def test_a_digest_may_begin_with_hyphens(lab, nginx, steer):
    for begin in ("-", "--", "-q", "-h"):
        text = begin + base64url(digest())[len(begin):]
        steer.ok("challenge", "add", NAME, text, *plane_options(steer.plane))
        assert challenges(steer)[NAME]["digest"] == text
    remove(steer, NAME)


def test_replace_and_remove_what_is_not_there(lab, nginx, steer):
    first, second = digest(), digest()
    assert remove(steer, NAME).out == f"there was no challenge for {NAME}\n"
    add(steer, NAME, first)
    assert "replaced" in add(steer, NAME, second, "--ttl", "5m").out
    assert_answered(lab, NAME, f"DNS:{NAME}", second)
    assert steer.windows()["challenge:443"]["remaining_s"] <= 300
    assert remove(steer, "other.example.test").out == \
        "there was no challenge for other.example.test\n"
    assert list(challenges(steer)) == [NAME]
    remove(steer, NAME)
    assert challenges(steer) == {}
    assert steer.ok("challenge", "list").out == "there is no challenge\n"
    assert steer.ok("challenge", "remove", "--quiet", NAME).out == ""


def test_web_server_restarts(lab, nginx, steer):
    """What is left of a validator's connection, for a minute, has the web server's port, and does not bar it."""
    data = digest()
    add(steer, NAME, data)
    assert_answered(lab, NAME, f"DNS:{NAME}", data)
    nginx.restart()
    remove(steer, NAME)
    nginx.restart()


def test_deadline(lab, nginx, steer, kernel):
    """The window is open until the last one's deadline, and not longer."""
    add(steer, "short.example.test", digest(), "--ttl", "1s")
    add(steer, NAME, digest(), "--ttl", "3s")
    wait_until(lambda: list(challenges(steer)) == [NAME], 5)
    assert answer(lab, lab.edge.v4, NAME)[0] == f"DNS:{NAME}"
    assert_web_server_gets(lab, "short.example.test")
    wait_until(lambda: steer.windows() == {}, 5, "the window closes")
    assert_nothing_left(lab, kernel, steer)


def test_beside_a_window(lab, nginx, steer, kernel):
    """A user's window and a challenge on one port: each its own, whichever is first."""
    data = digest()
    steer.open("--domain", "lego.example.test")
    steer.ok("challenge", "add", NAME, base64url(data))
    assert_answered(lab, NAME, f"DNS:{NAME}", data)
    assert set(steer.windows()) == {"default", "challenge:443"}
    assert steer.windows()["challenge:443"]["plane"] == steer.windows()["default"]["plane"]
    assert steer.close().out.startswith('window "default" closed')
    assert_answered(lab, NAME, f"DNS:{NAME}", data)
    # Given way to, too.
    steer.ok("open", "--plane", "relay", "--domain", "lego.example.test")
    assert steer.windows()["challenge:443"]["plane"] == "relay"
    assert_answered(lab, NAME, f"DNS:{NAME}", data)
    remove(steer, NAME)
    assert set(steer.windows()) == {"default"}
    wait_until(lambda: steer.status()["responder"]["state"] == "off", 5, "the responder ends")
    steer.close()
    assert_nothing_left(lab, kernel, steer)


def test_close_all_takes_challenges_away(lab, nginx, steer, kernel):
    add(steer, NAME, digest())
    assert "challenge:443" in steer.close("--all").out
    assert challenges(steer) == {}
    assert_nothing_left(lab, kernel, steer)


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGSEGV])
def test_responder_dies(lab, nginx, steer, kernel, reports, sig):
    """It is there again before a CA notices."""
    data = digest()
    add(steer, NAME, data)
    for _ in range(3):
        pid = steer.status()["responder"]["pid"]
        os.kill(pid, sig)
        assert answer(lab, lab.edge.v6, NAME) == (f"DNS:{NAME}", data)
        assert answer(lab, lab.edge.v4, NAME) == (f"DNS:{NAME}", data)
        wait_until(lambda: steer.status()["responder"]["state"] == "running", 10)
        assert steer.status()["responder"]["pid"] != pid
    assert steer.status()["responder"]["restarts"] == 3
    remove(steer, NAME)
    assert_nothing_left(lab, kernel, steer)
    if reports and sig == signal.SIGSEGV:
        assert len(reports.take()) == 3, "a sanitizer takes them for its own"


def test_responder_hangs(lab, nginx, steer, kernel):
    """The resident process has given its capabilities up, but not the one for this."""
    data = digest()
    add(steer, NAME, data)
    pid = steer.status()["responder"]["pid"]
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: steer.status()["responder"]["pid"] not in (pid, None), 20, "another one")
    assert answer(lab, lab.edge.v4, NAME) == (f"DNS:{NAME}", data)
    remove(steer, NAME)
    assert_nothing_left(lab, kernel, steer)


def test_resident_is_killed(lab, nginx, steer, kernel):
    add(steer, NAME, digest())
    pid = steer.pid()
    kill_pid(pid)
    assert_nothing_left(lab, kernel, steer, killed=True)
    assert_web_server_gets(lab, NAME)
    assert remove(steer, NAME).out == f"there was no challenge for {NAME}\n"


def test_stalled_client_does_not_hold_up_the_end(lab, nginx, steer, kernel):
    add(steer, NAME, digest())
    pid = steer.status()["responder"]["pid"]
    address = steer.status()["responder"]["address"].rpartition(":")
    port = int(address[2])
    stalled = lab.edge.connect("127.0.0.1", port)
    stalled.sendall(b"\x16\x03\x01\x02\x00\x01")
    remove(steer, NAME)
    assert_nothing_left(lab, kernel, steer)
    assert not os.path.exists(f"/proc/{pid}")
    stalled.close()


def ask(lab, *lines):
    """One conversation on the control socket; (data lines, last line)."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(30)
        sock.connect(f"/run/acme-steer/{lab.edge.inode}.sock")
        sock.sendall("".join(f"{line}\n" for line in (*lines, "")).encode())
        got = b""
        while data := sock.recv(1 << 20):
            got += data
    *lines, last = got.decode().splitlines()
    return lines, last


def test_ten_thousand_names(lab, nginx, steer, kernel):
    """Up to the limit, and one more."""
    def name(i):
        return f"host-{i}.example.test"

    def data(i):
        return hashlib.sha256(name(i).encode()).digest()

    add(steer, name(0), data(0), "--ttl", "1h")
    load = start_tlsload(lab, nginx, rate=100)
    for i in range(1, 10000):
        lines, last = ask(lab, "challenge-add", f"name={name(i)}", f"digest={data(i).hex()}",
                          "ttl=1h")
        assert last == "ok" and lines == [f"added {name(i)}"]
    assert steer.status()["challenges"] == 10000
    result = steer.run("challenge", "add", "one-more.example.test", data(1).hex())
    assert result.code == FAILED and "10000 challenges" in result.err
    for i in (0, 1, 4711, 9999):
        assert answer(lab, lab.edge.v6, name(i)) == (f"DNS:{name(i)}", data(i))
    listed = challenges(steer)
    assert len(listed) == 10000 and listed[name(4711)]["digest"] == base64url(data(4711))
    pid = steer.status()["responder"]["pid"]
    kill_pid(pid)
    assert answer(lab, lab.edge.v4, name(9999)) == (f"DNS:{name(9999)}", data(9999))
    assert "10000 challenges removed" in steer.ok("challenge", "remove", "--all").out
    assert_all_ok(load.stop_and_result(), 100)
    assert_nothing_left(lab, kernel, steer)


BAD = [
    (["challenge"], USAGE, "add, remove or list"),
    (["challenge", "frobnicate"], USAGE, "frobnicate"),
    (["challenge", "add"], USAGE, "name is missing"),
    (["challenge", "add", NAME], USAGE, "digest or --key-authorization"),
    (["challenge", "add", NAME, "x"], USAGE, "SHA-256"),
    (["challenge", "add", NAME, KEY_AUTHORIZATION], USAGE, "--key-authorization"),
    (["challenge", "add", NAME, "--key-authorization", "x"], USAGE, "thumbprint"),
    (["challenge", "add", NAME, "0" * 64, "--key-authorization", KEY_AUTHORIZATION], USAGE,
     "one of them"),
    (["challenge", "add", NAME, "0" * 64, "more"], USAGE, "more"),
    (["challenge", "add", "*.example.test", "0" * 64], USAGE, "wildcard.*DNS-01"),
    (["challenge", "add", "bücher.example", "0" * 64], USAGE, "A-label"),
    (["challenge", "add", "no_name.example", "0" * 64], USAGE, "host name"),
    (["challenge", "add", "2.0.192.in-addr.arpa", "0" * 64], USAGE, "reverse name"),
    (["challenge", "add", NAME, "0" * 64, "--ttl", "2h"], USAGE, "ttl: 2h"),
    (["challenge", "add", NAME, "0" * 64, "--port", "https"], USAGE, "port.*https"),
    (["challenge", "add", NAME, "0" * 64, "--plane", "teleport"], USAGE, "plane.*teleport"),
    (["challenge", "add", NAME, "0" * 64, "--domain", NAME], USAGE, "unknown option.*--domain"),
    (["challenge", "add", NAME, "0" * 64, "--json"], USAGE, "--json"),
    (["challenge", "add", NAME, "0" * 64, "--port", "444"], FAILED, "444"),
    (["challenge", "remove"], USAGE, "name is missing"),
    (["challenge", "remove", "*.example.test"], USAGE, "wildcard"),
    (["challenge", "remove", NAME, "--all"], USAGE, "not both"),
    (["challenge", "remove", NAME, "--ttl", "1m"], USAGE, "--ttl"),
    (["challenge", "list", NAME], USAGE, NAME),
    (["challenge", "list", "--strict"], USAGE, "--strict"),
    (["responder"], USAGE, "resident process"),
]


@pytest.mark.parametrize("argv, code, pattern", BAD, ids=[" ".join(row[0])[:50] for row in BAD])
def test_refused(lab, nginx, steer, argv, code, pattern):
    result = steer.run(*argv)
    assert result.code == code, result
    assert len(result.err.splitlines()) == 1 and re.match(r"acme-steer: .", result.err), result.err
    assert re.search(pattern, result.err), result.err
    assert result.out == ""
    assert steer.windows() == {}


def test_refused_by_the_socket(lab, nginx, steer):
    add(steer, NAME, digest())
    hexadecimal = f"digest={digest().hex()}"
    for lines, pattern in [
            (["challenge-add"], "name"),
            (["challenge-add", f"name={NAME}"], "digest"),
            (["challenge-add", hexadecimal], "name"),
            (["challenge-add", "name=*.a.test", hexadecimal], "DNS-01"),
            (["challenge-add", f"name={NAME}", "digest=00"], "SHA-256"),
            (["challenge-add", f"name={NAME}", hexadecimal, "domain=a.test"], "domain"),
            (["challenge-add", f"name={NAME}", hexadecimal, "responder=127.0.0.1:1"], "responder"),
            (["challenge-add", f"name={NAME}", hexadecimal, "port=443", "port=8443"], "one port"),
            (["challenge-add", f"name={NAME}", hexadecimal, "colour=red"], "colour"),
            (["challenge-remove"], "name"),
            (["challenge-remove", "name=*"], "wildcard")]:
        _lines, last = ask(lab, *lines)
        assert last.startswith("error: ") and re.search(pattern, last), (lines, last)
    assert list(challenges(steer)) == [NAME]
    remove(steer, NAME)


@pytest.mark.parametrize("mode, pattern", [
    (None, "acme-steer-tls is not there.*install it again"),
    (0o777, "acme-steer-tls is there, but others may write it"),
])
def test_part_that_speaks_tls(lab, nginx, steer, kernel, mode, pattern):
    """Whoever copies the one file is told what else there is, and nobody else's is executed; windows need no more."""
    binary = lab.dir / f"half-{mode}" / "acme-steer"
    binary.parent.mkdir()
    shutil.copy(BINARY, binary)
    if mode:
        tls = binary.with_name("acme-steer-tls")
        tls.write_text("#!/bin/sh\nexit 99\n")
        tls.chmod(mode)

    def run(*argv):
        return subprocess.run(lab.edge.command([binary, *argv]), capture_output=True, text=True, check=False, timeout=60)

    for argv in (["challenge", "add", NAME, digest().hex(), *plane_options(steer.plane)], ["probe", NAME]):
        done = run(*argv)
        assert done.returncode == FAILED, done
        line, = done.stderr.splitlines()
        assert re.search(f"{argv[0]}: .*{pattern}", line), line
    assert challenges(steer) == {}
    assert run("open", *plane_options(steer.plane)).returncode == DONE
    assert run("close").returncode == DONE
    wait_until(lambda: not (steer.status() or {}).get("pid"), what="the resident process has ended")
    assert_nothing_left(lab, kernel, steer)


def test_part_that_speaks_tls_is_another_version(lab, nginx, steer, kernel):
    """One was installed while the resident process had not begun to use it."""
    binary = lab.dir / "other" / "acme-steer"
    binary.parent.mkdir()
    shutil.copy(BINARY, binary)
    version = subprocess.run([BINARY, "--version"], capture_output=True, text=True, check=True).stdout.split()[1].encode()
    tls = binary.with_name("acme-steer-tls")
    data = BINARY.with_name("acme-steer-tls").read_bytes()
    assert data.count(version + b"\0") >= 1
    tls.write_bytes(data.replace(version + b"\0", b"9.9.9\0".ljust(len(version) + 1, b"\0")))
    tls.chmod(0o755)
    done = subprocess.run(lab.edge.command([binary, "challenge", "add", NAME, digest().hex(), *plane_options(steer.plane)]),
                          capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == FAILED and "acme-steer-tls is of another version; restart" in done.stderr, done
    wait_until(lambda: not (steer.status() or {}).get("pid"), what="the resident process has ended")
    assert_nothing_left(lab, kernel, steer)
