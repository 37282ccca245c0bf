# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""acme-steer as its users run it, and what it may have left in the kernel."""

import collections
import json
import os
import signal
import subprocess

from lab import BUILD, kill_pid, sh, wait_until

Result = collections.namedtuple("Result", "code out err")

BINARY = BUILD / "acme-steer"


def plane_options(plane):
    options = [] if plane == "auto" else ["--plane", plane]
    if plane == "relay":
        options += ["--client-ip", "transparent"]
    return options


class Steer:
    """acme-steer in one namespace. With plane "none" nothing is run: the table, direct."""

    def __init__(self, netns, plane):
        self.netns = netns
        self.plane = plane

    def run(self, *args, timeout=30, env=None, stdin=None):
        """Runs it as given. A resident process that keeps our pipes open makes this time out."""
        if self.plane == "none":
            return Result(0, "", "")
        assert BINARY.exists(), f"{BINARY} is not built"
        done = subprocess.run(self.netns.command([BINARY, *args]), capture_output=True, text=True,
                              timeout=timeout, env=env, stdin=subprocess.DEVNULL, check=False)
        return Result(done.returncode, done.stdout, done.stderr)

    def ok(self, *args, **kwargs):
        result = self.run(*args, **kwargs)
        assert result.code == 0, f"acme-steer {' '.join(map(str, args))}: {result}"
        return result

    def open(self, *options):
        return self.ok("open", *plane_options(self.plane), *options)

    def close(self, *options):
        return self.ok("close", *options)

    def run_command(self, *options):
        """The argv of `run` as far as the dashes."""
        if self.plane == "none":
            return []
        return [BINARY, "run", *plane_options(self.plane), *options, "--"]

    def status(self):
        """The status document, or None while there is no window and no process."""
        if self.plane == "none":
            return None
        result = self.run("status", "--json")
        assert result.code in (0, 3), f"status: {result}"
        return json.loads(result.out) if result.out.strip() else None

    def windows(self):
        """Open windows by name."""
        status = self.status()
        return {w["name"]: w for w in status["windows"]} if status else {}

    def counter(self, name):
        status = self.status()
        return status["counters"].get(name, 0) if status else 0

    def pid(self):
        status = self.status()
        assert status and status.get("pid"), f"no resident process: {status}"
        return status["pid"]

    def residents(self):
        """Processes of acme-steer in the namespace."""
        found = []
        for pid in self.netns.pids():
            try:
                exe = os.readlink(f"/proc/{pid}/exe")
            except OSError:
                continue
            if exe.split(" ")[0] == str(BINARY):
                found.append(pid)
        return found

    def kill(self, sig=signal.SIGKILL):
        for pid in self.residents():
            kill_pid(pid, signal.SIGCONT)
            kill_pid(pid, sig)

    def reset(self):
        """For between tests: no window, no process."""
        if self.plane == "none":
            return
        if self.residents():
            try:
                self.run("close", "--all", timeout=15)
                wait_until(lambda: not self.residents(), 15, "the resident process ends")
            except (AssertionError, subprocess.TimeoutExpired):
                self.kill()


class Kernel:
    """BPF objects of this machine that were not there at the baseline and are not somebody else's.

    Other tests may run at the same time: an object held by a process outside of our namespaces
    is theirs; so is a sk_lookup link on another namespace.
    """

    KINDS = ("link", "prog", "map")

    def __init__(self, lab):
        self.lab = lab
        self.baseline = {kind: {o["id"] for o in self._show(kind)} for kind in self.KINDS}

    @staticmethod
    def _show(kind):
        text = sh("bpftool", "-j", kind, "show", check=False)
        try:
            objects = json.loads(text)
        except ValueError:
            objects = []
        return objects if isinstance(objects, list) else []

    def objects(self):
        ours = {pid for netns in self.lab.namespaces for pid in netns.pids()}
        inodes = {netns.inode for netns in self.lab.namespaces}
        found = []
        for kind in self.KINDS:
            for o in self._show(kind):
                if o["id"] in self.baseline[kind]:
                    continue
                holders = {p["pid"] for p in o.get("pids", [])}
                if holders and not holders & ours:
                    continue
                if "netns_ino" in o and o["netns_ino"] not in inodes:
                    continue
                found.append((kind, o["id"], o.get("name") or o.get("type")))
        return found


def leftovers(lab, kernel, steer):
    """What of acme-steer is there: BPF objects, tcx attachments, processes, sockets, files, routes."""
    found = [f"{kind} {name} {number}" for kind, number, name in kernel.objects()]
    found += [f"process {pid}" for pid in steer.residents()]
    for line in lab.edge.run("ss", "-Hanp").splitlines():
        if "acme-steer" in line:
            found.append(f"socket {line}")
    inode = lab.edge.inode
    for suffix in ("sock",):
        if os.path.exists(f"/run/acme-steer/{inode}.{suffix}"):
            found.append(f"/run/acme-steer/{inode}.{suffix}")
    for family in ("-4", "-6"):
        rules = lab.edge.run("ip", family, "rule", "show").splitlines()
        found += [f"rule {rule}" for rule in rules
                  if not any(word in rule for word in ("lookup local", "lookup main",
                                                       "lookup default"))]
    return found
