# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""Network devices that change, come and go while a window is open."""

import pytest

from lab import bpf_descriptors, wait_until
from servers import SMALL, get

pytestmark = pytest.mark.of_handoff


def test_another_address(lab, nginx, steer):
    """What is replayed has the device's old one."""
    steer.open()
    for mac in ("02:00:00:00:00:01", "02:00:00:00:00:02"):
        for address in (lab.edge.v4, lab.edge.v6):
            assert get(lab, address) == SMALL
        lab.edge.run("ip", "link", "set", lab.edge.device, "address", mac)
        lab.ca.run("ip", "neighbour", "flush", "dev", lab.ca.device)
    for address in (lab.edge.v4, lab.edge.v6):
        assert get(lab, address) == SMALL
    counters = steer.ask()["counters"]
    assert (counters["handed_off_web"], counters["lost"]) == (6, 0), counters
    steer.close()


INDEX = 4711  # of a device: one that is made after another may get that one's number
OURS, THEIRS = "203.0.113.1", "203.0.113.2"


@pytest.fixture
def spare(lab):
    """Makes one more wire between the two, with a number that the edge's end has had before."""
    def make():
        lab.edge.run("ip", "link", "add", "spare0", "index", str(INDEX), "type", "veth",
                     "peer", "name", "spare1", "netns", lab.ca.name)
        for netns, device, address in ((lab.edge, "spare0", OURS), (lab.ca, "spare1", THEIRS)):
            netns.run("ip", "link", "set", device, "up")
            netns.run("ip", "address", "add", f"{address}/24", "dev", device)
    make()
    yield make
    lab.ca.run("ip", "link", "delete", "spare1", check=False)


def guarded(steer):
    """The numbers of the devices that the guard is on, of each once for each direction; 0: there is none any more."""
    return [int(info["ifindex"]) for info in bpf_descriptors(steer.pid()) if info.get("link_type") == "tcx"]


def test_another_gets_the_number(lab, nginx, steer, spare):
    """The guard does not take it for the one that it was on."""
    steer.open()
    assert get(lab, OURS) == SMALL and guarded(steer).count(INDEX) == 2
    before = len(bpf_descriptors(steer.pid()))
    for n in range(3):
        lab.edge.run("ip", "link", "delete", "spare0")
        wait_until(lambda: not {0, INDEX} & set(guarded(steer)), what="it is forgotten")
        spare()
        assert get(lab, OURS) == SMALL and guarded(steer).count(INDEX) == 2
    assert len(bpf_descriptors(steer.pid())) == before
    counters = steer.ask()["counters"]
    assert (counters["handed_off_web"], counters["lost"]) == (4, 0), counters
    assert get(lab, lab.edge.v4) == SMALL
    steer.close()


def test_moved_away(lab, nginx, steer, spare):
    """The guard does not go with it."""
    steer.open()
    assert get(lab, OURS) == SMALL and guarded(steer).count(INDEX) == 2
    lab.edge.run("ip", "link", "set", "spare0", "netns", lab.ca.name)
    wait_until(lambda: not {0, INDEX} & set(guarded(steer)), what="it is forgotten")
    lab.ca.run("ip", "link", "set", "spare0", "netns", lab.edge.name)
    lab.edge.run("ip", "link", "set", "spare0", "up")
    lab.edge.run("ip", "address", "add", f"{OURS}/24", "dev", "spare0")
    assert get(lab, OURS) == SMALL and guarded(steer).count(INDEX) == 2
    steer.close()
