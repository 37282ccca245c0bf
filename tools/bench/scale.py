# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""How cost grows: `make bench-scale`, in about four minutes; with QUICK=1 in one.

What acme-steer's own processes spend on one connection, or one request, with more and more of something else:
connections per second, connections parked before their ClientHello, windows, challenges, relayed connections. It
is CPU time of their threads (schedstat, user and system), less what they spend at rest in the same state; and, for
look-ups, instructions, which nothing else on the machine can change. The least of all rounds goes to
DIR/scale.md, .json and .svg.

It fails when a cost grows by more than what is promised: nothing with connections, windows and relays, the
logarithm with challenges. Opening a window may cost more with each that is open.
"""

import argparse
import contextlib
import json
import math
import pathlib
import random
import select
import signal
import socket
import ssl
import struct
import sys
import threading
import time

import measure
import microbench
import scale_report
import variants as v
from bench import machine, measured, say
from lab import Lab, wait_until
from steer import Steer

PER_SOURCE = 64          # CONN_MAX_UNCLASSIFIED_PER_SOURCE
DIGEST = "A" * 43
DOMAINS = 100            # WINDOW_MAX_DOMAINS: each window's
HELD, ANSWER = b"h", b"a"

# More than so many times what it costs with the fewest is growth; so much more is noise.
CONSTANT, PER_DOUBLING = 1.5, 0.1
NOISE = {"µs": 2.0, "ms/s": 2.0, "instructions": 0}


class Series:
    """One line of a plot: what `name` of `title` costs at each level of `axis`, in each round."""

    def __init__(self, title, axis, name, promise="constant", unit="µs"):  # pylint: disable=too-many-arguments
        self.title, self.axis, self.name, self.promise, self.unit = title, axis, name, promise, unit
        self.rounds = {}  # level -> values

    def add(self, level, value):
        self.rounds.setdefault(level, []).append(value)

    def points(self):
        # What else the machine does can only add to it.
        return {level: min(values) for level, values in sorted(self.rounds.items())}

    def limit(self, level):
        """The most that it may cost at this level, of what it costs at the first."""
        levels = sorted(self.rounds)
        first = self.points()[levels[0]]
        more = max(level, 1) / max(levels[0], 1)
        times = {"constant": CONSTANT, "logarithm": CONSTANT + PER_DOUBLING * math.log2(more),
                 "linear": CONSTANT * more}[self.promise]
        return max(first, 0) * times + NOISE[self.unit]

    def fault(self):
        """What is wrong with its growth, which shows where there is most; None: nothing."""
        level, value = list(self.points().items())[-1]
        if value <= self.limit(level):
            return None
        return (f"{self.title}, {self.name}: {value:.1f} {self.unit} at {level} {self.axis}, promised is at most "
                f"{self.limit(level):.1f}: {self.promise}")


# --- what is connected to, and what connects ----------------------------------------------------

class Server:
    """Says one byte to a client and closes; one that says HELD it keeps until the client closes."""

    def __init__(self, lab, *addresses):
        self.poll = select.epoll()
        self.ended = False
        self.listeners = {}
        for address in addresses:
            sock = lab.edge.inside(lambda at=address: socket.create_server(at, backlog=4096))
            sock.setblocking(False)
            self.listeners[sock.fileno()] = sock
            self.poll.register(sock, select.EPOLLIN)
        self.accepted = {}
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def accept(self, listener):
        with contextlib.suppress(BlockingIOError):
            while True:
                sock = listener.accept()[0]
                sock.setblocking(False)
                self.accepted[sock.fileno()] = sock
                self.poll.register(sock, select.EPOLLIN)

    def answer(self, fd):
        sock = self.accepted[fd]
        with contextlib.suppress(OSError):
            data = sock.recv(65536)
            if data:
                sock.send(ANSWER)
            if data == HELD:
                return
        del self.accepted[fd]
        self.poll.unregister(fd)
        sock.close()

    def serve(self):
        while not self.ended:
            for fd, _events in self.poll.poll(0.1):
                if fd in self.listeners:
                    self.accept(self.listeners[fd])
                else:
                    self.answer(fd)

    def close(self):
        self.ended = True
        self.thread.join()
        for sock in [*self.listeners.values(), *self.accepted.values()]:
            sock.close()
        self.poll.close()


def client_hello(name, alpn):
    """What a client sends first."""
    context = ssl.create_default_context()
    context.set_alpn_protocols([alpn])
    out = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return out.read()


def client_socket(source):
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
    sock.bind((source, 0))
    return sock


def exchange(target, source, hello):
    """One connection, to its end, which is the server's or, when that has answered, ours."""
    with client_socket(source) as sock:
        sock.settimeout(10)
        sock.connect(target)
        sock.sendall(hello)
        if not sock.recv(65536):
            raise v.BenchError("a connection was closed without an answer")
        # No TIME-WAIT, for its port is needed again.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Scale:
    """The lab and the resident process, and what all measurements need."""

    def __init__(self, lab, options, steer):
        self.lab, self.options, self.steer = lab, options, steer
        self.target = (lab.edge.v4, 443)
        self.series = {}
        self.path = f"/run/acme-steer/{lab.edge.inode}.sock"
        # Each may park so many.
        self.sources = [f"198.51.100.{host}" for host in range(64, 64 + 4096 // PER_SOURCE)]
        for source in self.sources:
            lab.ca.run("ip", "address", "add", f"{source}/24", "dev", "ca0")
        self.source = lab.ca.v4

    def add(self, level, value, *args, **kwargs):
        series = Series(*args, **kwargs)
        self.series.setdefault((series.title, series.axis, series.name), series).add(level, value)

    def ask(self, verb, *pairs):
        """One request to the control socket; its answer's lines."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(20)
            sock.connect(self.path)
            sock.sendall("".join(f"{line}\n" for line in (verb, *pairs, "")).encode())
            answer = b""
            while data := sock.recv(65536):
                answer += data
        lines = answer.decode().splitlines()
        if not lines or lines[-1] != "ok":
            raise v.BenchError(f"{verb} {pairs[:3]}: {lines[-1:]}")
        return lines[:-1]

    def resident(self):
        return [self.steer.ask()["pid"]]

    def at_rest(self, pids):
        """What the processes spend in a second when nothing happens, in µs."""
        before, began = measure.cpu_ns(pids), time.monotonic()
        threading.Event().wait(self.options.rest)
        return (measure.cpu_ns(pids) - before) / 1e3 / (time.monotonic() - began)

    def cost(self, pids, n, act):
        """µs of CPU that the processes spend on one of `n` calls of act(), each of which waits for its end."""
        rest = self.at_rest(pids)
        before, began = measure.cpu_ns(pids), time.monotonic()
        for i in range(n):
            act(i)
        spent = (measure.cpu_ns(pids) - before) / 1e3
        return (spent - rest * (time.monotonic() - began)) / n

    def connections(self, hellos, counter="handed_off_web", pids=None):
        """The same of connections that begin with one of `hellos`; all of them must go the way of `counter`."""
        n, first = self.options.connections, 20  # for caches, and a device that is not guarded yet

        def act(i):
            exchange(self.target, self.source, hellos[i % len(hellos)])

        def body():
            for i in range(first):
                act(i)
            return self.cost(pids or self.resident(), n, act)

        before = self.steer.ask()["counters"]
        cost = self.lab.ca.inside(body)
        # The last one's hand-off may end after its answer.
        wait_until(lambda: self.steer.ask()["counters"][counter] - before[counter] >= n + first - 1, 5,
                   f"{counter} grows by {n + first}")
        return cost

    def closed(self):
        self.ask("close", "all=1")
        wait_until(lambda: not self.steer.ask().get("connections", {}).get("sniffing"), 30, "all is classified")


# --- one axis each ------------------------------------------------------------------------------

def rates(scale):
    """Connections per second: real ones, with TLS, to nginx."""
    web = v.WebServer(scale.lab)
    handoff = v.HandOff(scale.lab, scale.steer)
    try:
        for rate in scale.options.rates:
            with handoff.turn():
                pids = scale.resident()
                rest = scale.at_rest(pids)
                before, cpu = handoff.counters(), measure.cpu_ns(pids)
                began = time.monotonic()
                result = measure.finish_load(measure.start_load(
                    scale.lab, handoff, "--mode", "connect", "--resume", "--rate", rate, "--expect-file",
                    web.small, "--seconds", scale.options.seconds))
                cpu = (measure.cpu_ns(pids) - cpu) / 1e3 - rest * (time.monotonic() - began)
                n = handoff.counters()["handed_off_web"] - before["handed_off_web"]
                measure.judge(f"{rate}/s", "rate", result, rate)
                handoff.check_route(result["started"])
            scale.add(rate, cpu / n, "A hand-off", "connections per second", "with TLS, to nginx")
    finally:
        web.process.stop(signal.SIGQUIT)
        web.close()


def parked(scale):
    """Silent clients that the sniffer waits for."""
    scale.ask("open", "sniff-timeout=60s", "plane=handoff")
    hellos = [client_hello("www.example.test", "http/1.1")]
    silent = []

    def park(goal):
        while len(silent) < goal:
            sock = client_socket(scale.sources[len(silent) // PER_SOURCE])
            sock.connect(scale.target)
            silent.append(sock)
            # Not faster than they are taken: those would be passed by.
            if len(silent) % PER_SOURCE == 0:
                wait_until(lambda: scale.steer.ask()["connections"]["sniffing"] == len(silent), 20,
                           f"{len(silent)} connections are parked")

    try:
        for level in scale.options.parked:
            scale.lab.ca.inside(park, level)
            scale.add(level, scale.connections(hellos), "A hand-off", "connections parked", "a web client's")
            scale.add(level, scale.at_rest(scale.resident()) / 1e3, "At rest", "connections held", "parked",
                      unit="ms/s")
    finally:
        for sock in silent:
            sock.close()
    scale.closed()


def windows(scale):
    """Windows of one port, each with as many names as it can have."""
    kinds = {"a web client's": (client_hello("www.example.test", "http/1.1"), "handed_off_web"),
             "acme-tls/1, of no window": (client_hello("none.example.test", "acme-tls/1"), "handed_off_web"),
             "acme-tls/1, of the first window": (client_hello("d0.w0.example.test", "acme-tls/1"),
                                                 "handed_off_responder")}

    def names(number):
        return [f"domain=d{i}.w{number}.example.test" for i in range(DOMAINS)]

    opened = 0
    for level in scale.options.windows:
        for number in range(opened, level):
            scale.ask("open", f"name=w{number}", "plane=handoff", *names(number))
        opened = level
        for name, (hello, counter) in kinds.items():
            scale.add(level, scale.connections([hello], counter), "A hand-off", "windows of 100 names", name)

        def renew(i, n=level):
            scale.ask("open", f"name=w{i % n}", "plane=handoff", f"domain=d{i}.example.test")
            scale.ask("open", f"name=w{i % n}", "plane=handoff", *names(i % n))
        scale.add(level, scale.cost(scale.resident(), 30, renew) / 2,
                  "A request", "windows of 100 names", "a window opened anew", "linear")
    scale.closed()


def challenges(scale):
    """Names that the built-in responder answers for."""
    def name(number):
        return f"host-{number}.example.test"

    def add(number):
        scale.ask("challenge-add", f"name={name(number)}", f"digest={DIGEST}", "ttl=3000s", "plane=handoff")

    added = 0
    for level in scale.options.names:
        for number in range(added, level):
            add(number)
        added = level
        chosen = [client_hello(name(random.randrange(level)), "acme-tls/1") for _ in range(32)]
        status = scale.steer.ask()
        resident, responder = [status["pid"]], [status["responder"]["pid"]]
        scale.add(level, scale.connections(chosen, "handed_off_responder", resident),
                  "A hand-off", "challenges", "acme-tls/1, to the responder", "logarithm")
        scale.add(level, scale.connections(chosen, "handed_off_responder", responder),
                  "The responder", "challenges", "a ServerHello, with its certificate", "logarithm")
        unknown = [client_hello("unknown.example.test", "acme-tls/1")]
        scale.add(level, scale.connections(unknown),
                  "A hand-off", "challenges", "acme-tls/1, unknown name", "logarithm")
        both = resident + responder
        scale.add(level, scale.cost(both, scale.options.requests, lambda i, n=level: add(i % n)),
                  "A request", "challenges", "a challenge replaced", "logarithm")

        def last(i):
            scale.ask("challenge-add", f"name=extra-{i}.example.test", f"digest={DIGEST}", "ttl=3500s")
            scale.ask("challenge-remove", f"name=extra-{i}.example.test")
        scale.add(level, scale.cost(both, scale.options.requests, last) / 2,
                  "A request", "challenges", "the latest added, removed", "logarithm")
    scale.ask("challenge-remove", "all=1")
    scale.closed()


def relayed(scale):
    """Relayed connections that say nothing."""
    scale.ask("open", "plane=relay", "client-ip=none")
    hellos = [client_hello("www.example.test", "http/1.1")]
    held = []
    try:
        for level in scale.options.relayed:
            def hold(goal=level):
                while len(held) < goal:
                    sock = client_socket(scale.source)
                    sock.settimeout(20)
                    sock.connect(scale.target)
                    sock.sendall(HELD)
                    if sock.recv(1) != ANSWER:
                        raise v.BenchError("a relayed connection was not answered")
                    held.append(sock)
            scale.lab.ca.inside(hold)
            scale.add(level, scale.connections(hellos, "relayed_web"),
                      "A relayed connection", "relayed connections, idle", "a web client's")
            scale.add(level, scale.at_rest(scale.resident()) / 1e3, "At rest", "connections held", "relayed",
                      unit="ms/s")
    finally:
        for sock in held:
            sock.close()
    scale.ask("close", "all=1")
    wait_until(lambda: not any(scale.steer.ask()["connections"].values()), 30, "the relays have ended")


def instructions(scale):
    """Of the look-ups alone."""
    for kind, axis, name, promise, levels in (
            ("windows", "windows of 100 names", "four look-ups", "constant", scale.options.windows),
            ("challenges", "challenges", "found, and not found", "logarithm", scale.options.names),
            ("deadlines", "challenges", "the latest added, removed", "logarithm", scale.options.names)):
        for level in levels:
            scale.add(level, microbench.measure(kind, level, timed=100, counted=100)[2], "Instructions", axis, name,
                      promise, unit="instructions")


AXES = {"rates": rates, "parked": parked, "windows": windows, "challenges": challenges, "relayed": relayed}


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round of fewer connections")
    parser.add_argument("--rounds", type=int, help="(5; quick: 1)")
    parser.add_argument("--axes", default=",".join([*AXES, "instructions"]),
                        help="names with commas between (%(default)s)")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("build/bench"),
                        help="the folder for the results")
    options = parser.parse_args(argv)
    options.axes = options.axes.split(",")
    unknown = set(options.axes) - {*AXES, "instructions"}
    if unknown:
        parser.error(f"no such axis: {', '.join(unknown)}")
    options.rounds = options.rounds or (1 if options.quick else 5)
    options.connections = 300 if options.quick else 600
    options.requests = 100 if options.quick else 200
    options.seconds = 0.5 if options.quick else 1
    options.rest = 0.3
    options.rates = [125, 250, 500, 1000]
    options.parked = [0, 256, 1024, 4096]
    options.windows = [1, 4, 16, 64]
    options.names = [1, 10, 100, 1000, 9999]  # and one that comes and goes: CHALLENGE_MAX
    # This process has both ends of each.
    many = (v.file_limit() - 1000) // 2
    options.relayed = [0, min(1000, many // 8), min(3000, many * 3 // 8), min(8000, many)]
    return options


def run(options):
    lab = Lab(v6=False)
    server = None
    try:
        # A relay's connections come from one address.
        lab.edge.run("sysctl", "-qw", "net.ipv4.ip_local_port_range=10000 65535")
        steer = Steer(lab.edge, "auto")
        steer.serve()
        scale = Scale(lab, options, steer)
        for number in range(options.rounds):
            for name, axis in AXES.items():
                if name not in options.axes:
                    continue
                say(f"round {number + 1} of {options.rounds}: {name}")
                if name == "rates":
                    rates(scale)
                    continue
                server = Server(lab, (lab.edge.v4, 443), ("127.0.0.1", 31443))
                axis(scale)
                server.close()
                server = None
        if "instructions" in options.axes:
            say("instructions")
            instructions(scale)
        return scale.series.values()
    finally:
        if server:
            server.close()
        lab.close()


def document_of(series, options):
    return {"machine": machine(), "rounds": options.rounds,
            "series": [{"title": s.title, "axis": s.axis, "name": s.name, "promise": s.promise, "unit": s.unit,
                        "points": s.points(), "limits": {level: s.limit(level) for level in s.points()},
                        "rounds": s.rounds} for s in series]}


def main(argv=None):
    options = parse(argv)
    series = measured("bench-scale", lambda: list(run(options)))
    document = document_of(series, options)
    text = scale_report.markdown(document)
    options.output.mkdir(parents=True, exist_ok=True)
    for suffix, content in (("json", json.dumps(document, indent=1) + "\n"), ("md", text),
                            ("svg", scale_report.svg(document))):
        (options.output / f"scale.{suffix}").write_text(content, encoding="utf-8")
    print(text)
    faults = [fault for fault in (s.fault() for s in series) if fault]
    for fault in faults:
        say(f"bench-scale: {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
