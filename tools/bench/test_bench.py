# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""The bench fails when a variant returns wrong bytes, misses its way, or the client was the bottleneck."""

import json
import subprocess

import pytest

import measure
import report
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
    metric = measure.Metric("fast", ["--mode", "connect", "--rate", 50000], "rate")
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
    with pytest.raises(v.BenchError, match=match):
        measure.judge("x", needs, {**GOOD, **change})


def test_other_needs_a_place_to_listen(lab):
    for text in ("", "name", "name=cat", "name=cat {listen} {redirect}"):
        with pytest.raises(v.BenchError, match="BENCH_OTHER"):
            v.other_variant(lab, 1, text)


def test_report():
    """A table and a picture of what there is, and a number for each variant in both."""
    names = [name for name, _title, _more in report.PANELS]
    document = {"machine": {"kernel": "6", "cpus": 2, "cpu": "x"}, "rounds": 1, "seconds": 1, "rate": 9,
                "labels": {"direct": "direct", "handoff": "a <b>"},
                "medians": {n: {"direct": 2.0, "handoff": 1.0} for n in names},
                "ratios": {n: {"direct": 1.0, "handoff": 0.5} for n in names}}
    assert report.markdown(document).count("(0.50)") == len(names)
    svg = report.svg(document)
    assert svg.count(">0.50<") == len(names) and "a &lt;b&gt;" in svg


def test_micro_refuses_what_it_can_not_parse(tmp_path):
    bad = tmp_path / "bad.hex"
    bad.write_text("16 03 01\n", encoding="ascii")
    micro = measure.BUILD / "bench" / "micro"
    done = subprocess.run([micro, "hello", bad, "10"], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "does not do" in done.stderr


def test_load_prints_json(lab, web):
    process = measure.start_load(lab, v.Direct(lab), "--mode", "requests", "--connections", 2,
                                 "--expect-file", web.small, "--seconds", 0.1)
    process.wait(20)
    assert json.loads(process.stdout())["failed"] == 0
