# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""What is measured, and when a measurement is not believed.

Every load goes through run_load(): it raises BenchError when a response was wrong or missing, or when a
connection did not take the variant's way, and NotBelieved when the client was what limited the result.
"""

import array
import contextlib
import json
import pathlib
import re
import signal
import subprocess
import time

from variants import BenchError, descendants, sh, wait_until
from lab import BUILD, bpf_descriptors
from steer import BINARY

LOAD = BUILD / "bench" / "load"

# A load that is to saturate the machine leaves less than this of it idle.
IDLE_MAX = 0.15
# One connection can't use all CPUs, but its client must not be what it waits for.
WORKER_MAX = 0.95
# At a fixed rate: how many of the connections came, and how late the client itself was with half of them.
RATE_MIN = 0.8
LATE_MAX_MS = 2.0

# Until as many connections are under way as there are to be: some times what one takes. At a fixed rate: until what
# had to wait for the first sessions is done.
WARM_UP_S = 0.2

RATE = 1000
RATE_LEAST_S = 0.5
MANY_CONNECTIONS = 64

# Windows are opened and closed beside so many plain connections a second, of so many clients, each of which takes
# about so long for one.
WINDOW_RATE, WINDOW_CLIENTS, WINDOW_CONNECTION_MS = 5000, 24, 1.0
WINDOW_PORT = 8443


class NotBelieved(BenchError):
    """Nothing was wrong with the responses, but the result says nothing of the variant."""


class Metric:
    """One load, run in each round on each variant."""

    def __init__(self, name, options, needs, bulk=None, warm_up_s=WARM_UP_S, least_s=0.0):
        self.name = name
        self.warm_up_s = warm_up_s
        self.least_s = least_s  # for percentiles
        self.options = options
        self.needs = needs  # "saturation", "rate" or "worker": what must hold, see judge()
        self.bulk = bulk    # "down", "up"

    def load_options(self, web):
        if self.bulk == "up":
            return ["--mode", "up", "--path", "/upload/", "--upload-file", web.bulk, *self.options]
        if self.bulk == "down":
            return ["--mode", "down", "--path", "/bulk", "--expect-file", web.bulk, *self.options]
        return ["--expect-file", web.small, *self.options]


METRICS = [
    Metric("connect", ["--mode", "connect", "--connections", MANY_CONNECTIONS], "saturation"),
    Metric("resume", ["--mode", "connect", "--resume", "--connections", MANY_CONNECTIONS], "saturation"),
    Metric("rate", ["--mode", "connect", "--resume", "--rate", RATE], "rate",
           warm_up_s=0.5, least_s=RATE_LEAST_S),
    Metric("requests", ["--mode", "requests", "--connections", MANY_CONNECTIONS], "saturation"),
    Metric("down1", ["--workers", 1, "--connections", 1], "worker", "down"),
    Metric("down8", ["--connections", 8], "saturation", "down"),
    Metric("up1", ["--workers", 1, "--connections", 1], "worker", "up"),
    Metric("up8", ["--connections", 8], "saturation", "up"),
]


def idle_fraction(result):
    seconds = result["system_s"]
    return (seconds["idle"] + seconds["iowait"]) / (sum(seconds.values()) or 1)


def busy_s(result):
    seconds = result["system_s"]
    return sum(seconds.values()) - seconds["idle"] - seconds["iowait"]


def judge(what, needs, result, rate=RATE):
    """Raises BenchError when the responses were not right, NotBelieved when the client was the bottleneck."""
    if result["failed"]:
        raise BenchError(f"{what}: {result['failed']} of {result['started']} connections failed: "
                         f"{result['reasons']}")
    if needs == "saturation" and idle_fraction(result) > IDLE_MAX:
        raise NotBelieved(f"{what}: the client was the bottleneck: {idle_fraction(result):.0%} of the "
                          "machine was idle")
    if needs == "worker":
        share = max(result["worker_cpu_s"]) / result["seconds"]
        if share > WORKER_MAX:
            raise NotBelieved(f"{what}: the client was the bottleneck: its worker was busy for {share:.0%}")
    if needs == "rate":
        came = result["done"] / result["seconds"] / rate
        if came < RATE_MIN:
            raise NotBelieved(f"{what}: only {came:.0%} of {rate} connections/s came to their end")
        if result["late_ms"]["p50"] > LATE_MAX_MS:
            raise NotBelieved(f"{what}: the client was the bottleneck: late by {result['late_ms']['p50']} ms "
                              "with half of the connections")
    if not result["done"] and not result["bytes"]:
        raise BenchError(f"{what}: nothing was measured")


def start_load(lab, variant, *options):
    peer = ["--expect-peer", variant.peer] if variant.peer else []
    argv = [LOAD, *options, *peer, *lab.source_options(), variant.target]
    return lab.ca.start("load", [str(word) for word in argv])


def finish_load(process, timeout=60):
    process.wait(timeout)
    lines = process.stdout().splitlines()
    if not lines:
        raise BenchError(f"the client: {process.stderr().strip()}")
    return json.loads(lines[-1])


def run_load(lab, web, variant, metric, seconds):
    """One measurement; the variant's turn has begun."""
    samples = lab.dir / "samples"
    process = start_load(lab, variant, *metric.load_options(web), "--warmup", metric.warm_up_s,
                         "--seconds", max(seconds, metric.least_s), "--samples", samples)
    result = finish_load(process)
    what = f"{variant.name}, {metric.name}"
    judge(what, metric.needs, result)
    variant.check_route(result["started"])
    if metric.bulk == "up":
        web.check_uploads()
    # The first ones, as many as there are at once, have no session yet.
    if metric.name == "resume" and result["resumed"] < (result["started"] - MANY_CONNECTIONS) * 0.9:
        raise BenchError(f"{what}: only {result['resumed']} of {result['started']} sessions were resumed")
    values = array.array("Q")
    with contextlib.suppress(FileNotFoundError):
        values.frombytes(samples.read_bytes())
    samples.unlink(missing_ok=True)
    result["samples_ns"] = values
    return result


# --- memory -------------------------------------------------------------------------------------

def pss_kib(pids):
    """What the processes hold, shared pages by their share. Processes that end meanwhile have none."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
            total += int(re.search(r"^Pss:\s+(\d+)", text, re.M)[1])
    return total


def kernel_kib():
    """What the kernel can't give back: sockets, among others."""
    text = pathlib.Path("/proc/meminfo").read_text(encoding="ascii")
    return int(re.search(r"^SUnreclaim:\s+(\d+)", text, re.M)[1])


def memory(lab, web, variant, steps):
    """[(connections, KiB of the variant's processes, KiB of the kernel)], for 0 and each of `steps`."""
    holders = []
    rows = [(0, pss_kib(variant.pids()), kernel_kib())]
    there = 0
    for goal in steps:
        progress = lab.dir / f"held-{variant.name}-{goal}"
        process = start_load(lab, variant, "--mode", "hold", "--connections", goal - there,
                             "--expect-file", web.small, "--progress", progress, "--seconds", 0.01)
        holders.append(process)
        wait_until(lambda p=process, f=progress: f.exists() or not p.running(), 60,
                   f"{goal} connections are held")
        there = goal
        rows.append((goal, pss_kib(variant.pids()), kernel_kib()))
    for process in holders:
        process.send_signal(signal.SIGTERM)
    started = 0
    for process in holders:
        result = finish_load(process)
        judge(f"{variant.name}, memory", None, {**result, "done": result["started"]})
        started += result["started"]
    variant.check_route(started)
    return rows


# --- the window ---------------------------------------------------------------------------------

def timed_command(argv):
    """Milliseconds that a command takes, its start included."""
    began = time.monotonic()
    done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    took = time.monotonic() - began
    if done.returncode:
        raise BenchError(f"{argv[1]}: exit code {done.returncode}: {done.stderr.strip()}")
    return took * 1e3


def window_latency(lab, handoff, cycles, rate):
    """({"open_ms": [...], "close_ms": [...]} of `cycles` windows, new connections per second meanwhile).

    The times are those of whole commands, as an ACME client's hook runs them: in the namespace already. The
    connections are plain ones, each checked at both ends: there is no CPU for as many of TLS.
    """
    server = lab.edge.tool("byteserver", "--listen", f"{lab.edge.v4}:{WINDOW_PORT}")
    wait_until(lambda: lab.edge.listening(WINDOW_PORT), 10, "byteserver listens")
    load = None
    if rate:
        gap_ms = WINDOW_CLIENTS * 1000 / rate - WINDOW_CONNECTION_MS
        load = lab.ca.tool("hammer", "--connections", 10**9, "--segments", 0, "--threads", WINDOW_CLIENTS,
                           "--gap-ms", gap_ms, *lab.source_options(), f"{lab.edge.v4}:{WINDOW_PORT}",
                           progress=False)
        wait_until(lambda: server.progress()[0], 10, "the load has begun")
    times = {"open_ms": [], "close_ms": []}

    def handed_off():
        return handoff.counters()["handed_off_web"]

    for _ in range(cycles):
        before = handed_off()
        for act, command in (("open_ms", ["open", "--plane", "handoff", "--port", str(WINDOW_PORT)]),
                             ("close_ms", ["close"])):
            times[act].append(lab.edge.inside(timed_command, [BINARY, *command]))
            if load and act == "open_ms":
                wait_until(lambda n=before: handed_off() > n, what="a connection is handed off")
    came = 0
    if load:
        result = load.stop_and_result()
        came = result["ok"] / result["seconds"]
        if result["failed"]:
            raise BenchError(f"window: {result['reasons']}")
        if came < rate * RATE_MIN:
            raise NotBelieved(f"window: only {came:.0f} of {rate} connections/s came")
    server.stop()
    return times, came


class DirectOf:
    """The way of a load that is handed off or not: the web server sees the client itself."""

    def __init__(self, variant):
        self.peer, self.target = "self", variant.target


# --- where it goes ------------------------------------------------------------------------------

@contextlib.contextmanager
def bpf_stats():
    path = pathlib.Path("/proc/sys/kernel/bpf_stats_enabled")
    before = path.read_text(encoding="ascii")
    path.write_text("1", encoding="ascii")
    try:
        yield
    finally:
        path.write_text(before, encoding="ascii")


def program_stats(pids):
    """name -> (ns, runs) of the BPF programs of these processes."""
    ids = {int(info["prog_id"]) for pid in pids for info in bpf_descriptors(pid) if "prog_id" in info}
    programs = json.loads(sh("bpftool", "-j", "prog", "show"))
    return {p["name"]: (p.get("run_time_ns", 0), p.get("run_cnt", 0)) for p in programs if p["id"] in ids}


def program_ns(before, after):
    """name -> (ns per run, runs) between two program_stats()."""
    out = {}
    for name, (ns, runs) in after.items():
        old = before.get(name, (0, 0))
        if runs > old[1]:
            out[name] = ((ns - old[0]) / (runs - old[1]), runs - old[1])
    return out


def lookup_ns(lab, web, variant, seconds):
    """ns per run of the programs with the window open for the port, by either plane, and with one for another port."""
    out = {}
    metric = METRICS[1]
    direct = DirectOf(variant)
    with bpf_stats():
        for key, options in (("passing", ["--plane", "auto"]), ("open", ["--plane", "handoff"]),
                             ("closed", ["--plane", "handoff", "--port", "8443", "--web-server",
                                         f"{lab.edge.v4}:443"])):
            variant.steer.open(*options)
            before = program_stats(variant.pids())
            result = finish_load(start_load(lab, direct, *metric.load_options(web), "--seconds", seconds))
            judge(f"sk_lookup, {key}", None, result)
            programs = program_ns(before, program_stats(variant.pids()))
            variant.steer.close()
            if programs.get("steer", (0, 0))[1] < result["done"]:
                raise BenchError(f"sk_lookup, {key}: the program did not see all connections: {programs}")
            out[key] = programs
    return out


def cpu_ns(pids):
    """What the processes' threads have had of the CPU."""
    total = 0
    for pid in pids:
        for path in pathlib.Path(f"/proc/{pid}/task").iterdir():
            total += int((path / "schedstat").read_text(encoding="ascii").split()[0])
    return total


def per_visitor(lab, web, auto, seconds):
    """CPU µs that the resident process spends on a connection whose ClientHello is read in passing."""
    with auto.turn():
        before, cpu = auto.counters(), cpu_ns(auto.pids())
        result = finish_load(start_load(lab, auto, *METRICS[0].load_options(web), "--seconds", seconds))
        judge("visitors", None, result)
        cpu = cpu_ns(auto.pids()) - cpu
        n = auto.counters()[auto.counter] - before[auto.counter]
        auto.check_route(result["started"])
    return {"connections": n, "cpu_us": cpu / n / 1e3}


def per_handoff(lab, web, variant, seconds):
    """What the resident process spends on a connection: CPU, and, in a second load, system calls."""
    metric = METRICS[0]
    with variant.turn():
        before, cpu = variant.counters(), cpu_ns(variant.pids())
        result = finish_load(start_load(lab, variant, *metric.load_options(web), "--seconds", seconds))
        judge("hand-off", None, result)
        cpu = cpu_ns(variant.pids()) - cpu
        n = variant.counters()["handed_off_web"] - before["handed_off_web"]
        variant.check_route(result["started"])
        traced = lab.dir / "strace"
        strace = lab.edge.start("strace", ["strace", "-f", "-c", "-o", traced, "-p", variant.pids()[0]])
        wait_until(lambda: "attached" in strace.stderr() or not strace.running(), what="strace is attached")
        before = variant.counters()["handed_off_web"]
        result = finish_load(start_load(lab, variant, *metric.load_options(web), "--seconds", seconds))
        judge("hand-off, traced", None, result)
        n_traced = variant.counters()["handed_off_web"] - before
        strace.stop(signal.SIGINT)
        variant.check_route(result["started"])
    calls = {}
    for line in traced.read_text(encoding="ascii").splitlines():
        words = line.split()
        if len(words) >= 5 and words[0].replace(".", "").isdigit() and words[-1] != "total":
            calls[words[-1]] = int(words[3]) / n_traced
    if not calls:
        raise BenchError("strace has counted nothing")
    return {"connections": n, "cpu_us": cpu / n / 1e3, "calls": sum(calls.values()),
            "by_name": dict(sorted(calls.items(), key=lambda item: -item[1]))}


__all__ = ["METRICS", "Metric", "RATE", "busy_s", "descendants", "idle_fraction", "judge", "lookup_ns", "memory",
           "per_handoff", "per_visitor", "run_load", "window_latency"]
