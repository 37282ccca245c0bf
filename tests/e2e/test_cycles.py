# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""Windows open and close under load; connections of before, during and after live through them."""

import pytest

from lab import less, longer, wait_until
from load import (assert_all_ok, assert_real_clients, cycles, start_longlived, start_tlsload,
                  wait_established)
from test_way_out import assert_nothing_left

CONNTRACK = """
table inet watch {
    chain input { type filter hook input priority 0; ct state established,related counter accept; }
    chain output { type filter hook output priority 0; ct state new counter accept; }
}
"""


@pytest.fixture(params=["no conntrack", "conntrack"])
def conntrack(lab, request):
    if request.param == "no conntrack":
        yield False
        return
    lab.edge.run("nft", "-f", "-", input=CONNTRACK)
    yield True
    lab.edge.run("nft", "delete", "table", "inet", "watch")


def test_cycles(lab, nginx, steer, kernel, conntrack, request):
    count = request.config.getoption("cycles")
    since = nginx.log_position()
    load = start_tlsload(lab, nginx)
    before = start_longlived(lab)
    # New ones all the time, so that edges of windows hit them in every state.
    across = start_longlived(lab, "--trios", less(40), "--spacing-ms", round(longer(250)))
    wait_established(before, 3)

    # A resident process for each window: that is the way of `open`, and takes a tenth of a second.
    alone = count // 5
    steered, seen = cycles(steer, load, alone)
    steer.open()
    during = start_longlived(lab, "--trios", 2)
    wait_established(during, 6)
    wait_until(lambda: steer.plane == "none" or steer.came() >= 6,
               what="they came in the window")
    steer.close()
    # Now one that stays, as a relay's has since the first long-lived connection.
    serve = None
    if steer.plane != "relay":
        wait_until(lambda: not steer.residents(), what="the resident process ends")
        serve = steer.serve()
    more = cycles(steer, load, count - alone)
    if serve:
        assert serve.stop() == 0
    steered, seen = steered + more[0], seen + more[1]
    after = start_longlived(lab)
    wait_established(after, 3)

    results = [tool.stop_and_result() for tool in (before, across, during, after)]
    result = load.stop_and_result()
    for longlived in results:
        assert_all_ok(longlived, 3)
        nginx.check_uploads(longlived)
    assert_all_ok(result, count * 24)
    assert_real_clients(load, nginx, since, steer.plane)
    if conntrack:
        tracked = lab.edge.run("conntrack", "-C")
        assert int(tracked) > 0, "conntrack was to be in use"
    if steer.plane != "none":
        assert_nothing_left(lab, kernel, steer)
    print(f"{count} windows, {result['ok']} connections of the load: {result['failed']} failed, {steered} in them; "
          f"{sum(tool['ok'] for tool in results)} long-lived: {sum(tool['failed'] for tool in results)} failed; "
          "nothing left in the kernel")
    if steer.plane != "none":
        assert seen >= count * 0.9, f"only {seen} of {count} windows saw a connection"
        assert steered >= count * 8
