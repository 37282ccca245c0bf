# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""The ways to a web server on 443, side by side: `make bench`, or with QUICK=1 in about three minutes.

One run has rounds. In each round, and for each metric, the variants take turns, another one first each time, so
that what the machine does meanwhile hits all: many short rounds tell more than a few long ones. Results are
medians over rounds, and ratios of those to direct's, the program's own with 95 % confidence intervals. They go to
DIR/results.md, .json and .svg.

It fails, and writes nothing, when a variant returns a wrong byte or misses its way. When the client was the
bottleneck of a measurement, that one is left out, the results say so, and it fails at its end.

BENCH_OTHER adds programs: "NAME=COMMAND", several with a semicolon between, where {listen} stands for the
ADDRESS:PORT to listen on, {redirect} for the same behind an nftables REDIRECT, {web} for the web server's address
and {responder} for a responder's.
"""

import argparse
import contextlib
import itertools
import json
import os
import pathlib
import platform
import random
import re
import signal
import statistics
import sys

import variants as v
import measure
import report
from lab import Lab, remove_stale


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds: about three minutes")
    parser.add_argument("--rounds", type=int, help="(40; quick: 4)")
    parser.add_argument("--seconds", type=float, help="of one load (0.2)")
    parser.add_argument("--variants", help="names with commas between; direct is always there")
    parser.add_argument("--metrics", help="names with commas between: "
                        + ", ".join([m.name for m in measure.METRICS] + list(SINGLE)))
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("build/bench"),
                        help="the folder for the results")
    options = parser.parse_args(argv)
    options.rounds = options.rounds or (4 if options.quick else 40)
    options.seconds = options.seconds or 0.2
    known = [m.name for m in measure.METRICS] + list(SINGLE)
    options.metrics = options.metrics.split(",") if options.metrics else known
    unknown = set(options.metrics) - set(known)
    if unknown or options.rounds < 1 or options.seconds <= 0:
        parser.error(f"no such metric: {', '.join(unknown)}" if unknown else "rounds and seconds are positive")
    return options


# For a confidence interval.
LEAST_ROUNDS = 6


def say(text):
    print(text, file=sys.stderr, flush=True)


def rounds(lab, web, chosen, options):
    """metric -> variant -> round -> result, and what was left out of them."""
    metrics = [m for m in measure.METRICS if m.name in options.metrics]
    results = {m.name: {variant.name: {} for variant in chosen} for m in metrics}
    left_out = []
    for number in range(options.rounds if metrics else 0):
        say(f"round {number + 1} of {options.rounds}")
        at = number % len(chosen)
        for metric in metrics:
            for variant in chosen[at:] + chosen[:at]:
                with variant.turn():
                    try:
                        result = measure.run_load(lab, web, variant, metric, options.seconds)
                        results[metric.name][variant.name][number] = result
                    except measure.NotBelieved as error:
                        say(f"left out: {error}")
                        left_out.append(str(error))
    for metric, by_variant in results.items():
        for variant, there in by_variant.items():
            if not there:
                raise v.BenchError(f"{variant}, {metric}: every round was left out")
    return results, left_out


def percentile_ms(samples, q):
    return samples[int((len(samples) - 1) * q)] / 1e6


def numbers_of(name, result):
    """What one measurement of a metric is shown as: name -> (how much, of how many)."""
    if name == "rate":
        samples = sorted(result["samples_ns"])
        return {f"latency_{key}_ms": (percentile_ms(samples, q), 1) for key, q in (("p50", 0.5), ("p99", 0.99))}
    if name in ("connect", "resume", "requests"):
        return {f"{name}_per_s": (result["done"], result["seconds"]),
                f"{name}_cpu_us": (measure.busy_s(result) * 1e6, result["done"])}
    gib = result["bytes"] / 2**30
    return {f"{name}_gib_per_s": (gib, result["seconds"]), f"{name}_cpu_s_per_gib": (measure.busy_s(result), gib)}


def by_number(results):
    """name -> variant -> round -> (how much, of how many)"""
    out = {}
    for metric, by_variant in results.items():
        for variant, by_round in by_variant.items():
            for number, result in by_round.items():
                for name, value in numbers_of(metric, result).items():
                    out.setdefault(name, {}).setdefault(variant, {})[number] = value
    return out


def typical(name, values):
    """
    The median of some rounds' numbers. But CPU time is their sum: the kernel tells it in hundredths of a second, and
    a round takes a few tenths.
    """
    if "_cpu_" in name:
        return sum(much for much, _many in values) / sum(many for _much, many in values)
    return statistics.median(much / many for much, many in values)


def medians(results, values):
    """name -> variant -> number, typical(); but p99.9 is that of all connections of all rounds."""
    out = {name: {variant: typical(name, by_round.values()) for variant, by_round in by_variant.items()}
           for name, by_variant in values.items()}
    for variant, by_round in results.get("rate", {}).items():
        every = sorted(itertools.chain(*(result["samples_ns"] for result in by_round.values())))
        out.setdefault("latency_p999_ms", {})[variant] = percentile_ms(every, 0.999)
    return out


def interval(name, values, base):
    """
    [ratio, low, high]: of what is typical() of @values to that of @base, over the rounds that both have, with its
    95 % confidence interval, the percentiles of a bootstrap that draws rounds. A round's two stay together, as they
    were measured one shortly after the other. None: too few rounds.
    """
    both = sorted(values.keys() & base.keys())
    if len(both) < LEAST_ROUNDS:
        return None

    def ratio(numbers):
        return typical(name, [values[n] for n in numbers]) / typical(name, [base[n] for n in numbers])

    draw = random.Random(1).choices
    ratios = sorted(ratio(draw(both, k=len(both))) for _ in range(1000))
    return [ratio(both)] + [ratios[int(q * (len(ratios) - 1))] for q in (0.025, 0.975)]


def memory(lab, web, chosen, options):
    # ualpn has three descriptors for each.
    many = min(10000, v.file_limit() * 3 // 10)
    out = {}
    for variant in chosen:
        with variant.turn():
            rows = measure.memory(lab, web, variant, [1000, many])
        first, last = rows[0], rows[-1]
        out[variant.name] = {
            "kib": {n: kib for n, kib, _kernel in rows},
            "kib_per_connection": (last[1] - first[1]) / last[0],
            "kernel_kib_per_connection": (last[2] - first[2]) / last[0],
        }
    return out


def handoff_of(chosen):
    return next((c for c in chosen if isinstance(c, v.HandOff)), None)


def window(lab, web, chosen, options):
    handoff = handoff_of(chosen)
    out = {}
    for rate in (0, measure.WINDOW_RATE) if handoff else ():
        times, came = measure.window_latency(lab, handoff, 20 if options.quick else 100, rate)
        out[f"{came:.0f}"] = {act: {"p50": statistics.median(ms), "max": max(ms)} for act, ms in times.items()}
    return out


def lookup(lab, web, chosen, options):
    handoff = handoff_of(chosen)
    return handoff and measure.lookup_ns(lab, web, handoff, SINGLE_S)


def visitor(lab, web, chosen, options):
    auto = next((c for c in chosen if isinstance(c, v.Auto)), None)
    return auto and measure.per_visitor(lab, web, auto, SINGLE_S)


def handoff(lab, web, chosen, options):
    one = handoff_of(chosen)
    return one and measure.per_handoff(lab, web, one, SINGLE_S)


# Measured once in a run, and not in rounds; loads take so long.
SINGLE_S = 1.0
SINGLE = {"memory": memory, "window": window, "lookup": lookup, "visitor": visitor, "handoff": handoff}


def machine():
    model = "unknown"
    for line in pathlib.Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("model name"):
            model = line.partition(": ")[2]
            break
    return {"kernel": re.match(r"[\d.]*\d", platform.release())[0], "cpus": os.cpu_count(), "cpu": model}


def run(options):
    lab = Lab(v6=False)
    web = None
    try:
        web = v.WebServer(lab)
        # A proxy's connections to the web server come from one address.
        lab.edge.run("sysctl", "-qw", "net.ipv4.ip_local_port_range=10000 65535")
        _steer, every = v.all_variants(lab)
        names = options.variants.split(",") if options.variants else [c.name for c in every]
        unknown = set(names) - {c.name for c in every}
        if unknown:
            raise v.BenchError(f"no such variant: {', '.join(unknown)}")
        chosen = [c for c in every if c.name in names or c is every[0]]
        results, left_out = rounds(lab, web, chosen, options)
        values = by_number(results)
        document = {
            "machine": machine(),
            "rounds": options.rounds, "seconds": options.seconds, "rate": measure.RATE,
            "rate_seconds": max(options.seconds, measure.RATE_LEAST_S),
            "left_out": left_out,
            "labels": {c.name: c.label for c in chosen},
            "by_round": values,
            "medians": medians(results, values),
            # Of the program's own ways: what is claimed of them.
            "intervals": {name: {c.name: interval(name, by_variant[c.name], by_variant[every[0].name])
                                 for c in chosen if isinstance(c, v.Steered)}
                          for name, by_variant in values.items()},
        }
        document["ratios"] = {metric: {name: value / values[every[0].name] for name, value in values.items()}
                              for metric, values in document["medians"].items()}
        for name, function in SINGLE.items():
            if name in options.metrics:
                say(name)
                try:
                    document[name] = function(lab, web, chosen, options)
                except measure.NotBelieved as error:
                    left_out.append(str(error))
        return document
    finally:
        if web:
            web.close()
        lab.close()


def measured(name, run_it):
    """What run_it() returns; ends the program, with what it made taken away, when it fails or is interrupted."""
    if os.geteuid():
        sys.exit(f"{name}: it makes network namespaces: run it as root")

    def interrupted(signum, frame):
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupted)
    remove_stale()
    try:
        return run_it()
    except (v.BenchError, AssertionError) as error:
        say(f"{name}: {error}")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def main(argv=None):
    options = parse(argv)
    document = measured("bench", lambda: run(options))
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "results.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    text = report.markdown(document)
    (options.output / "results.md").write_text(text, encoding="utf-8")
    with contextlib.suppress(KeyError):  # only some metrics: no plot
        (options.output / "results.svg").write_text(report.svg(document), encoding="utf-8")
    print(text)
    if document["left_out"]:
        sys.exit(f"bench: {len(document['left_out'])} measurements were left out of this: see there")
    return 0


if __name__ == "__main__":
    sys.exit(main())
