# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""A host with NAT rules of its own, as every one with containers has: hand-off is as good as elsewhere."""

import pytest

from lab import less, wait_until
from load import check_cycles, check_hammer
from peers import Echo, ask

# The rules lead nothing to port 443; that there are some is enough for each packet to be looked at.
RULES = """
table inet nat {
    chain prerouting { type nat hook prerouting priority dstnat; policy accept; tcp dport 8080 redirect to :80; }
    chain input { type nat hook input priority 100; policy accept; }
    chain postrouting { type nat hook postrouting priority srcnat; policy accept; ip saddr 172.31.0.0/16 masquerade; }
}
"""


@pytest.fixture(scope="module", autouse=True)
def nat(lab):
    lab.edge.run("nft", "-f", "-", input=RULES)


@pytest.mark.needs_steer
@pytest.mark.parametrize("family", ["v4", "v6"])
def test_first_connections(lab, steer, family):
    """
    Requests of other listeners come between those of the sniffer, on any CPU: their memory is the new sockets'.
    Also a client's that said nothing for a while, and one's that went at once.
    """
    address = lab.edge.v4 if family == "v4" else lab.edge.v6
    with Echo(lab.edge), Echo(lab.edge, port=80):
        steer.open()
        clients = [lab.ca.connect(address) for _ in range(8)]
        clients.pop().close()
        for client in clients:
            lab.ca.connect(address, 80).close()
            assert ask(client) == b"over and back", steer.status()
        counter = "relayed_web" if steer.plane == "relay" else "handed_off_web"
        if steer.plane == "auto":
            assert steer.came() == len(clients) + 1, steer.status()
        else:
            wait_until(lambda: steer.counter(counter) == len(clients) + 1, what="all are there")
        assert steer.counter("adopt_errors") <= 2 * len(clients), steer.status()
        steer.close()


def test_cycles_with_nat(lab, nginx, steer):
    check_cycles(lab, nginx, steer, less(30))


def test_hammer_with_nat(lab, nginx, steer):
    check_hammer(lab, nginx, steer, less(8000))
