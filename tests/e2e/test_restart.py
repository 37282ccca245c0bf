# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""The resident process is stopped in order, by a service's restart or a package's upgrade, while somebody needs it."""

import pathlib

import pytest

from lab import wait_until
from servers import SMALL, get, request_on, tls_on
from steer import BINARY, plane_options

pytestmark = pytest.mark.needs_steer


def windows(steer):
    """Names of those that are open; none, too, while nobody is there to be asked."""
    try:
        return [window["name"] for window in steer.ask()["windows"]]
    except OSError:
        return []


@pytest.fixture
def running(lab, steer):
    """A command in a window of its own, until the test ends."""
    process = lab.edge.start("run", [BINARY, "run", "--name", "mine", *plane_options(steer.plane), "--", "sleep", "600"])
    yield process
    process.stop()


def test_run_goes_on_in_the_next(lab, nginx, steer, running):
    """Its window is due to be renewed in three minutes, and is opened again at once."""
    wait_until(lambda: windows(steer) == ["mine"], what="its window is open")
    pid = steer.pid()
    steer.close("--all")
    wait_until(lambda: not pathlib.Path(f"/proc/{pid}").exists(), what="the process has ended, in order")
    assert get(lab, lab.edge.v4) == SMALL
    for _ in range(2):
        serve = steer.serve()
        wait_until(lambda: windows(steer) == ["mine"], what="its window is open again")
        assert serve.pid == steer.pid()
        assert get(lab, lab.edge.v4) == SMALL
        assert serve.stop() == 0
    assert running.running(), running.stderr()


def test_no_window_in_one_that_is_being_stopped(lab, nginx, steer):
    """What it relays keeps it, perhaps until somebody kills it; who wants a window waits for the next."""
    serve = steer.serve()
    steer.ok("open", "--plane", "relay")
    with tls_on(lab.ca.connect(lab.edge.v4)) as relayed:
        assert request_on(relayed) == SMALL
        serve.send_signal(15)
        wait_until(lambda: not windows(steer), what="it closes its windows")
        for verb in (["open"], ["challenge", "add", "www.example.test", "0" * 64]):
            result = steer.run(*verb, *plane_options(steer.plane))
            assert result.code == 1 and "is being stopped" in result.err and len(result.err.splitlines()) == 1, result
        assert request_on(relayed) == SMALL
        opening = lab.edge.start("open", [BINARY, "open", "--name", "next", *plane_options(steer.plane)])
        assert not windows(steer) and opening.running()
    assert serve.wait(15) == 0
    assert opening.wait(15) == 0, opening.stderr()
    assert windows(steer) == ["next"] and steer.pid() != serve.pid
    assert get(lab, lab.edge.v4) == SMALL
    steer.close("--all")
