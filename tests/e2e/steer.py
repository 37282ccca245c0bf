# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""acme-steer as its users run it, and what it may have left in the kernel."""

import collections
import json
import os
import pathlib
import signal
import socket
import subprocess

from lab import BUILD, bpf_descriptors, kill_pid, longer, sh, wait_until

Result = collections.namedtuple("Result", "code out err")

BINARY = pathlib.Path(os.environ.get("ACME_STEER", BUILD / "acme-steer")).resolve()
# And what speaks TLS for it.
BINARIES = BINARY, BINARY.with_name("acme-steer-tls")

RULE_PROTOCOL = 172  # of the relay's rules and routes


def plane_options(plane):
    options = [] if plane == "auto" else ["--plane", plane]
    if plane == "relay":
        options += ["--client-ip", "transparent"]
    return options


def came(counters):
    """Connections that came while a window was open: to a sniffer, or with a ClientHello that was read in passing."""
    return counters["accepted"] + counters["not_steered"] - counters["taken_early"]


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
                              timeout=longer(timeout), env=env, stdin=subprocess.DEVNULL, check=False)
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

    def ask(self):
        """The status document straight from the control socket: no process is run for it."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(10)
            sock.connect(f"/run/acme-steer/{self.netns.inode}.sock")
            sock.sendall(b"status\n\n")
            answer = b""
            while data := sock.recv(65536):
                answer += data
        document, end = answer.decode().splitlines()
        assert end == "ok", answer
        return json.loads(document)

    def windows(self):
        """Open windows by name."""
        status = self.status()
        return {w["name"]: w for w in status["windows"]} if status else {}

    def counter(self, name):
        status = self.status()
        return status.get("counters", {}).get(name, 0) if status else 0

    def came(self):
        """came(), of those that the process has counted."""
        status = self.status()
        return came(status["counters"]) if status and "counters" in status else 0

    def relay_reasons(self):
        """How many connections were relayed, by reason."""
        status = self.status()
        return {r["reason"]: r["connections"] for r in status.get("relay_reasons", [])}

    def pid(self):
        status = self.status()
        assert status and status.get("pid"), f"no resident process: {status}"
        return status["pid"]

    def processes(self):
        """Processes of acme-steer in the namespace."""
        found = []
        for pid in self.netns.pids():
            try:
                exe = os.readlink(f"/proc/{pid}/exe")
            except OSError:
                continue
            if exe.split(" ")[0] in map(str, BINARIES):
                found.append(pid)
        return found

    def residents(self):
        """Those, without what starts responders for another of them and ends with it."""
        def is_starter(pid):
            try:
                with open(f"/proc/{pid}/comm", encoding="ascii") as f:
                    return f.read() == "acme-starter\n"
            except OSError:
                return True
        return [pid for pid in self.processes() if not is_starter(pid)]

    def kill(self, sig=signal.SIGKILL):
        for pid in self.residents():
            kill_pid(pid, sig)

    def serve(self):
        """A resident process that stays; None with plane "none"."""
        if self.plane == "none":
            return None
        process = self.netns.start("serve", [BINARY, "serve"])
        self.wait_for(process)
        return process

    def wait_for(self, process):
        """That it answers; without a resident process `status` has the same exit code, and no document."""
        def answers():
            assert process.running(), process.stderr()
            status = self.status()
            return status and status["pid"] == process.pid
        wait_until(answers, what="the resident process answers")

    def reset(self):
        """For between tests: no window, no process."""
        if self.plane == "none":
            return
        if self.residents():
            try:
                self.run("close", "--all", timeout=15)
                wait_until(lambda: not self.residents(), 15, "the resident process ends")
            except (AssertionError, subprocess.TimeoutExpired) as error:
                print(f"killed: {error}; {self.run('status', '--json')}")
                self.kill()


def refused_calls():
    """What the kernel's log has of system calls that filters of these binaries refused."""
    return [line for line in sh("dmesg").splitlines()
            if "type=1326" in line and any(f'exe="{binary}"' in line for binary in BINARIES)]


class Kernel:
    """BPF objects of this machine that were not there at the baseline and are not somebody else's.

    Other tests may run at the same time: an object that only processes outside of our namespaces
    hold is theirs. One that nobody holds is still in the kernel for some other reason, and counts.
    """

    KINDS = ("link", "prog", "map")

    def __init__(self, lab):
        self.lab = lab
        self.baseline = {kind: {o["id"] for o in self._show(kind)} for kind in self.KINDS}

    @staticmethod
    def _show(kind):
        objects = json.loads(sh("bpftool", "-j", kind, "show", check=False))
        assert isinstance(objects, list), f"bpftool {kind} show: {objects}"
        # One that goes while bpftool looks has an error and no id.
        return [o for o in objects if "id" in o]

    @staticmethod
    def _holders():
        """(kind, id) -> processes that have a descriptor of it; bpftool is not always built to tell."""
        holders = collections.defaultdict(set)
        for pid in filter(str.isdigit, os.listdir("/proc")):
            for info in bpf_descriptors(pid):
                for kind in Kernel.KINDS:
                    if f"{kind}_id" in info:
                        holders[kind, int(info[f"{kind}_id"])].add(int(pid))
        return holders

    def objects(self):
        ours = {pid for netns in self.lab.namespaces for pid in netns.pids()}
        found = [(kind, o["id"], o.get("name") or o.get("type"))
                 for kind in self.KINDS for o in self._show(kind)
                 if o["id"] not in self.baseline[kind]]
        if not found:
            return []
        holders = self._holders()
        found = [o for o in found if not holders[o[0], o[1]] or holders[o[0], o[1]] & ours]
        # Somebody else's may have gone with its process between the two looks.
        still = {(kind, o["id"]) for kind in {o[0] for o in found} for o in self._show(kind)}
        return [o for o in found if o[:2] in still]


def leftovers(lab, kernel, steer, killed=False):
    """What of acme-steer is there: BPF objects, processes, sockets, files, rules.

    When it was killed with SIGKILL, the name of its control socket stays, and a relay's rules, which match
    nothing any more; the next start removes both.
    """
    found = [f"{kind} {name} {number}" for kind, number, name in kernel.objects()]
    found += [f"process {pid}" for pid in steer.processes()]
    for line in lab.edge.run("ss", "-Hanp").splitlines():
        if "acme-steer" in line:
            found.append(f"socket {line}")
    inode = lab.edge.inode
    if not killed and os.path.exists(f"/run/acme-steer/{inode}.sock"):
        found.append(f"/run/acme-steer/{inode}.sock")
    for family in ("-4", "-6"):
        rules = lab.edge.run("ip", family, "rule", "show").splitlines()
        found += [f"rule {rule}" for rule in rules
                  if not any(word in rule for word in ("lookup local", "lookup main",
                                                       "lookup default"))
                  and not (killed and steer.plane == "relay" and f"proto {RULE_PROTOCOL}" in rule)]
    return found
