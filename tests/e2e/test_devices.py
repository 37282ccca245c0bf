# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""Network devices that change, come and go while a window is open."""

import pytest

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
