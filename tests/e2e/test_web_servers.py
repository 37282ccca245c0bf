# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""lego beside each web server, in its usual configuration: a certificate, and no visitor who noticed."""

import pytest

import web_servers
from clients import NAMES, Installation, Lego, Watch, names_of_families, visitors
from servers import Pebble

pytestmark = pytest.mark.needs_steer


@pytest.fixture(scope="module")
def pebble(lab):
    pebble = Pebble(lab)
    names_of_families(lab)
    return pebble


@pytest.fixture(scope="module")
def installation(lab, plane):
    return Installation(lab, plane)


@pytest.fixture(params=web_servers.ALL, ids=lambda server: server.name)
def server(lab, request):
    server = request.param(lab.edge)
    yield server
    server.stop()


def test_issue(lab, server, pebble, installation, steer):
    lego = Lego(installation, pebble)
    watch = Watch(steer)
    with visitors(lab, server, steer.plane):
        lego.issue(NAMES, watch=watch)
    issuer, names = pebble.describe(lego.certificate(NAMES))
    assert "Pebble Intermediate CA" in issuer and names == set(NAMES)
    assert watch.seen["came"] > 100 and watch.seen["lost"] == 0, watch.seen
    assert steer.windows() == {}
