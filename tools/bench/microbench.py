# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""Time and instructions of one call of the inner functions: `make microbench`.

Instructions are callgrind's, which do not depend on what else the machine does. The goal is a ClientHello of
1.8 KB in less than a microsecond; missing it is a failure.
"""

import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
MICRO = ROOT / "build" / "bench" / "micro"
TIMED, COUNTED = 300000, 1000
GOAL_NS, GOAL_BYTES = 1000, 1700
HELLO_DONE = re.compile(r"^# expect: done$", re.M)


def measure(kind, what, timed=TIMED, counted=COUNTED):
    """(bytes, ns, instructions) of one call; time is the best of three."""
    times = []
    for _ in range(3):
        done = subprocess.run([MICRO, kind, str(what), str(timed)], capture_output=True, text=True, check=True)
        size, ns = done.stdout.split()
        times.append(float(ns))
    with tempfile.TemporaryDirectory() as directory:
        done = subprocess.run(["valgrind", "--tool=callgrind", "--toggle-collect=measured",
                               f"--callgrind-out-file={directory}/out", MICRO, kind, str(what), str(counted)],
                              capture_output=True, text=True, check=True)
    collected = re.search(r"Collected : (\d+)", done.stderr)
    return int(size), min(times), int(collected[1]) / counted


def main():
    rows = []
    for path in sorted((ROOT / "tests" / "vectors").glob("*.hex")):
        if HELLO_DONE.search(path.read_text(encoding="utf-8")):
            rows.append((f"hello_parse, {path.stem}", *measure("hello", path)))
    for size in (0, 517, 1448, 3300):
        rows.append((f"segment_build, {size} bytes", *measure("segment", size)))
    print("| function | bytes | ns | instructions |\n|---|---|---|---|")
    for name, size, ns, instructions in rows:
        print(f"| {name} | {size} | {ns:.0f} | {instructions:.0f} |")
    big = [row for row in rows if row[0].startswith("hello_parse") and row[1] >= GOAL_BYTES]
    slow = [row for row in big if row[2] >= GOAL_NS]
    if slow or not big:
        sys.exit(f"microbench: not below {GOAL_NS} ns: {slow or 'no ClientHello of that size'}")


if __name__ == "__main__":
    main()
