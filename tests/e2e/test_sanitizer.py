# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""Is a sanitizer of make check-sanitized heard from where a process is shut in?"""

import signal

import pytest

from lab import kill_pid
from test_isolation import starter_of

NAME = "sanitizer.example.test"


@pytest.mark.parametrize("process, function", [("resident", "cmd_serve.c"), ("starter", "starter.c"),
                                               ("responder", "responder.c")])
def test_report(lab, nginx, steer, reports, process, function):
    steer.ok("challenge", "add", NAME, "0" * 64)
    resident = steer.pid()
    pid = {"resident": resident, "starter": starter_of(steer, resident),
           "responder": steer.status()["responder"]["pid"]}[process]
    kill_pid(pid, signal.SIGSEGV)
    heard = reports.take()
    assert len(heard) == 1 and f"=={pid}==ERROR: AddressSanitizer: SEGV" in heard[0] and function in heard[0], heard
