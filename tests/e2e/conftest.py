# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""
End to end: real web server, real CA, real ACME client, in two network namespaces.

     namespace ase-PID-RANDOM-ca                       namespace ase-PID-RANDOM-edge
    +---------------------------------+               +----------------------------------+
    | clients: tlsload, longlived,    |               | nginx or byteserver on :443      |
    |          hammer, oddclient      |     veth      | acme-steer                       |
    | CA:      pebble :14000          |ca0 ===== edge0| lego, its responder              |
    |          pebble-challtestsrv    |               |              on 127.0.0.1:31443  |
    | 198.51.100.16 ... .23           |               | 198.51.100.1                     |
    | 2001:db8:443::10 ... ::17       |               | 2001:db8:443::1                  |
    +---------------------------------+               +----------------------------------+

A lab lives as long as a test module. It is torn down at the end, on Ctrl-C and on SIGTERM; what a SIGKILL
leaves goes at the next start. Nothing sleeps to be in time: see lab.wait_until.

    pytest tests/e2e --plane=relay      the same table for the other plane
    pytest tests/e2e --plane=none       without acme-steer: is the harness itself sound?
    pytest tests/e2e --keep             leave logs and outputs in /tmp/ase-*
    pytest tests/e2e --shell            a shell in the edge's namespace when a test fails
    ACME_STEER=FILE pytest tests/e2e    this program; with sanitizers, a report of theirs fails the test: sanitizer.py
    pytest tests/e2e --load=0.02 --patience=10   on a slow machine: a fiftieth of the load, ten times the time limits
"""

import os
import signal
import subprocess

import pytest

import lab as lab_module
from lab import Lab, remove_stale
from sanitizer import Reports
from servers import Nginx
from steer import Kernel, Steer, refused_calls


collect_ignore = [] if Reports.built_in() else ["test_sanitizer.py"]


def pytest_addoption(parser):
    group = parser.getgroup("acme-steer")
    group.addoption("--plane", default="handoff", choices=("auto", "handoff", "relay", "none"))
    group.addoption("--best-plane", default="handoff", choices=("handoff", "relay"),
                    help="what this kernel can do: --plane=auto must use it")
    group.addoption("--cycles", type=int, default=200, help="windows that test_cycles opens")
    group.addoption("--steady", type=int, default=25, help="windows that test_steady opens")
    group.addoption("--load", type=float, default=1, help="factor of all rates and counts of connections")
    group.addoption("--patience", type=float, default=1, help="factor of all time limits")
    group.addoption("--keep", action="store_true", help="keep the directories in /tmp")
    group.addoption("--shell", action="store_true", help="a shell in the edge when a test fails")


def pytest_configure(config):
    config.addinivalue_line("markers", "needs_steer: makes no sense with --plane=none")
    config.addinivalue_line("markers", "of_handoff: what it tries is there in a hand-off only, not with --plane=relay")
    config.addinivalue_line("markers", "steered: what it tries is there where each connection is steered, not with "
                                       "--plane=auto")
    lab_module.load = config.getoption("load")
    lab_module.patience = config.getoption("patience")


def _interrupted(signum, frame):
    raise KeyboardInterrupt(f"signal {signum}")


def pytest_sessionstart(session):
    if os.geteuid():
        pytest.exit("tests/e2e makes network namespaces and must be run by root", 1)
    # Whoever starts us in the background may have it ignored, and our children with us.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _interrupted)
    signal.signal(signal.SIGHUP, _interrupted)
    remove_stale()


def pytest_collection_modifyitems(config, items):
    marker = {"relay": "of_handoff", "auto": "steered"}.get(config.getoption("plane"))
    if marker:
        others = [item for item in items if item.get_closest_marker(marker)]
        items[:] = [item for item in items if item not in others]
        config.hook.pytest_deselected(items=others)
    if config.getoption("plane") != "none":
        return
    for item in items:
        if item.get_closest_marker("needs_steer"):
            item.add_marker(pytest.mark.skip(reason="--plane=none runs nothing to test here"))


def pytest_exception_interact(node, call, report):
    lab = getattr(node, "funcargs", {}).get("lab")
    if not lab:
        return
    lab.keep_dir = True
    report.sections.append(("outputs", str(lab.dir)))
    if node.config.getoption("shell"):
        capture = node.config.pluginmanager.getplugin("capturemanager")
        with capture.global_and_fixture_disabled():
            print(f"\n{node.nodeid} failed; outputs in {lab.dir}, clients: nsenter "
                  f"--net={lab.ca.path}; exit the shell to go on")
            subprocess.call(lab.edge.command(["bash", "-i"]))


@pytest.fixture(scope="session", autouse=True)
def nothing_refused():
    """No test makes acme-steer call what its filter refuses; the kernel logs that it did."""
    before = refused_calls()
    yield
    refused = [line for line in refused_calls() if line not in before]
    assert not refused, "\n".join(refused)


@pytest.fixture(scope="session", autouse=True)
def reports():
    """None when the build has no sanitizers."""
    if not Reports.built_in():
        yield None
        return
    reports = Reports()
    yield reports
    found = reports.take()
    reports.remove()
    assert not found, "\n".join(found)


@pytest.fixture(autouse=True)
def no_report(reports):
    """No test makes a sanitizer speak. What ends after it does, the next one or the session's end sees."""
    yield
    found = reports.take() if reports else []
    assert not found, "\n".join(found)


@pytest.fixture(scope="session")
def plane(request):
    return request.config.getoption("plane")


@pytest.fixture
def best(request):
    """The plane that --plane=auto must use on this kernel."""
    return request.config.getoption("best_plane")


def _lab(request, **kwargs):
    lab = Lab(**kwargs)
    lab.keep_dir = request.config.getoption("keep")
    return lab


@pytest.fixture(scope="module")
def lab(request):
    lab = _lab(request)
    yield lab
    lab.close()


@pytest.fixture(scope="module")
def nginx(lab):
    return Nginx(lab.edge)


@pytest.fixture
def steer(lab, plane):
    steer = Steer(lab.edge, plane)
    steer.reset()
    yield steer
    steer.reset()


@pytest.fixture
def auto(lab):
    """With the plane that users have who choose none."""
    steer = Steer(lab.edge, "auto")
    steer.reset()
    yield steer
    steer.reset()


@pytest.fixture
def kernel(lab, steer):
    """What BPF objects were there before the test began."""
    return Kernel(lab)
