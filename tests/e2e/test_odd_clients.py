# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""Clients out of the ordinary get exactly what they would get from the web server without us."""

import collections
import json
import re
import sys

import pytest

from lab import HERE, longer
from servers import Nginx

sys.path.insert(0, str(HERE / "tools"))
import oddclient  # noqa: E402  pylint: disable=wrong-import-position

SNI = "odd.example.test"
# Cases that the window's responder must not see either: its domain is another one.
WINDOW = ("--domain", "acme.example.test", "--sniff-timeout", "300ms")


@pytest.fixture(scope="module")
def nginx(lab):
    """Gives up on silent clients soon. The time of a client is counted from its accept."""
    return Nginx(lab.edge, header_timeout=2)


def case_sources(lab, family):
    """A source address for each case. Several cases may share one: then their lines are compared together."""
    sources = [s for s in lab.sources if (":" in s) == (family == "v6")]
    return {case: sources[i % len(sources)] for i, case in enumerate(oddclient.CASES)}


def logged(nginx, since):
    """Log lines that name a client, and how often, by client address."""
    lines = collections.Counter()
    for line in nginx.access_lines(since):
        address, _port, *rest = line.split(" ")
        lines[(address, "access " + " ".join(rest))] += 1
    for line in nginx.error_lines(since):
        match = re.search(r"client: ([0-9a-f.:]+)", line)
        if match:
            lines[(match[1], line)] += 1
    return lines


def run_all(lab, nginx, family):
    address = lab.edge.v6 if family == "v6" else lab.edge.v4
    since = nginx.log_position()
    out = lab.ca.run("/usr/bin/python3", HERE / "tools" / "oddclient.py", longer(20), address, 443, SNI,
                     *[f"{case}={source}" for case, source in case_sources(lab, family).items()],
                     timeout=60)
    return json.loads(out), logged(nginx, since)


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_same_as_direct(lab, nginx, steer, family):
    direct, direct_log = run_all(lab, nginx, family)
    again, again_log = run_all(lab, nginx, family)
    for result in (*direct.values(), *again.values()):
        result.pop("seconds", None)
    assert direct == again, "the web server itself does not answer the same twice"
    assert direct_log == again_log, "the web server itself does not log the same twice"
    # The cases do what they are named for.
    assert any("plain HTTP request" in part for part in direct["plain_http"]["got"])
    assert direct["hello_4k_bytewise"]["got"][0].startswith("record 22")
    assert direct["silent"] == {"got": [], "end": "FIN", "sent_all": True}
    assert direct["acme_for_a_stranger"]["got"] == ["alert 2 120"]

    steer.open(*WINDOW)
    steered, steered_log = run_all(lab, nginx, family)
    came = steer.came()
    steer.close()
    # A known difference: directly, nginx refuses the second hello and closes with some of it unread, a reset. Handed
    # off, it can get the CPU and close before our worker has injected the last segments: then it is a FIN, of what the
    # client has no more to send (one of a thousand, on a busy host). What the client gets before that is the same.
    assert direct["hello_45k"]["end"] == "RST"
    if steered["hello_45k"]["end"] == "FIN":
        steered["hello_45k"]["end"] = "RST"
    for case in direct:
        steered[case].pop("seconds", None)
        assert steered[case] == direct[case], case
    assert steered_log == direct_log
    if steer.plane != "none":
        assert came >= len(oddclient.CASES), "not all of them went through acme-steer"
