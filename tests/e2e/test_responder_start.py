# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""A responder process is forked while connections are handed off: its copies of descriptors keep none alive."""

import pytest

from lab import less
from load import assert_all_ok, more_connections, start_tlsload
from steer import came

pytestmark = pytest.mark.needs_steer

DIGEST = "LPJNul-wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ"
STARTS = 15


def test_responder_starts_under_load(lab, nginx, steer):
    load = start_tlsload(lab, nginx)
    steer.open()
    for i in range(STARTS):
        steer.ok("challenge", "add", f"n{i}.example.test", DIGEST)
        more_connections(load, less(100))
        steer.ok("challenge", "remove", f"n{i}.example.test")
        more_connections(load, less(20))
    counters = steer.status()["counters"]
    steer.close()
    assert_all_ok(load.stop_and_result())
    assert came(counters) >= less(STARTS * 50), counters
    assert counters["lost"] == 0, counters
