# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""What the sanitizers of a build that has them (make check-sanitized) say of the processes of acme-steer."""

import os
import pathlib
import re
import shutil
import subprocess
import tempfile

from steer import BINARIES, BINARY

EXIT_CODE = 86  # of a process that had a report


class Reports:
    """Each process has a file of its own, and most of them stay empty."""

    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="ase-reports-"))
        # All their processes inherit these. Who may execute nothing can't ask a symbolizer: we do.
        os.environ["ASAN_OPTIONS"] = (f"log_path={self.folder}/report:exitcode={EXIT_CODE}:detect_leaks=1:symbolize=0:"
                                      "quarantine_size_mb=16")
        os.environ["UBSAN_OPTIONS"] = "print_stacktrace=1"

    @staticmethod
    def built_in():
        return BINARY.exists() and b"__asan_init" in BINARY.read_bytes()

    def take(self):
        """The new ones, with names of functions."""
        found = []
        for path in sorted(self.folder.iterdir()):
            text = path.read_text(errors="replace")
            if text:
                found.append(symbolized(text))
                path.unlink()
        return found

    def remove(self):
        shutil.rmtree(self.folder)


def symbolized(report):
    for binary in BINARIES:
        report = symbolized_of(binary, report)
    return report


def symbolized_of(binary, report):
    places = re.compile(rf"\({re.escape(str(binary))}\+(0x[0-9a-f]+)\)")
    addresses = places.findall(report)
    if not addresses:
        return report
    out = subprocess.run(["llvm-symbolizer", f"--obj={binary}", "--output-style=GNU", "--no-inlines", "--functions",
                          "--basenames", *addresses], capture_output=True, text=True, check=True).stdout.splitlines()
    names = iter(zip(out[::2], out[1::2]))
    return places.sub(lambda _: " ".join(next(names)), report)
