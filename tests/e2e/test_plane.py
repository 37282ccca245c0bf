# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""Without being told, acme-steer uses the best plane that the kernel has, and says why not a better one."""

import json
import re

import pytest

from lab import bpf_descriptors, wait_until
from servers import SMALL, get, request_on, tls_on
from steer import BINARY, came

pytestmark = pytest.mark.needs_steer


def test_auto_uses_the_best(lab, nginx, auto, best):
    auto.open()
    for address in (lab.edge.v4, lab.edge.v6):
        assert get(lab, address) == SMALL
    status = auto.status()
    reasons = auto.relay_reasons()
    auto.close()
    handoff = status["planes"]["handoff"]
    counters = status["counters"]
    assert came(counters) == 2 and counters["lost"] == 0, counters
    if best == "handoff":
        assert handoff == {"available": True}, handoff
        assert (counters["handed_off_web"] + counters["read_in_passing"], counters["relayed_web"]) == (2, 0), counters
    else:
        assert not handoff["available"] and re.search("Linux 6.9", handoff["reason"]), handoff
        assert (counters["handed_off_web"], counters["relayed_web"]) == (0, 2), counters
        assert reasons == {"no_handoff": 2}, status["relay_reasons"]


def test_forced_handoff(lab, nginx, auto, best):
    """Where it can't be, the window does not open, and one line says why."""
    result = auto.run("open", "--plane", "handoff")
    if best == "handoff":
        assert result.code == 0, result
        return
    assert result.code == 1 and len(result.err.splitlines()) == 1, result
    assert "Linux 6.9" in result.err and auto.windows() == {}, result


def guarded(steer):
    """The devices that the resident process's guards are on."""
    return {int(info["ifindex"]) for info in bpf_descriptors(steer.pid()) if info.get("link_type") == "tcx"}


@pytest.fixture
def spare(lab):
    """One more device with an address, which nobody comes by; its number."""
    lab.edge.run("ip", "link", "add", "spare0", "type", "veth", "peer", "name", "spare1")
    for device in ("spare0", "spare1"):
        lab.edge.run("ip", "link", "set", device, "up")
    lab.edge.run("ip", "address", "add", "203.0.113.1/24", "dev", "spare0")
    yield ifindex(lab, "spare0")
    lab.edge.run("ip", "link", "delete", "spare0")


def ifindex(lab, device):
    return json.loads(lab.edge.run("ip", "-j", "link", "show", device))[0]["ifindex"]


def test_devices_are_guarded_beforehand(lab, nginx, auto, best, spare):
    """The first connection need not wait for that, which takes some ten milliseconds."""
    edge = ifindex(lab, lab.edge.device)

    def expect(*devices):
        return set(devices) if best == "handoff" else set()

    auto.open()
    assert guarded(auto) == expect(edge, spare)
    auto.close()
    wait_until(lambda: not auto.residents(), what="the resident process ends")
    lab.edge.run("ip", "route", "add", "default", "via", lab.ca.v4)
    auto.open()
    assert guarded(auto) == expect(edge)
    auto.close()
    wait_until(lambda: not auto.residents(), what="the resident process ends")
    lab.edge.run("ip", "route", "delete", "default")
    serve = lab.edge.start("serve", [BINARY, "serve"])
    auto.wait_for(serve)
    auto.open("--plane", "relay")
    assert get(lab, lab.edge.v4) == SMALL and not guarded(auto)
    auto.close()
    # From the second time on it knows which ones are in use.
    for devices in (expect(edge, spare), expect(edge), expect(edge)):
        auto.open()
        wait_until(lambda d=devices: guarded(auto) == d, what="they are guarded while nobody connects")
        assert get(lab, lab.edge.v4) == SMALL and guarded(auto) == devices
        auto.close()
        wait_until(lambda: not guarded(auto), what="they are free again")
    serve.stop()


def test_windows_beside_relayed_connections(lab, nginx, auto):
    """Connections that live on from one window are in nobody's way in the next: twenty times."""
    pids = set()
    kept = []
    for n in range(20):
        assert auto.run("open", "--plane", "relay").code == 0
        kept.append(tls_on(lab.ca.connect(lab.edge.v4)))
        assert request_on(kept[-1]) == SMALL
        assert auto.ask()["connections"]["relayed"] == n + 1
        pids.add(auto.pid())
        assert auto.run("close").code == 0
    assert len(pids) == 1
    for tls in kept:
        assert request_on(tls) == SMALL
        tls.close()
    wait_until(lambda: not auto.residents(), what="the resident process ends with the last of them")
