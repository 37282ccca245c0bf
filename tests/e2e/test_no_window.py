# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""A kernel that can't steer, or won't let us: no window opens, one line says why, and nothing has changed."""

import os

import pytest

from lab import wait_until
from peers import Echo, ask
from steer import BINARY, Steer, leftovers

pytestmark = pytest.mark.needs_steer


def refused(lab, kernel, *wrapper):
    """`open`, in circumstances: it fails with one line, and nothing has changed."""
    steer = Steer(lab.edge, "auto")
    steer.reset()
    with Echo(lab.edge):
        process = lab.edge.start("open", [*wrapper, BINARY, "open"])
        assert process.wait(30) == 1, process.stderr()
        assert process.stdout() == "" and len(process.stderr().splitlines()) == 1, process.stderr()
        wait_until(lambda: not leftovers(lab, kernel, steer), what="nothing is left")
        assert ask(lab.ca.connect(lab.edge.v4)) == b"over and back"
    return process.stderr()


def test_without_permission(lab, kernel):
    error = refused(lab, kernel, "setpriv", "--bounding-set=-all", "--inh-caps=-all")
    assert "CAP_BPF" in error and "CAP_NET_ADMIN" in error and "run it as root" in error, error


def test_without_btf(lab, kernel):
    empty = lab.dir / "empty"
    empty.mkdir()
    error = refused(lab, kernel, "unshare", "-m", "sh", "-c",
                    'mount --bind "$0" /sys/kernel/btf && exec "$@"', empty)
    assert "BTF" in error and "CONFIG_DEBUG_INFO_BTF" in error, error


@pytest.mark.parametrize("command, what", [(5, "loading"), (28, "attaching")], ids=["program", "link"])
def test_without_sk_lookup(lab, kernel, command, what):
    """bpf(2) refuses the program, or its attachment, as kernels do that don't know the kind."""
    without = os.path.join(os.path.dirname(__file__), "tools", "without_bpf.py")
    error = refused(lab, kernel, "/usr/bin/python3", without, command)
    assert what in error and "sk_lookup: Linux 5.9" in error, error
