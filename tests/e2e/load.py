# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""The loads that several tests put on a web server, and what must hold after them."""

import collections
import warnings

from servers import DOWNLOAD_BYTES
from lab import less, longer, wait_until
from steer import came

# "at most 5 stalls over 150 ms" in 20,000 hammered connections.
MAX_STALLS = 5


# A machine that is busy with something else can't start 500 connections a second.
HELD_BACK_WARNING = 0.1


def start_tlsload(lab, nginx, *options, rate=500, targets=None):
    """Half of the clients far away, one in five slow, three in four return and resume their TLS session.

    Returns once it is under way.
    """
    log = lab.dir / f"{next(lab.serial):03}-tlsload.log"
    rate = less(rate)
    tool = lab.ca.tool("tlsload", "--rate", rate, "--max-live", less(300), "--timeout", longer(10),
                       "--far-fraction", 0.5, "--slow-fraction", 0.2, "--resume-fraction", 0.75,
                       "--expect-file", nginx.small, "--log", log, *lab.source_options(), *options,
                       *(targets or lab.targets()))
    tool.log = log
    wait_until(lambda: tool.progress()[1] >= min(100, rate), 15, "tlsload is under way")
    return tool


def more_connections(tool, count, timeout=10):
    """Waits until the load has started this many more connections."""
    goal = tool.progress()[0] + count
    wait_until(lambda: tool.progress()[0] >= goal, timeout, "the load goes on", interval=0.005)


def start_hammer(lab, plane, connections, *options, targets=None):
    """A relay's connections have ports of their own."""
    if plane == "relay":
        options += ("--any-port",)
    return lab.ca.tool("hammer", "--connections", connections, "--hung-ms", longer(5000),
                       "--stall-ms", longer(150), *lab.source_options(), *options,
                       *(targets or lab.targets()), progress=False)


def start_longlived(lab, *options, targets=None):
    return lab.ca.tool("longlived", "--download-bytes", DOWNLOAD_BYTES, "--timeout", longer(10),
                       *lab.source_options(), *options, *(targets or lab.targets()))


def wait_established(tool, count, timeout=10):
    wait_until(lambda: tool.progress()[0] >= count, timeout, f"{count} long-lived connections")


def assert_all_ok(result, at_least=1):
    assert result["failed"] == 0, f"{result['reasons']} {result['failures'][:5]}"
    assert result["ok"] >= at_least, result
    if "held_back_s" in result and result["held_back_s"] > HELD_BACK_WARNING * result["seconds"]:
        warnings.warn(f"the machine is too busy: {result['ok'] / result['seconds']:.0f} connections/s, "
                      f"held back for {result['held_back_s']} of {result['seconds']} s")


def assert_hammered(result, connections):
    """0 hung, 0 reset, every byte right, at most 5 stalls over 150 ms."""
    assert result["hung"] == 0, result["failures"][:5]
    assert result["reset"] == 0, result["failures"][:5]
    assert result["failed"] == 0, result["failures"][:5]
    assert result["ok"] == connections
    assert result["stalls"] <= MAX_STALLS, (result["stalls"], result["latency_ms"],
                                            result["stalled"][:10])


def assert_real_clients(tool, nginx, since, plane):
    """nginx logged each of the load's requests, from the address and port it came from.

    A relay's connections have their clients' addresses, but ports of their own.
    """
    def peer(address, port):
        return address if plane == "relay" else (address, port)

    logged = collections.Counter(peer(*p) for p in nginx.peers(since))
    for line in tool.log.read_text().splitlines():
        address, port, outcome = line.split(" ", 2)
        if outcome == "ok":
            came = peer(address, int(port))
            assert logged[came] > 0, f"nginx did not see {came}"
            logged[came] -= 1


def cycles(steer, load, count, *options, between=12):
    """Opens and closes count windows under the load, so many connections apart.

    Returns how many connections came in one, and how many windows saw one.
    """
    counted = {}
    seen = 0
    before = 0
    for _ in range(count):
        steer.open(*options)
        more_connections(load, between)
        status = steer.ask() if steer.plane != "none" else None
        steer.close()
        if status:
            # A resident process that is asked again goes on counting; a new one starts at 0.
            counted[status["pid"]] = came(status["counters"])
            assert status["counters"]["lost"] == 0, status
            total = sum(counted.values())
            seen += total > before
            before = total
        more_connections(load, between)
    return sum(counted.values()), seen


def issue(lab, nginx, pebble, steer, *domains):
    """lego gets a certificate inside `acme-steer run` under load; nobody else notices."""
    since = nginx.log_position()
    load = start_tlsload(lab, nginx, rate=200)
    longlived = start_longlived(lab, "--trios", 2)
    wait_established(longlived, 6)
    argv, env, cert = pebble.lego(*domains)
    options = [word for domain in domains for word in ("--domain", domain)]
    lego = lab.edge.start("run-lego", steer.run_command(*options) + argv, env=env)
    seen = {"acme": 0, "came": 0, "relayed": 0, "handed_off_web": 0, "lost": 0}

    def look():
        status = steer.status()
        for window in status["windows"] if status else []:
            seen["acme"] = max(seen["acme"], window["acme_connections"])
        counters = (status or {}).get("counters")
        if counters:
            seen["came"] = max(seen["came"], came(counters))
        for name in ("handed_off_web", "lost"):
            seen[name] = max(seen[name], (counters or {}).get(name, 0))
        return not lego.running()

    wait_until(look, 90, "lego ends", interval=longer(0.1))
    more_connections(load, less(100))
    assert lego.popen.returncode == 0, lego.stderr()[-3000:]
    issuer, names = pebble.describe(cert)
    assert "Pebble Intermediate CA" in issuer and names == set(domains)
    assert steer.windows() == {}, "run closed its window"
    assert_all_ok(longlived.stop_and_result(), 6)
    result = load.stop_and_result()
    assert_all_ok(result, less(500))
    assert_real_clients(load, nginx, since, steer.plane)
    clients = {address for address, _port in nginx.peers(since)}
    assert clients <= set(lab.sources), clients
    assert seen["acme"] >= 3 and seen["came"] > less(100) and seen["lost"] == 0, seen
    return result


def check_cycles(lab, nginx, steer, windows):
    """Windows open and close under load; nobody notices."""
    since = nginx.log_position()
    load = start_tlsload(lab, nginx)
    longlived = start_longlived(lab, "--trios", 10, "--spacing-ms", 300)
    wait_established(longlived, 3)
    cycles(steer, load, windows)
    result = longlived.stop_and_result()
    assert_all_ok(result, 3)
    nginx.check_uploads(result)
    assert_all_ok(load.stop_and_result(), less(1000))
    assert_real_clients(load, nginx, since, steer.plane)


def check_hammer(lab, nginx, steer, connections):
    """Clients whose data comes in the gap, in one window."""
    nginx.stop()
    server = lab.edge.tool("byteserver")
    wait_until(lambda: lab.edge.listening(443), what="byteserver listens")
    steer.open()
    result = start_hammer(lab, steer.plane, connections).finish()
    steer.close()
    server.stop()
    nginx.start()
    assert_hammered(result, connections)
