# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""The log: one line for each connection that asks for acme-tls/1, none for visitors, in every format."""

import contextlib
import json
import os
import re
import socket
import struct
import sys

import pytest

from lab import BUILD, HERE, wait_until
from servers import SMALL, get, openssl_responder, tls_client
from steer import BINARY, Steer, plane_options

sys.path.insert(0, str(HERE / "tools"))
import oddclient  # noqa: E402  pylint: disable=wrong-import-position

pytestmark = pytest.mark.needs_steer

NAME = "www.example.test"
RESPONDER = "127.0.0.1:31443"
STATIC = BUILD / "acme-steer-static"
SUMMARY = re.compile(r"open for (\d+\.\d) s; (\d+) connections: (\d+) handed off, (\d+) relayed; "
                     r"(\d+) timed out, (\d+) passed by, (\d+) read in passing; challenges: (.*)$")


@pytest.fixture(scope="module")
def responder(lab):
    process = openssl_responder(lab.edge, 31443, [NAME, "blog.example.test"], lab.dir)
    yield process
    process.kill()


class Journal:
    """What journald would get: the datagrams at its socket, whose place it takes for what command() runs."""

    def __init__(self, directory):
        self.dir = directory / "run-systemd"
        (self.dir / "journal").mkdir(parents=True)
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(str(self.dir / "journal" / "socket"))
        self.entries = []

    def command(self, argv):
        script = f'mount --bind {self.dir} /run/systemd && exec "$@"'
        return ["unshare", "--mount", "sh", "-c", script, "sh", *argv]

    def read(self):
        """All so far."""
        while True:
            try:
                data = self.sock.recv(1 << 20, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return self.entries
            self.entries.append(self.parse(data))

    @staticmethod
    def parse(data):
        """One field a line; a value of several lines comes with its length (systemd's native protocol)."""
        entry = {}
        while data:
            line, data = data.split(b"\n", 1)
            key, equals, value = line.partition(b"=")
            if not equals:
                (length,) = struct.unpack_from("<Q", data)
                value, data = data[8:8 + length], data[8 + length + 1:]
            assert key not in entry, (key, entry)
            entry[key] = value
        return {key.decode(): value.decode() for key, value in entry.items()}


class Syslog:
    """What a syslog daemon would get from what command() runs, on a host without a journal."""

    # A /dev of its own, since /dev/log is to be another one.
    SCRIPT = """
mount --bind {dir}/empty /run/systemd
mount -t tmpfs none {dir}/dev
for device in null zero random urandom tty; do
    touch {dir}/dev/$device
    mount --bind /dev/$device {dir}/dev/$device
done
ln -s {dir}/log {dir}/dev/log
mount --move {dir}/dev /dev
exec "$@"
"""

    def __init__(self, directory):
        self.dir = directory
        for name in ("empty", "dev"):
            (directory / name).mkdir()
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(str(directory / "log"))

    def command(self, argv):
        return ["unshare", "--mount", "sh", "-ec", self.SCRIPT.format(dir=self.dir), "sh", *argv]

    def read(self):
        """The texts of all messages so far, without priority, time and process."""
        found = []
        while True:
            try:
                data = self.sock.recv(65536, socket.MSG_DONTWAIT).decode()
            except BlockingIOError:
                return found
            found.append(re.fullmatch(r"<\d+>.{15} acme-steer\[\d+\]: (.*)", data.rstrip("\0"))[1])


@pytest.fixture
def syslog(tmp_path):
    syslog = Syslog(tmp_path)
    yield syslog
    syslog.sock.close()


@pytest.fixture
def journal(tmp_path):
    journal = Journal(tmp_path)
    yield journal
    journal.sock.close()


class Serve:
    """A resident process that stays, and its log."""

    def __init__(self, lab, plane, *options, command=list, env=None):
        self.steer = Steer(lab.edge, plane)
        self.steer.reset()
        self.process = lab.edge.start("serve", command([str(BINARY), "serve", *options]), env=env)
        wait_until(lambda: self.steer.status()["pid"] or not self.process.running(), 15, "it answers")
        assert self.process.running(), self.process.stderr()

    def lines(self):
        return self.process.stderr().splitlines()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        code = self.process.stop()
        assert exception[0] or code == 0, self.process.stderr()


def all_over(steer):
    """Nothing is under way: what was to be counted is counted."""
    return sum(steer.ask()["connections"].values()) == 0


def ask_for(lab, name, alpn="acme-tls/1"):
    found = tls_client(lab.ca, lab.edge.v4, name, alpn)
    assert found == {"subject": "CN = responder-31443", "alpn": alpn}, found


def visit(lab, steer, plane):
    """A window, two challenges for one name, one for another, two visitors; the summary that close prints."""
    steer.ok("open", *plane_options(plane))
    for name in (NAME, "blog.example.test", NAME):
        ask_for(lab, name)
    for address in (lab.edge.v4, lab.edge.v6):
        assert get(lab, address) == SMALL
    wait_until(lambda: all_over(steer), what="all is over")
    return steer.ok("close").out


def test_plain(lab, nginx, responder, plane):
    with Serve(lab, plane) as serve:
        closed = visit(lab, serve.steer, plane)
        assert serve.steer.ask()["counters"]["accepted"] == 5
    lines = serve.lines()
    assert all(line.startswith("acme-steer: ") for line in lines), lines
    given = [line for line in lines if "challenge for" in line]
    # One line for each challenge, and none for a visitor.
    assert len(given) == 3 and not [line for line in lines if "visitor" in line], lines
    how = "handed off" if plane == "handoff" else "relayed"
    pattern = rf"acme-steer: challenge for {NAME} from {re.escape(lab.ca.v4)}:\d+: {how} to the responder {RESPONDER}"
    assert re.match(pattern, given[0]), given
    # The same summary in the log and from close; the numbers are what was done.
    [summary] = [line for line in lines if '"default" closed: ' in line]
    assert closed == summary.removeprefix("acme-steer: ") + "\n"
    seconds, connections, handed_off, relayed, timed_out, *others, challenges = SUMMARY.search(summary).groups()
    assert float(seconds) < 60 and (connections, timed_out, *others) == ("5", "0", "0", "0"), summary
    assert (handed_off, relayed) == (("5", "0") if plane == "handoff" else ("0", "5")), summary
    assert challenges == f"{NAME} 2, blog.example.test 1", summary


def test_json(lab, nginx, responder, plane):
    with Serve(lab, plane, "--log-format=json") as serve:
        visit(lab, serve.steer, plane)
    entries = [json.loads(line) for line in serve.lines()]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", entry["time"]) for entry in entries), entries
    given = [entry for entry in entries if entry.get("event") == "challenge"]
    assert [entry["name"] for entry in given] == [NAME, "blog.example.test", NAME], given
    for entry in given:
        assert entry["responder"] == RESPONDER and entry["window"] == "default", entry
        assert entry["plane"] == ("handoff" if plane == "handoff" else "relay"), entry
        assert entry["peer"].startswith(f"{lab.ca.v4}:") and entry["local"] == f"{lab.edge.v4}:443", entry
    [closed] = [entry for entry in entries if entry.get("event") == "closed"]
    assert (closed["connections"], closed["challenges"], closed["passed_by"]) == (5, 3, 0), closed
    assert closed["handed_off"] + closed["relayed"] == 5 and closed["seconds"] > 0, closed
    assert [entry["window"] for entry in entries if entry.get("event") == "opened"] == ["default"], entries


def hello_from(lab, sni):
    """A ClientHello for acme-tls/1 with any bytes as its name; what comes back."""
    with lab.ca.connect(lab.edge.v4) as sock:
        sock.sendall(oddclient.client_hello(sni, b"acme-tls/1"))
        sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            while sock.recv(4096):
                pass


@pytest.mark.parametrize("sni", [b'quo"te\\.example', b"\x1b[2J\x00\nACME_STEER_PEER=x", b"\xff\xfe\x80", b"\xc2\x9b0m",
                                 b"a" * 255], ids=["quotes", "controls", "not UTF-8", "C1", "long"])
def test_json_hostile_name(lab, nginx, responder, plane, sni):
    """A name that is no host name is nobody's challenge; whoever sends it, the log stays a JSON object a line."""
    with Serve(lab, plane, "--log-format=json", "--log-visitors") as serve:
        serve.steer.ok("open", *plane_options(plane))
        hello_from(lab, sni)
        wait_until(lambda: serve.steer.ask()["counters"]["accepted"] and all_over(serve.steer), what="it is over")
        serve.steer.ok("close")
    entries = [json.loads(line) for line in serve.process.err.read_bytes().decode("utf-8", "strict").splitlines()]
    assert len([entry for entry in entries if entry.get("event") == "visitor"]) == 1, entries
    assert not [entry for entry in entries if "ACME_STEER" in json.dumps(entry)], entries


def test_visitors(lab, nginx, responder, plane):
    with Serve(lab, plane, "--log-visitors") as serve:
        visit(lab, serve.steer, plane)
    lines = [line for line in serve.lines() if "visitor for" in line]
    assert len(lines) == 2 and len([line for line in serve.lines() if "challenge for" in line]) == 3, serve.lines()
    assert re.search(rf"visitor for {NAME} from {re.escape(lab.ca.v4)}:\d+: .* the web server "
                     rf"{re.escape(lab.edge.v4)}:443", lines[0]), lines


def test_missed(lab, nginx, plane):
    """Nobody at the responder's address, or no window for the name: the web server has it, and the line says why."""
    with Serve(lab, plane) as serve:
        serve.steer.ok("open", *plane_options(plane), "--domain", NAME, "--responder", "127.0.0.1:31999")
        for name in (NAME, "stranger.example.test"):
            tls_client(lab.ca, lab.edge.v4, name, "acme-tls/1", timeout=30)
        wait_until(lambda: all_over(serve.steer), what="it is over")
        serve.steer.ok("close")
    lines = [line for line in serve.lines() if "challenge for" in line]
    assert len(lines) == 2, lines
    for line, name, why in zip(lines, (NAME, "stranger.example.test"),
                               ("the responder does not answer", "no window wants it")):
        assert f"challenge for {name} from" in line and "the web server" in line and f"({why})" in line, lines


@pytest.mark.parametrize("program", [BINARY, STATIC], ids=["acme-steer", "acme-steer-static"])
def test_journal(lab, nginx, responder, plane, journal, tmp_path, program):
    """stderr leads to the journal, as $JOURNAL_STREAM says by its numbers: entries with fields, and nothing there."""
    stream = tmp_path / "stream"
    stream.touch()
    script = f'exec env JOURNAL_STREAM=$(stat -c %d:%i {stream}) "$@" 2>>{stream}'

    def command(argv):
        return journal.command(["sh", "-c", script, "sh", str(program), *argv[1:]])

    with Serve(lab, plane, command=command) as serve:
        visit(lab, serve.steer, plane)
    assert stream.read_text() == "" and serve.lines() == []
    given = [entry for entry in journal.read() if entry.get("ACME_STEER_EVENT") == "challenge"]
    assert [entry["ACME_STEER_NAME"] for entry in given] == [NAME, "blog.example.test", NAME], journal.entries
    for entry in given:
        assert entry["ACME_STEER_RESPONDER"] == RESPONDER and entry["ACME_STEER_WINDOW"] == "default", entry
        assert entry["ACME_STEER_PLANE"] == ("handoff" if plane == "handoff" else "relay"), entry
        assert entry["ACME_STEER_PEER"].startswith(f"{lab.ca.v4}:"), entry
        assert entry["PRIORITY"] == "6" and entry["SYSLOG_IDENTIFIER"] == "acme-steer", entry
        assert entry["MESSAGE"].startswith(f"challenge for {entry['ACME_STEER_NAME']} from "), entry
    [closed] = [entry for entry in journal.entries if entry.get("ACME_STEER_EVENT") == "closed"]
    assert (closed["ACME_STEER_CONNECTIONS"], closed["ACME_STEER_CHALLENGES"]) == ("5", "3"), closed


def test_journal_stream_of_another(lab, nginx, plane, journal, tmp_path):
    """$JOURNAL_STREAM was inherited, but stderr is a file: plain lines go there."""
    env = {**os.environ, "JOURNAL_STREAM": "1:1"}
    with Serve(lab, plane, command=journal.command, env=env) as serve:
        serve.steer.ok("open", *plane_options(plane))
        serve.steer.ok("close")
    assert [line for line in serve.lines() if '"default" closed: ' in line], serve.lines()
    assert journal.read() == []


def test_journal_of_resident_on_demand(lab, nginx, plane, journal):
    """Who is started by open has no stderr: where there is a journal it writes there."""
    steer = Steer(lab.edge, plane)
    steer.reset()
    lab.edge.run(*journal.command([str(BINARY), "open", *plane_options(plane)]))
    steer.ok("close")
    wait_until(lambda: not steer.residents(), what="the resident process ends")
    events = [entry.get("ACME_STEER_EVENT") for entry in journal.read()]
    assert "closed" in events, journal.entries


@pytest.mark.parametrize("log_format", ["auto", "json"])
def test_syslog_of_resident_on_demand(lab, nginx, responder, plane, syslog, log_format):
    """Without a journal there is syslog: the same texts, or the same objects."""
    steer = Steer(lab.edge, plane)
    steer.reset()
    lab.edge.run(*syslog.command([str(BINARY), "open", f"--log-format={log_format}", *plane_options(plane)]))
    ask_for(lab, NAME)
    wait_until(lambda: all_over(steer), what="it is over")
    steer.ok("close")
    wait_until(lambda: not steer.residents(), what="the resident process ends")
    messages = syslog.read()
    if log_format == "json":
        messages = [json.loads(message)["message"] for message in messages]
    assert len([message for message in messages if message.startswith(f"challenge for {NAME} from ")]) == 1, messages
    assert [message for message in messages if message.startswith('window "default" closed: open for')], messages


def test_format_is_passed_on(lab, nginx, plane, journal):
    """open's options for the log are those of the resident process that it starts; its own line stays as it is."""
    steer = Steer(lab.edge, plane)
    steer.reset()
    out = lab.edge.run(*journal.command([str(BINARY), "open", "--log-format=journal", "--log-visitors",
                                         *plane_options(plane)]))
    assert re.fullmatch(r'window "default" open on port 443 [^\n]*\n', out), out
    assert get(lab) == SMALL
    wait_until(lambda: all_over(steer), what="it is over")
    steer.ok("close")
    wait_until(lambda: not steer.residents(), what="the resident process ends")
    [visitor] = [entry for entry in journal.read() if entry.get("ACME_STEER_EVENT") == "visitor"]
    assert visitor["ACME_STEER_WEB_SERVER"] == f"{lab.edge.v4}:443", visitor


def test_run_in_json(lab, nginx, plane):
    steer = Steer(lab.edge, plane)
    steer.reset()
    result = steer.ok("run", "--log-format", "json", *plane_options(plane), "--", "true")
    first, last = [json.loads(line) for line in result.err.splitlines()]
    assert "renewed while true runs" in first["message"] and last["level"] == "info", result
    assert re.search(r"closed: open for .* 0 connections: .* no challenge was served$", last["message"]), last
    wait_until(lambda: not steer.residents(), what="the resident process ends")


@pytest.mark.parametrize("verb", ["open", "serve", "run"])
def test_bad_format(lab, plane, tmp_path, verb):
    steer = Steer(lab.edge, plane)
    for value, text in (("xml", "auto, plain, json or journal is wanted, not xml"),
                        ("journal", "there is no journal here")):
        # No journald listens in an empty directory.
        script = f'mount --bind {tmp_path} /run/systemd && "$@" 2>&1; echo "exit $?"'
        line, code = lab.edge.run("unshare", "--mount", "sh", "-c", script, "sh", BINARY, verb,
                                  f"--log-format={value}").splitlines()
        assert text in line and code == "exit 2" and not steer.residents(), (line, code)
