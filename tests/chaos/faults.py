# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""
What happens to acme-steer and around it, one thing after the other, as the seed has it.

Every fault is undone by the method that brought it about, and leaves with the oracle what it permits.
Time passes by the load's connections: `self.pass_time(n)` returns when n more have begun.
"""

import base64
import collections
import hashlib
import os
import random
import resource
import signal
import time

import bpfmap
from lab import Process, kill_pid, longer, wait_until
from load import more_connections
from servers import openssl_responder
from steer import BINARY, Steer

NAMES = ("a", "b")
CHALLENGE = "c.example.test"
LOG_BYTES = 65536
IDLE_KEEPALIVE_S = 5  # in which a reloaded nginx has closed what was idle

# How often, relative to each other.
WEIGHTS = {
    "open_window": 14, "close_window": 8, "close_all": 3, "challenge": 5, "run": 3, "at_once": 4,
    "kill_9_stopped": 3, "kill_9": 3, "terminate": 3, "interrupt": 2, "stop_and_continue": 3,
    "open_and_kill": 2, "web_server_reload": 2, "web_server_restart": 1, "responder_restart": 2,
    "built_in_responder_killed": 2, "log_disk_full": 2, "no_descriptors": 3, "map_full": 3,
    "syncookies": 3, "interface": 2, "look": 2,
}
# Once each, in the order of the seed, before anything comes twice: also a short run has them all.
ONCE = tuple(sorted(set(WEIGHTS) - {"look"}))


class Faults:
    def __init__(self, lab, nginx, load, tick, oracle, seed):
        """tick() is called every now and then, and returns nothing: long-lived connections come and go."""
        self.lab = lab
        self.nginx = nginx
        self.load = load
        self.tick = tick
        self.oracle = oracle
        self.random = random.Random(seed)
        self.steer = Steer(lab.edge, "auto")
        self.counts = collections.Counter()
        self.totals = collections.Counter()
        self.kills = []     # (permit, connections that were being classified)
        self.seen = {}      # pid -> its last counters
        self.ending = set() # processes that were told to end
        self.open = {}      # name -> since when it is surely open, until when
        self.extra = []     # loads that came with a fault
        self.serve = None
        self.responder = openssl_responder_of(lab)
        once = list(ONCE)
        self.random.shuffle(once)
        self.plan = collections.deque(once)

    # ---- the driver ----

    def step(self):
        if self.plan:
            name = self.plan.popleft()
        else:
            name = self.random.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        self.counts[name] += 1
        self.oracle.trace.append((time.monotonic(), name))
        getattr(self, name)()
        self.look()
        self.pass_time(self.random.randrange(5, 120))

    def pass_time(self, connections):
        more_connections(self.load, connections, timeout=30)

    def cli(self, *words, may_fail=False):
        result = self.steer.run(*words, timeout=20)
        if result.code and not may_fail:
            self.oracle.violation(f"acme-steer {' '.join(words)}: exit {result.code}: {result.err.strip()}")
        if result.code and len(result.err.strip().splitlines()) != 1:
            self.oracle.violation(f"acme-steer {' '.join(words)}: not one line: {result.err!r}")
        return result.code == 0

    def ask(self):
        """The status document, or None without a process; what it counted is kept."""
        try:
            status = self.steer.ask()
        except OSError:
            return None
        self.seen[status["pid"]] = status["counters"]
        if status["counters"]["lost"] or status["counters"]["server_down"]:
            if not self.nginx_was_away:
                self.oracle.violation(f"counters: {status['counters']}")
        return status

    nginx_was_away = False

    # ---- windows ----

    def forget_windows(self, until, names=None):
        """From here on they may be closed."""
        for name in list(self.open) if names is None else names:
            if name in self.open:
                since, deadline = self.open.pop(name)
                self.oracle.sure(name, since, min(until, deadline))

    def resident(self):
        """Some processes are `serve`, with a log on a disk of its own; the others are started on demand."""
        self.wait_for_the_ending()
        if self.steer.residents() or self.random.random() < 0.4:
            return
        logs = self.lab.dir / "logs"
        logs.mkdir(exist_ok=True)
        self.serve = Process(self.lab.edge, "serve", [
            "unshare", "-m", "sh", "-c",
            f"mount -t tmpfs -o size={LOG_BYTES} tmpfs {logs} && exec {BINARY} serve 2>>{logs}/log"])
        wait_until(lambda: self.ask() or not self.serve.running(), 15, "serve answers")

    def wait_for_the_ending(self):
        """A process that was told to end lives as long as connections that it relays: the load's have an end."""
        for pid in self.ending:
            wait_until(lambda pid=pid: self.tick() or has_ended(pid), 40, f"process {pid} has ended",
                       interval=0.05)
        self.ending.clear()

    def open_window(self):
        self.resident()
        name = self.random.choice(NAMES)
        ttl = self.random.choice((2, 5, 30))
        asked = time.monotonic()
        self.forget_windows(asked, [f"{name}.example.test"])
        if self.cli("open", "--name", name, "--domain", f"{name}.example.test", "--ttl", f"{ttl}s"):
            self.totals["windows"] += 1
            self.open[f"{name}.example.test"] = time.monotonic(), asked + ttl - 0.3

    def close_window(self):
        self.wait_for_the_ending()
        name = self.random.choice(NAMES)
        self.forget_windows(time.monotonic(), [f"{name}.example.test"])
        self.cli("close", "--name", name)

    def close_all(self):
        self.wait_for_the_ending()
        self.forget_windows(time.monotonic())
        self.cli("close", "--all")

    def challenge(self):
        self.resident()
        self.forget_windows(time.monotonic(), [CHALLENGE])
        digest = hashlib.sha256(str(self.random.random()).encode()).digest()
        digest = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        if self.cli("challenge", "add", CHALLENGE, digest):
            self.totals["windows"] += 1
            self.open[CHALLENGE] = time.monotonic(), time.monotonic() + 500
            self.pass_time(self.random.randrange(50, 400))
        if self.random.random() < 0.5:
            self.forget_windows(time.monotonic(), [CHALLENGE])
            self.cli("challenge", "remove", CHALLENGE)

    def run(self):
        self.wait_for_the_ending()
        self.totals["windows"] += 1
        self.cli("run", "--name", "run", "--domain", "run.example.test", "--", "true")

    def at_once(self):
        """Several commands at the same time."""
        self.resident()
        self.forget_windows(time.monotonic())
        commands = [["open", "--name", f"x{i}", "--domain", "x.example.test", "--ttl", "1s"]
                    for i in range(2)]
        commands += [["close", "--name", "x0"], ["close", "--all"], ["status", "--json"]]
        self.random.shuffle(commands)
        started = [self.lab.edge.start("at-once", [BINARY, *words]) for words in commands]
        self.totals["windows"] += 2
        for process, words in zip(started, commands):
            code = process.wait(20)
            if code and not (words[0] == "status" and code == 3):
                self.oracle.violation(f"acme-steer {' '.join(words)}: exit {code}: {process.stderr()}")

    def look(self):
        self.ask()

    # ---- the process ----

    def pid(self):
        """Of a process with windows; None: there is none."""
        if not self.open:
            self.open_window()
        status = self.ask()
        return status["pid"] if status and status["pid"] not in self.ending else None

    def held(self, pid):
        """Clients' addresses of all connections that are not another process's, as this host sees them."""
        peers = set()
        for line in self.lab.edge.run("ss", "-Htanp", "sport = :443").splitlines():
            words = line.split()
            if words[0] in ("LISTEN", "TIME-WAIT") or ("users:" in line and f"pid={pid}," not in line):
                continue
            host, port = words[4].rsplit(":", 1)
            host = host.strip("[]")
            peers.add((host[7:] if host.startswith("::ffff:") else host, int(port)))
        return peers

    def kill_9_stopped(self):
        """All stand still while they are looked at, so that each that may be lost is known by name."""
        pid = self.pid()
        if not pid:
            return
        begin = time.monotonic()
        started = self.load.progress()[0]
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: all_stopped(pid), what="it stands still")
        stopped = time.monotonic()
        peers = self.held(pid)
        self.forget_windows(begin)
        kill_pid(pid, signal.SIGKILL)
        end = time.monotonic()
        self.oracle.disturbed(begin, end)
        permit = self.oracle.permit("being classified, or relayed, when the process was killed",
                                    begin, end + 0.05, peers=peers, since=stopped - 0.02)
        # In neither socket: one per worker at most, which no list shows.
        more = self.oracle.permit("in the gap when the process was killed", begin, end + 0.05,
                                  unanswered=True, limit=os.cpu_count())
        # Its socket goes on taking connections while it stands still.
        self.kills.append((permit, more, len(peers) + self.load.progress()[0] - started))

    def kill_9(self):
        pid = self.pid()
        if not pid:
            return
        listed = time.monotonic()
        peers = self.held(pid)
        begin = time.monotonic()
        self.forget_windows(begin)
        kill_pid(pid, signal.SIGKILL)
        end = time.monotonic()
        self.oracle.disturbed(begin, end)
        permit = self.oracle.permit("being classified when the process was killed", begin, end + 0.05,
                                    unanswered=True)
        more = self.oracle.permit("relayed when the process was killed", begin, end + 0.05, peers=peers, since=listed)
        self.kills.append((permit, more, None))

    def end_in_order(self, sig):
        pid = self.pid()
        if not pid:
            return
        begin = time.monotonic()
        self.forget_windows(begin)
        os.kill(pid, sig)
        self.ending.add(pid)
        if self.random.random() < 0.5:
            self.wait_for_the_ending()

    def terminate(self):
        self.end_in_order(signal.SIGTERM)

    def interrupt(self):
        self.end_in_order(signal.SIGINT)

    def stop_and_continue(self):
        """Within a second new connections pass it by; those that it has wait for it."""
        pid = self.pid()
        if not pid:
            return
        begin = time.monotonic()
        os.kill(pid, signal.SIGSTOP)
        self.pass_time(self.random.choice((20, 100, 400, 1000)))
        os.kill(pid, signal.SIGCONT)
        wait_until(self.ask, 10, "it goes on")
        self.oracle.disturbed(begin, time.monotonic() + 0.5)

    def open_and_kill(self):
        """Killed at some point of its start, or of the opening."""
        self.wait_for_the_ending()
        begin = time.monotonic()
        self.forget_windows(begin)
        opening = self.lab.edge.start("open", [BINARY, "open", "--name", "k", "--domain", "k.example.test",
                                               "--ttl", "2s"])
        self.totals["windows"] += 1
        self.pass_time(self.random.randrange(1, 60))
        peers = set()
        for pid in self.steer.residents():
            if pid != opening.pid:
                peers |= self.held(pid)
                kill_pid(pid, signal.SIGKILL)
        opening.wait(20)  # it starts another one, or says why not
        if opening.popen.returncode and len(opening.stderr().strip().splitlines()) != 1:
            self.oracle.violation(f"open, killed meanwhile: {opening.stderr()!r}")
        end = time.monotonic()
        self.oracle.disturbed(begin, end)
        self.oracle.permit("being classified when the process was killed", begin, end, unanswered=True)
        self.oracle.permit("relayed when the process was killed", begin, end, peers=peers, since=begin)

    # ---- around it ----

    def web_server_reload(self):
        begin = time.monotonic()
        os.kill(self.nginx.process.pid, signal.SIGHUP)
        self.oracle.permit("idle when the web server was reloaded", begin,
                           begin + longer(IDLE_KEEPALIVE_S), what="idle: ")

    def web_server_restart(self):
        """What it has is lost with it, steered or not, and what comes while it is away is refused."""
        begin = time.monotonic()
        self.nginx.stop(signal.SIGTERM)
        self.pass_time(self.random.choice((0, 50, 200)))
        self.nginx.start()
        end = time.monotonic()
        self.oracle.permit("the web server was restarted", begin, end + 0.05)

    def responder_restart(self):
        begin = time.monotonic()
        self.responder.kill()
        self.pass_time(self.random.choice((0, 100, 1000)))
        self.responder = openssl_responder_of(self.lab)
        end = time.monotonic()
        self.oracle.disturbed(begin, end)
        self.oracle.permit("the responder was restarted", begin, end + 0.05, kind="validator")

    def built_in_responder_killed(self):
        if CHALLENGE not in self.open:
            self.challenge()
        status = self.ask()
        pid = status and status["responder"]["pid"]
        if not pid:
            return
        begin = time.monotonic()
        kill_pid(pid, signal.SIGKILL)
        self.oracle.disturbed(begin, begin + 0.1)
        self.oracle.permit("in the built-in responder when it was killed", begin,
                           time.monotonic() + 0.05, kind="validator")

    def log_disk_full(self):
        """Of a process that logs to a file."""
        pid = self.pid()
        if not pid or not self.serve or not self.serve.running() or self.serve.pid != pid:
            self.close_all()
            if self.serve and self.serve.running():
                self.serve.send_signal(signal.SIGTERM)
            wait_until(lambda: self.tick() or not self.steer.residents(), 40, "no process is left",
                       interval=0.05)
            while not self.steer.residents():
                self.resident()
            self.open_window()
            pid = self.pid()
        path = f"/proc/{pid}/root{self.lab.dir}/logs/fill"
        try:
            with open(path, "wb", buffering=0) as f:
                while True:
                    f.write(bytes(4096))
        except OSError:
            pass
        for action in (self.open_window, self.close_window, self.open_window):
            action()
            self.pass_time(self.random.randrange(5, 60))
        if os.path.exists(path):
            os.unlink(path)

    def no_descriptors(self):
        """None is left, or a few."""
        pid = self.pid()
        if not pid:
            return
        begin = time.monotonic()
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        few = len(os.listdir(f"/proc/{pid}/fd")) + self.random.choice((-8, 0, 2, 10))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (few, before[1]))
        self.pass_time(self.random.choice((50, 200, 700)))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        self.oracle.disturbed(begin, time.monotonic() + 0.5)

    def map_full(self):
        """No room for another connection in the gap: those that are steered wait for it."""
        pid = self.pid()
        filled = bpfmap.of_process(pid, self.random.choice(("guards", "guards", "relay_sources"))) if pid else None
        if not filled:
            return
        try:
            self.totals["map entries filled"] += filled.fill()
            self.pass_time(self.random.choice((10, 100, 500)))
        finally:
            filled.empty()

    def syncookies(self):
        """At 0 the kernel can't hand off; what is steered then is relayed.

        At 2 every SYN is answered by a cookie, which the kernel does not know any more at 0: with or without
        acme-steer it resets who is between SYN and ACK.
        """
        self.pid()
        always = self.lab.edge.run("sysctl", "-n", "net.ipv4.tcp_syncookies").strip() == "2"
        begin = time.monotonic()
        self.lab.edge.run("sysctl", "-qw", "net.ipv4.tcp_syncookies=0")
        if always:
            self.oracle.permit("its SYN cookie was no longer valid", begin, time.monotonic(),
                               what="connect: Connection reset by peer")
        self.pass_time(self.random.choice((10, 100, 300)))
        value = self.random.choice((1, 2))
        begin = time.monotonic()
        self.lab.edge.run("sysctl", "-qw", f"net.ipv4.tcp_syncookies={value}")
        if value == 2:  # connections pass by until all listeners are seen to take cookies
            self.oracle.disturbed(begin, time.monotonic() + 0.5)

    def interface(self):
        """Another network comes, has clients, and goes; half of the time with clients on it."""
        self.pid()
        lab, n = self.lab, self.counts["interface"] % 200
        edge4, ca4 = f"203.0.113.{n + 1}", "203.0.113.250"
        edge6, ca6 = f"2001:db8:444::{n + 1:x}", "2001:db8:444::fa"
        lab.edge.run("ip", "link", "add", "edge1", "type", "veth", "peer", "name", "ca1",
                     "netns", lab.ca.name)
        for netns, device, v4, v6 in ((lab.edge, "edge1", edge4, edge6), (lab.ca, "ca1", ca4, ca6)):
            netns.run("ip", "address", "add", f"{v4}/24", "dev", device)
            netns.run("ip", "address", "add", f"{v6}/64", "dev", device, "nodad")
            netns.run("ip", "link", "set", device, "up")
        more = lab.ca.tool("tlsload", "--rate", 50, "--seconds", 1, "--timeout", longer(10),
                           "--expect-file", self.nginx.small, f"{edge4}:443", f"[{edge6}]:443")
        wait_until(lambda: more.progress()[1] >= 5 or not more.running(), 20, "clients are served there")
        if self.random.random() < 0.5:
            more.wait(30)
        begin = time.monotonic()
        lab.edge.run("ip", "link", "del", "edge1")
        self.oracle.permit("over an interface that was removed", begin, begin + longer(15),
                           remote=(edge4, edge6))
        self.extra.append(more)

    # ---- the end ----

    def finish(self):
        """Everything is closed in order; the processes end by themselves, or are told to.

        The last one takes away what one that was killed before has left.
        """
        self.wait_for_the_ending()
        self.open_window()
        self.close_all()
        for pid in self.steer.residents():
            if self.serve and pid == self.serve.pid:
                self.serve.send_signal(signal.SIGTERM)

    def counters(self):
        """Sums over all processes that there were, as they were seen last."""
        total = collections.Counter()
        for counters in self.seen.values():
            total.update(counters)
        return total


def has_ended(pid):
    """It is gone, or only its parent has not looked yet."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as f:
            return f.read().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def all_stopped(pid):
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/stat", encoding="ascii") as f:
            if f.read().rpartition(")")[2].split()[0] not in "Tt":
                return False
    return True


def openssl_responder_of(lab):
    return openssl_responder(lab.edge, 31443, [f"{name}.example.test" for name in NAMES], lab.dir,
                             connections=1 << 30)
