# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""The bench fails when a variant returns wrong bytes, misses its way, or the client was the bottleneck, and
when a cost grows."""

import contextlib
import json
import math
import subprocess

import pytest

import bench
import measure
import microbench
import report
import scale
import scale_report
import variants as v
from lab import Lab
from steer import Steer

CONNECT = measure.METRICS[0]
SECONDS = 0.3


@pytest.fixture(scope="module")
def lab():
    lab = Lab(v6=False)
    yield lab
    lab.close()


@pytest.fixture(scope="module")
def web(lab):
    web = v.WebServer(lab)
    yield web
    web.close()


@pytest.fixture(scope="module")
def steer(lab, web):
    steer = Steer(lab.edge, "auto")
    steer.serve()
    return steer


def few(*options, needs=None, bulk=None):
    """A load that need not saturate anything."""
    return measure.Metric("few", ["--connections", 2, *options], needs, bulk)


NEW = few("--mode", "connect")


def test_direct_is_believed(lab, web):
    result = measure.run_load(lab, web, v.Direct(lab), NEW, SECONDS)
    assert result["done"] > 0 and len(result["samples_ns"]) > 0


@pytest.mark.parametrize("kind", [v.HandOff, v.Relay])
def test_steered_is_believed(lab, web, steer, kind):
    variant = kind(lab, steer)
    with variant.turn():
        measure.run_load(lab, web, variant, NEW, SECONDS)


def test_wrong_byte(lab, web):
    good = web.small.read_bytes()
    # In place: the client has its copy from a file of its own.
    expected = web.dir / "expected"
    expected.write_bytes(good)
    web.small.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    metric = few("--mode", "connect", "--expect-file", expected)
    try:
        with pytest.raises(v.BenchError, match="wrong byte"):
            measure.run_load(lab, web, v.Direct(lab), metric, SECONDS)
    finally:
        web.small.write_bytes(good)


def test_wrong_length(lab, web):
    good = web.small.read_bytes()
    expected = web.dir / "expected"
    expected.write_bytes(good)
    web.small.write_bytes(good[:-1])
    metric = few("--mode", "connect", "--expect-file", expected)
    try:
        with pytest.raises(v.BenchError, match="unexpected length"):
            measure.run_load(lab, web, v.Direct(lab), metric, SECONDS)
    finally:
        web.small.write_bytes(good)


def test_wrong_upload(lab, web):
    measure.run_load(lab, web, v.Direct(lab), few(bulk="up"), SECONDS)
    path = web.dir / "upload" / "0"
    data = bytearray(web.bulk.read_bytes())
    data[12345] ^= 1
    path.write_bytes(data)
    with pytest.raises(v.BenchError, match="wrong bytes in 0"):
        web.check_uploads()
    path.unlink()
    with pytest.raises(v.BenchError, match="has nothing"):
        web.check_uploads()


def test_hand_off_with_no_window(lab, web, steer):
    """Connections that are served, directly, are no measurement of a hand-off."""
    variant = v.HandOff(lab, steer)
    with variant.turn():
        steer.close()
        with pytest.raises(v.BenchError, match="handed_off_web grew by"):
            measure.run_load(lab, web, variant, NEW, SECONDS)


def test_visitors_who_are_steered(lab, web, steer):
    """Hand-offs are no measurement of visitors who need none."""
    class Wrong(v.Auto):
        plane = "handoff"

    with pytest.raises(AssertionError, match="the device is guarded"):
        with Wrong(lab, steer).turn():
            pass


def test_hand_off_that_relays(lab, web, steer):
    class Wrong(v.HandOff):
        plane, options, peer = "relay", ("--client-ip", "none"), v.Relay(lab, steer).peer

    variant = Wrong(lab, steer)
    with variant.turn():
        with pytest.raises(v.BenchError, match="handed_off_web grew by 0"):
            measure.run_load(lab, web, variant, NEW, SECONDS)


def test_relay_that_hands_off(lab, web, steer):
    class Wrong(v.Relay):
        plane, options = "handoff", ()

    with (variant := Wrong(lab, steer)).turn():
        with pytest.raises(v.BenchError, match="route: the web server saw 198.51.100"):
            measure.run_load(lab, web, variant, NEW, SECONDS)
        variant.peer = "self"
        with pytest.raises(v.BenchError, match="relayed_web grew by 0"):
            measure.run_load(lab, web, variant, NEW, SECONDS)


def test_direct_with_a_window(lab, web, steer):
    with v.HandOff(lab, steer).turn():
        with pytest.raises(v.BenchError, match="something steers"):
            measure.run_load(lab, web, v.Direct(lab), NEW, SECONDS)


def test_proxy_that_is_not_asked(lab, web):
    """The client reaches the web server itself."""
    variant = v.HAProxy(lab)
    measure.run_load(lab, web, variant, NEW, SECONDS)
    variant.port = 443
    with pytest.raises(v.BenchError, match="route: the web server saw 198.51.100"):
        measure.run_load(lab, web, variant, NEW, SECONDS)
    with pytest.raises(v.BenchError, match="is not its own"):
        variant.check_route(1)


def test_redirect_that_is_passed_by(lab, web):
    variant = v.Redirect(lab)
    with variant.turn():
        measure.run_load(lab, web, variant, NEW, SECONDS)
        variant.port = variant.listening
        with pytest.raises(v.BenchError, match="0 of them redirected"):
            measure.run_load(lab, web, variant, NEW, SECONDS)


def test_client_too_slow_to_saturate(lab, web):
    """One connection at a time, with requests on it that wait for each other, leaves CPUs idle."""
    metric = measure.Metric("slow", ["--mode", "connect", "--workers", 1, "--rate", 20], "saturation")
    with pytest.raises(v.BenchError, match="the client was the bottleneck: .*idle"):
        measure.run_load(lab, web, v.Direct(lab), metric, SECONDS)


def test_client_too_slow_for_the_rate(lab, web):
    # Some times what a machine can do; not so many that the last ones wait for longer than the client does.
    metric = measure.Metric("fast", ["--mode", "connect", "--rate", 10000], "rate")
    with pytest.raises(v.BenchError, match="the client was the bottleneck|came to their end"):
        measure.run_load(lab, web, v.Direct(lab), metric, SECONDS)


GOOD = {"failed": 0, "started": 10, "done": 1000, "bytes": 0, "reasons": {}, "seconds": 1.0,
        "worker_cpu_s": [0.5], "late_ms": {"p50": 0.1},
        "system_s": {"user": 1.9, "idle": 0.1, "iowait": 0.0}}


@pytest.mark.parametrize("needs", ["saturation", "rate", "worker"])
def test_judge_believes(needs):
    measure.judge("x", needs, GOOD)


@pytest.mark.parametrize("needs, change, match", [
    ("rate", {"late_ms": {"p50": 5.0}}, "late by 5.0 ms"),
    ("rate", {"done": 700}, "only 70%"),
    ("worker", {"worker_cpu_s": [0.99]}, "busy for 99%"),
    ("saturation", {"system_s": {"user": 1.5, "idle": 0.5, "iowait": 0.0}}, "25% of the machine"),
    ("saturation", {"system_s": {"user": 1.5, "idle": 0.0, "iowait": 0.5}}, "25% of the machine"),
    ("saturation", {"failed": 1}, "1 of 10 connections failed"),
    (None, {"done": 0}, "nothing was measured"),
])
def test_judge_does_not_believe(needs, change, match):
    with pytest.raises(v.BenchError, match=match) as raised:
        measure.judge("x", needs, {**GOOD, **change})
    # Only a bottleneck lets a run go on without this measurement.
    assert (raised.type is measure.NotBelieved) == (needs is not None and "failed" not in change)


class Scripted:
    """A variant, and what its measurements are: a result, or a fault."""

    def __init__(self, name, *script):
        self.name, self.script = name, list(script)

    def turn(self):
        return contextlib.nullcontext()

    def measure(self):
        what = self.script.pop(0)
        if isinstance(what, Exception):
            raise what
        return what


def scripted_rounds(monkeypatch, *script):
    options = bench.parse(["--rounds", "3", "--metrics", "requests"])
    monkeypatch.setattr(measure, "run_load", lambda _lab, _web, variant, _metric, _seconds: variant.measure())
    return bench.rounds(None, None, [Scripted("x", *script)], options)


def test_bottleneck_is_left_out(monkeypatch):
    fault = measure.NotBelieved("x, requests: the client was the bottleneck")
    results, left_out = scripted_rounds(monkeypatch, GOOD, fault, GOOD)
    assert results == {"requests": {"x": {0: GOOD, 2: GOOD}}} and left_out == [str(fault)]
    with pytest.raises(v.BenchError, match="x, requests: every round was left out"):
        scripted_rounds(monkeypatch, fault, fault, fault)
    with pytest.raises(v.BenchError, match="wrong byte"):
        scripted_rounds(monkeypatch, GOOD, v.BenchError("wrong byte"), GOOD)


def test_a_run_without_some_of_it_fails(monkeypatch, tmp_path):
    """What there is can be read, with what is not, and nobody takes it for a whole run."""
    document = {**DOCUMENT, "left_out": ["x, rate: only 70%", "y, up8: 20% idle", "x, rate: only 60%"]}
    monkeypatch.setattr(bench, "measured", lambda name, run_it: document)
    with pytest.raises(SystemExit, match="3 measurements were left out"):
        bench.main(["--output", str(tmp_path)])
    assert "bottleneck: x, rate, 2 times; y, up8." in (tmp_path / "results.md").read_text(encoding="utf-8")
    document["left_out"] = []
    assert bench.main(["--output", str(tmp_path)]) == 0
    assert "bottleneck" not in (tmp_path / "results.md").read_text(encoding="utf-8")


def test_numbers_of_a_run():
    """A median of the rounds that there are; p99.9 of all connections of all rounds."""
    def load(done, latency_ms):
        return {**GOOD, "done": done, "samples_ns": [latency_ms * 1e6] * 999 + [done * 1e6]}

    results = {"requests": {"x": {0: load(10, 1), 1: load(40, 1), 3: load(20, 1)}},
               "rate": {"x": {0: load(7, 1), 2: load(900, 5), 3: load(8, 6)}}}
    values = bench.by_number(results)
    assert values["requests_per_s"] == {"x": {0: (10, 1), 1: (40, 1), 3: (20, 1)}}
    of_x = {name: by_variant["x"] for name, by_variant in bench.medians(results, values).items()}
    # CPU time is the sum over all rounds.
    assert of_x == pytest.approx({"requests_per_s": 20, "requests_cpu_us": 3 * 1.9 / 70 * 1e6, "latency_p50_ms": 5,
                                  "latency_p99_ms": 5, "latency_p999_ms": 6})


@pytest.mark.parametrize("name", ["requests_per_s", "requests_cpu_us"])
def test_interval(name):
    """What all rounds agree on is sure, however much a round differs from the next; noise is not."""
    def rounds(of, numbers=range(40)):
        return {n: (of(n), 1) for n in numbers}

    base = rounds(lambda n: 100 + n)
    same = bench.interval(name, rounds(lambda n: 97 + n * 0.97), base)
    assert same == pytest.approx([0.97] * 3)
    ratio, low, high = bench.interval(name, rounds(lambda n: (100 + n) * (1.3 if n % 2 else 0.7)), base)
    assert low < 0.93 and high > 1.05 and low < ratio < high
    # A round that only one has tells nothing.
    some = {**rounds(lambda n: 50, range(10)), **rounds(lambda n: 700, range(50, 90))}
    assert bench.interval(name, some, rounds(lambda n: 100)) == [0.5] * 3
    assert bench.interval(name, rounds(lambda n: 50, range(5)), base) is None


@pytest.mark.parametrize("name", ["window", "lookup", "visitor", "handoff"])
def test_measured_once(lab, web, steer, name, monkeypatch):
    """What a run measures at its end. (Memory takes thousands of connections.)"""
    monkeypatch.setattr(measure, "WINDOW_RATE", 500)  # which any machine has the CPU for
    monkeypatch.setattr(bench, "SINGLE_S", SECONDS)
    options = bench.parse(["--quick"])
    assert bench.SINGLE[name](lab, web, [v.Auto(lab, steer), v.HandOff(lab, steer)], options)


def test_other_needs_a_place_to_listen(lab):
    for text in ("", "name", "name=cat", "name=cat {listen} {redirect}"):
        with pytest.raises(v.BenchError, match="BENCH_OTHER"):
            v.other_variant(lab, 1, text)


NUMBERS = [name for name, _title, _more in report.PANELS]
DOCUMENT = {"machine": {"kernel": "6", "cpus": 2, "cpu": "x"}, "rounds": 1, "seconds": 1, "rate": 9, "rate_seconds": 1,
            "labels": {"direct": "direct", "handoff": "a <b>"}, "left_out": [],
            "intervals": {n: {"handoff": [0.5, 0.25, 0.75]} for n in NUMBERS},
            "medians": {n: {"direct": 2.0, "handoff": 1.0} for n in NUMBERS},
            "ratios": {n: {"direct": 1.0, "handoff": 0.5} for n in NUMBERS}}


def test_report():
    """A table and a picture of what there is, and a number for each variant in both."""
    text = report.markdown(DOCUMENT)
    assert text.count("(0.50)") == len(NUMBERS) and text.count("| 0.50 (0.25 to 0.75) |") == len(NUMBERS)
    svg = report.svg(DOCUMENT)
    assert svg.count(">0.50<") == len(NUMBERS) and "a &lt;b&gt;" in svg


def test_micro_refuses_what_it_can_not_parse(tmp_path):
    bad = tmp_path / "bad.hex"
    bad.write_text("16 03 01\n", encoding="ascii")
    micro = measure.BUILD / "bench" / "micro"
    done = subprocess.run([micro, "hello", bad, "10"], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "does not do" in done.stderr


LEVELS = [1, 10, 100, 1000, 10000]
GROWTH = {"constant": lambda level: 40, "noise": lambda level: 40 + 30 * (level == 100),
          "logarithm": lambda level: 40 + 2 * math.log2(level), "square root": lambda level: 40 + level ** 0.5,
          "linear": lambda level: 40 + level / 100}


def grown(promise, growth, unit="µs"):
    series = scale.Series("A hand-off", "challenges", "a <b>", promise, unit)
    for level in LEVELS:
        for interference in (30, 0, 5):  # what else the machine does
            series.add(level, GROWTH[growth](level) + interference)
    return series


@pytest.mark.parametrize("promise, growth", [
    ("constant", "constant"), ("constant", "noise"), ("logarithm", "constant"), ("logarithm", "logarithm"),
    ("linear", "linear"),
])
def test_growth_as_promised(promise, growth):
    assert grown(promise, growth).fault() is None


@pytest.mark.parametrize("promise, growth", [
    ("constant", "logarithm"), ("constant", "square root"), ("constant", "linear"), ("logarithm", "square root"),
    ("logarithm", "linear"),
])
def test_growth_beyond_what_is_promised(promise, growth):
    assert "promised is at most" in grown(promise, growth).fault()


def test_scale_report():
    """A point, and a number, for each level; what is promised is drawn, but for a line that may go anywhere."""
    options = scale.parse([])
    series = [grown("constant", "constant"), scale.Series("A request", "windows", "x", "linear", "instructions")]
    for level in (0, 4):
        series[1].add(level, 7)
    document = json.loads(json.dumps(scale.document_of(series, options)))
    svg, text = scale_report.svg(document), scale_report.markdown(document)
    assert svg.count("<circle") == len(LEVELS) + 2 and svg.count('class="l"') == 1 and "a &lt;b&gt;" in svg
    assert text.count("40.0 (62.0)") == len(LEVELS) and "| A request, by windows | promise | 0 | 4 |" in text


def test_connections_that_do_not_go_their_way(lab, steer):
    """Answered, but by nobody whom they were handed off to."""
    axis = scale.Scale(lab, scale.parse(["--quick"]), steer)
    server = scale.Server(lab, (lab.edge.v4, 8443))
    axis.target = (lab.edge.v4, 8443)
    hellos = [scale.client_hello("www.example.test", "http/1.1")]
    try:
        axis.ask("open", "port=8443", "plane=handoff")
        assert axis.connections(hellos) > 0
        axis.ask("close", "all=1")
        with pytest.raises(AssertionError, match="handed_off_web grows"):
            axis.connections(hellos)
    finally:
        server.close()


@pytest.mark.parametrize("kind, many", [("windows", 64), ("challenges", 9999), ("deadlines", 9999)])
def test_look_ups_do_not_grow(kind, many):
    few_of_them, all_of_them = (microbench.measure(kind, n, timed=10, counted=10)[2] for n in (2, many))
    assert all_of_them < 1.5 * few_of_them


def test_load_prints_json(lab, web):
    process = measure.start_load(lab, v.Direct(lab), "--mode", "requests", "--connections", 2,
                                 "--expect-file", web.small, "--seconds", 0.1)
    process.wait(20)
    assert json.loads(process.stdout())["failed"] == 0
