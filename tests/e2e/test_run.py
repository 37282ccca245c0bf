# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""`run` between its command and whoever started it: the command gets what it would get without."""

import os
import subprocess

import pytest

from lab import longer, wait_until
from terminal import Terminal
from test_way_out import assert_nothing_left

pytestmark = pytest.mark.needs_steer


def test_interrupted_at_the_terminal(lab, nginx, steer, kernel):
    """A command that has made a process group of its own gets nothing from the terminal, and run gets it alone."""
    with Terminal(lab.edge, steer.run_command() + ["timeout", "600", "sleep", "600"]) as terminal:
        terminal.shows("renewed while timeout runs")
        wait_until(lambda: terminal.process.poll() is not None or runs(terminal, "sleep"), what="the command runs")
        terminal.type(b"\x03")
        assert terminal.ended() in (124, 128 + 2)
    assert_nothing_left(lab, kernel, steer)


def runs(terminal, name):
    """Is a process of that name in the terminal's session?"""
    done = subprocess.run(["ps", "-s", str(terminal.process.pid), "-o", "comm="], capture_output=True, text=True,
                          check=False)
    return name in done.stdout.split()


def test_terminal_hangs_up(lab, nginx, steer, kernel):
    """The kernel tells the session's leader, which run may be."""
    terminal = Terminal(lab.edge, steer.run_command() + ["sleep", "600"])
    with terminal:
        terminal.shows("renewed while sleep runs")
        wait_until(lambda: runs(terminal, "sleep"), what="the command runs")
        process = terminal.process
        os.close(terminal.slave)
        os.close(terminal.master)
        terminal.slave, terminal.master = (os.open("/dev/null", os.O_RDWR) for _ in range(2))
        assert process.wait(longer(10)) == 128 + 1
    assert_nothing_left(lab, kernel, steer)


def test_nobody_reads_what_it_says(lab, nginx, steer, kernel):
    """Neither the window nor the exit code depends on that; the command's own signals are as they were."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    argv = lab.edge.command([*steer.run_command(), "sh", "-c", "grep SigIgn /proc/self/status; exit 7"])
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=write_end, text=True, timeout=longer(20), check=False)
    os.close(write_end)
    assert done.returncode == 7, done
    sigpipe = 1 << 12
    ours = lab.edge.run("grep", "SigIgn", "/proc/self/status")
    assert int(done.stdout.split()[1], 16) & sigpipe == int(ours.split()[1], 16) & sigpipe
    assert_nothing_left(lab, kernel, steer)
