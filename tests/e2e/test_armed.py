# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""Armed: steering is on exactly while somebody listens on the responder's address.

What is seen of it from outside: the tests listen there themselves, and ACME clients do, with no hook and no
`run`, while an observer notes when somebody listens and when a window is open.
"""

import contextlib
import os
import re
import shlex
import signal
import socket
import threading
import time

import pytest

import documented
from clients import NAMES, AcmeSh, Client, Installation, names_of_families, visitors
from lab import kill_pid, less, longer, sh, wait_until
from peers import Echo, ask
from servers import SMALL, Pebble, get
from steer import BINARY, leftovers, plane_options

pytestmark = pytest.mark.needs_steer

V4, V6 = "127.0.0.1:31443", "[::1]:31443"
# How long it may take to notice, in ms; with polling the interval comes on top, and somebody else's turn on
# the CPU always may.
REACTION_MS = 10
POLL_MS = 20


@contextlib.contextmanager
def armed(lab, steer, *options, addresses=(V4,)):
    """The resident process with these addresses armed."""
    argv = [BINARY, "serve"]
    for address in addresses:
        argv += ["--arm", address]
    process = lab.edge.start("serve", [*argv, *plane_options(steer.plane), *options])
    try:
        wait_until(lambda: not process.running() or answers(steer), 15, "serve answers")
        assert process.running(), process.stderr()
        yield process
    finally:
        code = process.stop()
    assert code == 0, process.stderr()


def answers(steer):
    try:
        return steer.ask()
    except OSError:
        return None


def listener(lab, address, family=socket.AF_INET, port=31443, v6only=False):
    """A listening socket in the edge's namespace."""
    def body():
        sock = socket.socket(family)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6only)
        sock.bind((address, port))
        sock.listen(16)
        return sock
    return lab.edge.inside(body)


def open_windows(steer):
    return {window["name"] for window in steer.ask()["windows"]}


def wait_open(steer, *addresses):
    expected = {f"armed:{address}" for address in addresses}
    wait_until(lambda: open_windows(steer) == expected, 5, f"open: {expected}", interval=0.001)


def served(lab):
    try:
        return get(lab, timeout=0.3)
    except OSError:
        return None


def arm_of(steer, address=V4):
    arm, = (arm for arm in steer.ask()["armed"] if arm["responder"] == address)
    return arm


@pytest.mark.parametrize("family, address, v6only, at", [
    (socket.AF_INET, "127.0.0.1", False, [V4]),
    (socket.AF_INET, "0.0.0.0", False, [V4]),
    (socket.AF_INET6, "::", False, [V4, V6]),
    (socket.AF_INET6, "::", True, [V6]),
    (socket.AF_INET6, "::1", True, [V6]),
    (socket.AF_INET6, "::ffff:127.0.0.1", False, [V4]),
    (socket.AF_INET, "127.0.0.2", False, []),
], ids=["exact", "wildcard", "dual-stack", "v6 only", "v6 exact", "mapped", "another address"])
@pytest.mark.parametrize("notice", ["bpf", "poll"])
def test_whoever_listens(lab, nginx, steer, notice, family, address, v6only, at):
    """Whoever a connection would find counts, several times over, and at start."""
    with listener(lab, address, family, v6only=v6only):
        with armed(lab, steer, "--notice", notice, addresses=(V4, V6)):
            assert open_windows(steer) == {f"armed:{one}" for one in at}
    with armed(lab, steer, "--notice", notice, addresses=(V4, V6)):
        assert open_windows(steer) == set()
        for _ in range(3):
            with listener(lab, address, family, v6only=v6only):
                wait_open(steer, *at)
            wait_open(steer)


def test_the_last_one_counts(lab, nginx, steer):
    """SO_REUSEPORT: a window stays open until none of several listens; so does shutdown() end it."""
    with armed(lab, steer):
        first, second = (listener(lab, "127.0.0.1") for _ in range(2))
        wait_open(steer, V4)
        first.close()
        # Something that is noticed later than that.
        with listener(lab, "127.0.0.1"):
            pass
        assert steer.ask()["armed"][0] | {"reaction_ms": 0} == {
            "responder": V4, "state": "open", "opened": 1, "notice": "bpf", "reaction_ms": 0}
        second.shutdown(socket.SHUT_RDWR)
        wait_open(steer)
        second.listen(1)
        wait_open(steer, V4)
        second.close()
        wait_open(steer)
        assert arm_of(steer)["opened"] == 2


@pytest.mark.parametrize("notice", ["bpf", "poll"])
def test_reaction(lab, nginx, steer, notice, record_property):
    """From listen() until status shows the window, and from close() until it doesn't, many times."""
    took = {"open": [], "close": []}
    with armed(lab, steer, "--notice", notice):
        for _ in range(30):
            began = time.monotonic()
            with listener(lab, "127.0.0.1"):
                wait_until(lambda: open_windows(steer), 5, "it opens", interval=0)
                took["open"].append(time.monotonic() - began)
                began = time.monotonic()
            wait_until(lambda: not open_windows(steer), 5, "it closes", interval=0)
            took["close"].append(time.monotonic() - began)
    limit = REACTION_MS + (POLL_MS if notice == "poll" else 0)
    for what, seconds in took.items():
        median = sorted(seconds)[len(seconds) // 2] * 1000
        print(f"{notice}: {what} in {median:.2f} ms, at most {max(seconds) * 1000:.2f} ms")
        record_property(f"{notice} {what} ms", median)
        assert median <= longer(limit), f"{what}: {seconds}"


def test_again_at_once(lab, nginx, steer):
    """One listener ends and the next begins, as lego's do, at every distance: the window is there as fast."""
    slow = []
    with armed(lab, steer):
        for i in range(60):
            before = arm_of(steer)["opened"]
            with listener(lab, "127.0.0.1"):
                wait_until(lambda: arm_of(steer)["state"] == "open", 5, "it opens", interval=0)
                # It was never closed when nobody was seen not to listen.
                slow.append(arm_of(steer)["reaction_ms"] if arm_of(steer)["opened"] > before else 0)
            end = time.monotonic() + i / 3000
            wait_until(lambda: time.monotonic() >= end, what="some time has passed", interval=0)
        wait_open(steer)
    slow.sort()
    print(f"open again: median {slow[30]:.2f} ms, 9 of 10 in {slow[53]:.2f} ms, all in {slow[-1]:.2f} ms")
    assert slow[53] <= longer(REACTION_MS), slow


def test_flapping(lab, nginx, steer):
    """Short moments of listening: what is last counts, and nothing is left of the others."""
    with armed(lab, steer):
        for _ in range(less(300)):
            listener(lab, "127.0.0.1").close()
        with listener(lab, "127.0.0.1"):
            wait_open(steer, V4)
        wait_open(steer)
        # Engines come to an end too.
        wait_until(lambda: steer.ask()["state"] == "idle", 15, "idle")
        assert get(lab)


def test_no_connection_to_the_responder(lab, nginx, steer):
    """It is never connected to: that would take the only place of some."""
    with armed(lab, steer), listener(lab, "127.0.0.1") as responder:
        wait_open(steer, V4)
        responder.settimeout(longer(0.5))
        with pytest.raises(TimeoutError):
            responder.accept()


def test_idle_costs_nothing(lab, nginx, steer, kernel):
    """While nobody listens nothing is attached to the network, nothing listens, and nobody wakes up."""
    with armed(lab, steer) as process:
        links = [o for o in kernel.objects() if o[0] == "link"]
        assert [name for _kind, _number, name in links] == ["raw_tracepoint"], links
        assert not [line for line in lab.edge.sockets() if f"pid={process.pid}," in line]

        def switches():
            with open(f"/proc/{process.pid}/status", encoding="ascii") as f:
                return int(re.search(r"^voluntary_ctxt_switches:\s*(\d+)", f.read(), re.M)[1])

        before = switches()
        end = time.monotonic() + 1
        wait_until(lambda: time.monotonic() > end, what="a second has passed")
        assert switches() - before <= 2


def test_closed_by_hand(lab, nginx, steer):
    """`close` closes an armed window too, until somebody listens anew."""
    with armed(lab, steer):
        with listener(lab, "127.0.0.1"):
            wait_open(steer, V4)
            steer.ok("close", "--all")
            with listener(lab, "127.0.0.1"):
                wait_until(lambda: arm_of(steer)["state"] == "shut", 5, "it is noticed")
            assert open_windows(steer) == set()
        with listener(lab, "127.0.0.1"):
            wait_open(steer, V4)


@pytest.mark.parametrize("notice", ["bpf", "poll"])
def test_closed_by_hand_and_the_next_one_follows(lab, nginx, steer, notice):
    """Whoever listens next is somebody else, however short nobody did; of several the last one counts."""
    def bound():
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("127.0.0.1", 31443))
        return sock

    with armed(lab, steer, "--notice", notice), contextlib.ExitStack() as stack:
        first = stack.enter_context(lab.edge.inside(bound))
        first.listen(1)
        for opened in range(1, 21):
            second, following = (stack.enter_context(lab.edge.inside(bound)) for _ in range(2))
            second.listen(1)
            wait_until(lambda: arm_of(steer)["opened"] == opened, 5, f"number {opened} is open")
            steer.ok("close", "--all")
            first.close()
            assert arm_of(steer)["state"] == "shut"
            second.close()
            following.listen(1)
            first = following
        wait_open(steer, V4)


def test_no_web_server(lab, nginx, steer):
    """A window that can't be opened is tried again, and is said once."""
    with armed(lab, steer) as process:
        nginx.stop()
        try:
            with listener(lab, "127.0.0.1"):
                wait_until(lambda: arm_of(steer)["state"] == "failed", 5, "it fails")
                nginx.start()
                wait_open(steer, V4)
        finally:
            if not nginx.process.running():
                nginx.start()
        wait_open(steer)
        assert process.stderr().count("nothing listens on port 443") == 1, process.stderr()


def test_beside_other_windows(lab, nginx, steer):
    """Independent of windows that users open, whose options it takes over."""
    with armed(lab, steer, "--domain", "www.example.test"):
        steer.open("--name", "mine", "--responder", "127.0.0.1:31444")
        with listener(lab, "127.0.0.1"):
            wait_until(lambda: len(open_windows(steer)) == 2, 5, "both are open")
            windows = steer.windows()
            assert windows[f"armed:{V4}"]["domains"] == ["www.example.test"]
            assert windows[f"armed:{V4}"]["armed"] and not windows["mine"]["armed"]
            assert windows[f"armed:{V4}"]["remaining_s"] is None
            shown = steer.ok("status").out
            assert f"closes: when nobody listens at {V4}" in shown and f"armed: {V4}, open" in shown
        wait_until(lambda: open_windows(steer) == {"mine"}, 5, "the other stays")
        steer.close("--name", "mine")
        assert open_windows(steer) == set()
        assert steer.run("status").code == 3


@pytest.mark.parametrize("first", ["armed", "mine"])
def test_port_with_another_web_server(lab, nginx, auto, first):
    """What a window says of one of its ports is not said of the others, and nobody has to listen on that one."""
    with (armed(lab, auto, "--port", "443", "--port", "8443"), Echo(lab.edge, port=8444) as web,
          contextlib.ExitStack() as stack):
        if first == "armed":
            with Echo(lab.edge, port=8443):
                stack.enter_context(listener(lab, "127.0.0.1"))
                wait_open(auto, V4)
        auto.open("--name", "mine", "--responder", "127.0.0.1:31444", "--port", "8443",
                  "--web-server", "127.0.0.1:8444")
        stack.enter_context(listener(lab, "127.0.0.1"))
        wait_until(lambda: open_windows(auto) == {"mine", f"armed:{V4}"}, 5, "both are open")
        for n, address in enumerate((lab.edge.v4, lab.edge.v6)):
            assert get(lab, address) == SMALL
            with lab.ca.connect(address, 8443) as sock:
                assert ask(sock) == b"over and back"
            assert len(web.accepted) == n + 1


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_nothing_left(lab, nginx, steer, kernel, sig):
    """With a window open, and a responder that goes on."""
    with listener(lab, "127.0.0.1"):
        process = lab.edge.start("serve", [BINARY, "serve", "--arm", V4, *plane_options(steer.plane)])
        wait_until(lambda: answers(steer) and open_windows(steer), 15, "it is open")
        kill_pid(process.pid, sig)
        wait_until(lambda: not process.running(), 15, "it ends")
        assert get(lab)
        wait_until(lambda: not leftovers(lab, kernel, steer, killed=sig == signal.SIGKILL), 10,
                   "nothing is left")


def test_stopped(lab, nginx, steer):
    """A process that is stopped loses the port within a second; the listener's end is seen when it goes on."""
    with armed(lab, steer) as process:
        with listener(lab, "127.0.0.1"):
            wait_open(steer, V4)
            os.kill(process.pid, signal.SIGSTOP)
            try:
                wait_until(lambda: served(lab), 5, "the web server is reached again")
            finally:
                os.kill(process.pid, signal.SIGCONT)
            os.kill(process.pid, signal.SIGSTOP)
        os.kill(process.pid, signal.SIGCONT)
        wait_open(steer)


@pytest.mark.parametrize("options, error", [
    (["--arm", "nonsense"], 'arm: "nonsense" is no address with a port'),
    (["--arm", "0.0.0.0:31443"], "is an address that nobody can connect to"),
    (["--arm", "127.0.0.1:443"], "a port of its own"),
    (["--arm", "127.0.0.1:8443", "--port", "8443"], "a port of its own"),
    (["--arm", V4, "--on-demand"], "not both"),
    (["--arm", V4, "--domain", "*.example.org"], "domain: "),
    (["--arm", V4, "--notice", "never"], "auto, bpf or poll"),
    (["--arm", V4, "--name", "mine"], "unknown option"),
    (["--domain", "www.example.org"], "--arm"),
    (["--arm"], "a value is missing"),
], ids=lambda value: " ".join(value) if isinstance(value, list) else None)
def test_bad_usage(steer, options, error):
    result = steer.run("serve", *options)
    assert result.code == 2 and error in result.err and result.err.count("\n") == 1, result


def test_elsewhere(lab, steer):
    result = steer.run("serve", "--arm", "203.0.113.7:31443")
    assert result.code == 1 and "no address of this network namespace" in result.err, result
    assert result.err.count("\n") == 1, result


class Observer:
    """Notes when somebody listens on a port and when a window is open, as status sees it."""

    # The two are not looked at in the same moment, and Python takes its time.
    SLACK_S = 0.1

    def __init__(self, lab, steer, port):
        self.port = f":{port:04X}"
        self.steer = steer
        self.pid = steer.ask()["pid"]
        self.listening = []
        self.open = []
        self.ended = False
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def _listens(self):
        for file in ("tcp", "tcp6"):
            with open(f"/proc/{self.pid}/net/{file}", encoding="ascii") as f:
                if any(words[1].endswith(self.port) and words[3] == "0A"
                       for words in map(str.split, f.readlines()[1:])):
                    return True
        return False

    @staticmethod
    def _note(spans, is_so, before, after):
        """Spans of (seen first not before, seen last not after)."""
        if is_so and (not spans or spans[-1][2]):
            spans.append([before, after, False])
        elif is_so:
            spans[-1][1] = after
        elif spans and not spans[-1][2]:
            spans[-1][1:] = [after, True]

    def _watch(self):
        while not self.ended:
            before = time.monotonic()
            listens = self._listens()
            self._note(self.listening, listens, before, time.monotonic())
            before = time.monotonic()
            is_open = bool(open_windows(self.steer))
            self._note(self.open, is_open, before, time.monotonic())

    def stop(self):
        self.ended = True
        self.thread.join()

    def check(self, at_least):
        """Each window was within a time in which somebody listened."""
        assert len(self.open) >= at_least, (self.open, self.listening)
        slack = longer(self.SLACK_S)
        for began, ended, _done in self.open:
            assert any(l_began - slack <= began and ended <= l_ended + slack
                       for l_began, l_ended, _l_done in self.listening), (
                           began, ended, self.listening)


@contextlib.contextmanager
def observed(lab, steer, port, at_least):
    observer = Observer(lab, steer, port)
    try:
        yield
        wait_until(lambda: not open_windows(steer), 5, "the window is closed")
    finally:
        observer.stop()
    observer.check(at_least)


@pytest.fixture(scope="module")
def pebble(lab):
    pebble = Pebble(lab, dns_delay_s=longer(0.02))
    names_of_families(lab)
    return pebble


@pytest.fixture(scope="module")
def installation(lab, plane):
    return Installation(lab, plane)


class ArmedLego(Client):
    """lego with nothing but its port option."""

    name = "lego"

    def setup(self):
        self.env["LEGO_CA_CERTIFICATES"] = str(self.pebble.ca_cert)

    def issue(self, names, **kwargs):
        argv = documented.command("Armed", "31443 run", names,
                                  {"lego": ["-s", self.pebble.directory, "--path", self.dir]})
        self.run(argv, **kwargs)

    def certificate(self, names):
        return self.dir / "certificates" / f"{names[0]}.crt"


class ArmedAcmeSh(AcmeSh):
    """acme.sh with its port option, whose responder is openssl s_server."""

    def command(self, words, names=(), after=None):
        return documented.command("Armed", words, names, after)


def serve_line():
    """The options of the page's `serve` line."""
    line, = (line for text in documented.snippets("Armed") for line in text.splitlines()
             if " serve " in line)
    argv = shlex.split(line)
    argv = argv[argv.index("serve") + 1:]
    assert argv == ["--arm", V4]
    return argv


def assert_issued(client, names):
    issuer, described = client.pebble.describe(client.certificate(names))
    assert "Pebble Intermediate CA" in issuer and described == set(names)


@pytest.mark.parametrize("client", [ArmedLego, ArmedAcmeSh], ids=lambda client: client.name)
def test_issue(lab, nginx, pebble, installation, steer, client):
    """Three names in one order beside nginx, whose visitors notice nothing."""
    client = client(installation, pebble)
    with armed(lab, steer, *serve_line(), addresses=()):
        with visitors(lab, nginx, steer.plane), observed(lab, steer, 31443, at_least=len(NAMES)):
            client.issue(NAMES)
        assert_issued(client, NAMES)
        counters = steer.ask()["counters"]
        answered = counters["handed_off_responder"] + counters["relayed_responder"]
        assert answered >= 3 * len(NAMES) and counters["lost"] == 0, counters


class ArmedCaddy:
    """Caddy as a web server on ports of its own, behind nginx, that gets its certificates by itself."""

    def __init__(self, lab, pebble, names):
        self.dir = lab.dir / f"{next(lab.serial):03}-caddy-armed"
        self.dir.mkdir()
        text, = (text for text in documented.snippets("Armed") if "alt_tlsalpn_port" in text)
        text = text.replace(documented.NAME, ", ".join(names)).replace("/var/www/html", str(self.dir))
        text = text.replace("{\n", f"{{\n\tadmin off\n\tacme_ca {pebble.directory}\n"
                            f"\tacme_ca_root {pebble.ca_cert}\n\temail admin@example.test\n", 1)
        (self.dir / "Caddyfile").write_text(text)
        self.process = lab.edge.start(
            "caddy-armed", ["caddy", "run", "--adapter", "caddyfile", "--config", self.dir / "Caddyfile"],
            env=dict(os.environ, HOME=str(self.dir), XDG_DATA_HOME=str(self.dir)))

    def certificates(self):
        return sorted(self.dir.glob("caddy/certificates/*/*/*.crt"))


def test_caddy(lab, nginx, pebble, steer):
    """Caddy's alt_tlsalpn_port, while nginx has port 443."""
    with armed(lab, steer, *serve_line(), addresses=()):
        with visitors(lab, nginx, steer.plane), observed(lab, steer, 31443, at_least=1):
            caddy = ArmedCaddy(lab, pebble, NAMES)
            try:
                wait_until(lambda: len(caddy.certificates()) == len(NAMES) or not caddy.process.running(),
                           90, "caddy has its certificates")
                assert caddy.process.running(), caddy.process.stderr()[-3000:]
            finally:
                caddy.process.stop()
        described = set()
        for cert in caddy.certificates():
            issuer, names = pebble.describe(cert)
            assert "Pebble Intermediate CA" in issuer
            described |= names
        assert described == set(NAMES)
        counters = steer.ask()["counters"]
        assert counters["lost"] == 0, counters
