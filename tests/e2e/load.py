# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""The loads that several tests put on a web server, and what must hold after them."""

import collections

from servers import DOWNLOAD_BYTES
from lab import wait_until

# "at most 5 stalls over 150 ms" in 20,000 hammered connections.
MAX_STALLS = 5


def start_tlsload(lab, nginx, *options, rate=500, targets=None):
    """Half of the clients far away, one in five slow; returns once it is under way."""
    log = lab.dir / f"{next(lab.serial):03}-tlsload.log"
    tool = lab.ca.tool("tlsload", "--rate", rate, "--far-fraction", 0.5, "--slow-fraction", 0.2,
                       "--expect-file", nginx.small, "--log", log, *lab.source_options(), *options,
                       *(targets or lab.targets()))
    tool.log = log
    wait_until(lambda: tool.progress()[1] >= min(100, rate), 15, "tlsload is under way")
    return tool


def more_connections(tool, count, timeout=10):
    """Waits until the load has started this many more connections."""
    goal = tool.progress()[0] + count
    wait_until(lambda: tool.progress()[0] >= goal, timeout, "the load goes on", interval=0.005)


def start_longlived(lab, *options, targets=None):
    return lab.ca.tool("longlived", "--download-bytes", DOWNLOAD_BYTES, *lab.source_options(),
                       *options, *(targets or lab.targets()))


def wait_established(tool, count, timeout=10):
    wait_until(lambda: tool.progress()[0] >= count, timeout, f"{count} long-lived connections")


def assert_all_ok(result, at_least=1):
    assert result["failed"] == 0, f"{result['reasons']} {result['failures'][:5]}"
    assert result["ok"] >= at_least, result


def assert_hammered(result, connections):
    """0 hung, 0 reset, every byte right, at most 5 stalls over 150 ms."""
    assert result["hung"] == 0, result["failures"][:5]
    assert result["reset"] == 0, result["failures"][:5]
    assert result["failed"] == 0, result["failures"][:5]
    assert result["ok"] == connections
    assert result["stalls"] <= MAX_STALLS, (result["stalls"], result["latency_ms"],
                                            result["stalled"][:10])


def assert_real_clients(tool, nginx, since):
    """nginx logged each of the load's requests, from the address and port it came from."""
    logged = collections.Counter(nginx.peers(since))
    for line in tool.log.read_text().splitlines():
        address, port, outcome = line.split(" ", 2)
        if outcome == "ok":
            peer = (address, int(port))
            assert logged[peer] > 0, f"nginx did not see {address} port {port}"
            logged[peer] -= 1
