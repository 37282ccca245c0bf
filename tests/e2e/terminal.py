# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""A terminal with a program in it: what it shows, as rows of text."""

import fcntl
import os
import struct
import subprocess
import termios

import pyte

from lab import wait_until

ENTER, LEAVE = b"\x1b[?1049h", b"\x1b[?1049l"  # the alternate screen


class Terminal:
    """Runs argv in a namespace, in a session of its own, with a terminal of this size."""

    def __init__(self, netns, argv, columns=80, rows=24):
        self.screen = pyte.Screen(columns, rows)
        self.stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self.master, slave = os.openpty()
        self._set_size(columns, rows)
        self.before = termios.tcgetattr(slave)
        env = {**os.environ, "TERM": "xterm", "LANG": "C.UTF-8"}
        self.process = subprocess.Popen(["setsid", "--ctty", *netns.command(argv)], stdin=slave, stdout=slave,
                                        stderr=slave, env=env)
        self.slave = slave  # kept: its settings are looked at afterwards
        os.set_blocking(self.master, False)

    def _set_size(self, columns, rows):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def resize(self, columns, rows):
        self.screen.resize(rows, columns)
        self._set_size(columns, rows)

    def rows(self):
        """What it shows now, without trailing blanks."""
        try:
            while data := os.read(self.master, 65536):
                self.raw += data
                self.stream.feed(data)
        except (BlockingIOError, OSError):
            pass
        return [row.rstrip() for row in self.screen.display]

    def shows(self, text, timeout=10):
        """Waits until text is on the screen; all its rows."""
        wait_until(lambda: any(text in row for row in self.rows()), timeout,
                   f"{text!r} on the screen: " + "\n".join(self.rows()))
        return self.rows()

    def type(self, keys):
        os.write(self.master, keys)

    def ended(self, timeout=10):
        """Waits for the program's end; its exit code."""
        wait_until(lambda: (self.rows() or True) and self.process.poll() is not None, timeout, "the program ends")
        self.rows()
        return self.process.returncode

    def restored(self):
        """Is the terminal as it was before the program came?"""
        return (termios.tcgetattr(self.slave) == self.before and self.raw.count(ENTER) == self.raw.count(LEAVE)
                and self.raw.rfind(LEAVE) >= self.raw.rfind(ENTER) and not self.screen.cursor.hidden)

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        os.close(self.master)
        os.close(self.slave)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()
