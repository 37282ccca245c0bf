# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""Network namespaces, the processes in them, and waiting for conditions."""

import atexit
import contextlib
import ctypes
import itertools
import json
import os
import pathlib
import re
import secrets
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
BUILD = pathlib.Path(os.environ.get("ACME_STEER_BUILD", HERE.parent.parent / "build"))
TOOLS = BUILD / "tools"

CLONE_NEWNET = 0x40000000
NAME = re.compile(r"^ase-(\d+)-[0-9a-f]{6}-(edge|ca|container)$")

# For slow machines: time limits are so many times longer (--patience), loads so many times less (--load).
patience = 1
load = 1

_libc = ctypes.CDLL(None, use_errno=True)


def longer(seconds):
    """A time limit, on this machine."""
    return seconds * patience


def less(count):
    """So many connections, or so many per second, on this machine."""
    return max(1, round(count * load))


def bpf_descriptors(pid):
    """What the kernel tells of each BPF object that the process holds: name -> value. Nothing once it is gone."""
    found = []
    with contextlib.suppress(OSError):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                if "bpf" in os.readlink(f"/proc/{pid}/fd/{fd}"):
                    text = pathlib.Path(f"/proc/{pid}/fdinfo/{fd}").read_text(encoding="ascii")
                    found.append(dict(re.findall(r"^(\w+):\s*(\S+)", text, re.M)))
    return found


def wait_until(condition, timeout=10, what="", interval=0.01):
    """Polls until condition() is true and returns its value; fails the test after the timeout."""
    timeout = longer(timeout)
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not in {timeout} s: {what or condition}")
        # Where a signal's exception does no harm: from a lock's own code another one would come.
        select.select([], [], [], interval)


def sh(*argv, check=True, timeout=30, **kwargs):
    """Runs a command to its end; its stdout."""
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True,
                          timeout=longer(timeout), **kwargs)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(map(str, argv))}: exit {done.returncode}: "
                             f"{done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def kill_pid(pid, sig=signal.SIGKILL, timeout=5):
    """Kills one process and waits for its end, whoever its parent is."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(pidfd, sig)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.poll(longer(timeout) * 1000)
    except ProcessLookupError:
        pass
    finally:
        os.close(pidfd)


class Process:
    """A child in a namespace, in a process group of its own, its output in files."""

    def __init__(self, netns, name, argv, env=None, cwd=None):
        self.name = name
        serial = next(netns.lab.serial)
        self.out = netns.lab.dir / f"{serial:03}-{name}.out"
        self.err = netns.lab.dir / f"{serial:03}-{name}.err"
        argv = netns.command(["setpriv", "--pdeathsig", "KILL", *argv])
        with open(self.out, "wb") as out, open(self.err, "wb") as err:
            self.popen = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                                          env=env, cwd=cwd, start_new_session=True)
        self.pid = self.popen.pid
        netns.lab.processes.append(self)

    def running(self):
        return self.popen.poll() is None

    def send_signal(self, sig):
        if self.running():
            os.kill(self.pid, sig)

    def wait(self, timeout):
        timeout = longer(timeout)
        try:
            return self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end in {timeout} s") from None

    def stop(self, sig=signal.SIGTERM, timeout=15):
        """Ends it in order; its exit code."""
        self.send_signal(sig)
        return self.wait(timeout)

    def kill(self):
        if self.running():
            try:
                os.killpg(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.popen.wait(10)

    def stdout(self):
        return self.out.read_text(errors="replace")

    def stderr(self):
        return self.err.read_text(errors="replace")


class Tool(Process):
    """A load tool: one JSON object at its end, progress while it runs."""

    def __init__(self, netns, name, args, progress=True):
        binary = TOOLS / name
        assert binary.exists(), f"{binary} is not built"
        self._progress = None
        if progress:
            self._progress = netns.lab.dir / f"{next(netns.lab.serial):03}-{name}.progress"
            args = ["--progress", self._progress, *args]
        super().__init__(netns, name, [str(a) for a in (binary, *args)])

    def progress(self):
        """(started, ok, failed, live); what "started" is, the tool's usage says."""
        try:
            words = self._progress.read_text().split()
        except FileNotFoundError:
            words = []
        if len(words) < 4:
            assert self.running(), f"{self.name} ended at once: {self.stderr()}"
            words = [0, 0, 0, 0]
        return tuple(int(w) for w in words[:4])

    def finish(self, timeout=60):
        """Waits for the end the tool was given; its result."""
        self.wait(timeout)
        return self.result()

    def stop_and_result(self, timeout=30):
        self.stop(timeout=timeout)
        return self.result()

    def result(self):
        lines = self.stdout().splitlines()
        assert lines, f"{self.name} printed nothing: {self.stderr()}"
        return json.loads(lines[-1])


class Netns:
    """One network namespace."""

    def __init__(self, lab, role):
        self.lab = lab
        self.role = role
        self.name = f"{lab.name}-{role}"
        self.path = f"/run/netns/{self.name}"
        self.v4 = self.v6 = None
        sh("ip", "netns", "add", self.name)
        self.inode = os.stat(self.path).st_ino
        self.unlink_socket()

    def command(self, argv):
        return ["nsenter", f"--net={self.path}", *[str(a) for a in argv]]

    def run(self, *argv, **kwargs):
        return sh(*self.command(argv), **kwargs)

    def start(self, name, argv, **kwargs):
        return Process(self, name, [str(a) for a in argv], **kwargs)

    def tool(self, name, *args, **kwargs):
        return Tool(self, name, args, **kwargs)

    def inside(self, function, *args):
        """Calls function in a thread that lives in this namespace; sockets made there stay there."""
        result = {}

        def body():
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if _libc.setns(fd, CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
                result["value"] = function(*args)
            except BaseException as error:  # pylint: disable=broad-except
                result["error"] = error
            finally:
                os.close(fd)

        thread = threading.Thread(target=body, daemon=True)
        thread.start()
        thread.join()
        if "error" in result:
            raise result["error"]
        return result["value"]

    def connect(self, address, port=443, source=None, timeout=10):
        """A connected TCP socket."""
        def body():
            source_address = (source, 0) if source else None
            return socket.create_connection((address, port), longer(timeout), source_address)
        return self.inside(body)

    def listening(self, port, address=None):
        """Is there a TCP listener (of either family, or on this address)?"""
        return any(local.endswith(f":{port}") and (not address or local == f"{address}:{port}")
                   for local in self.listeners())

    def listeners(self):
        return [line.split()[3] for line in self.run("ss", "-Htln").splitlines()]

    def sockets(self):
        """All TCP sockets but those in TIME-WAIT, as ss prints them."""
        lines = self.run("ss", "-Htanp").splitlines()
        return [line for line in lines if not line.startswith("TIME-WAIT")]

    def pids(self):
        return [int(pid) for pid in sh("ip", "netns", "pids", self.name, check=False).split()]

    def unlink_socket(self):
        """A namespace of before may have had the same number, and a resident process that was killed."""
        pathlib.Path(f"/run/acme-steer/{self.inode}.sock").unlink(missing_ok=True)

    def delete(self):
        for pid in self.pids():
            kill_pid(pid)
        sh("ip", "netns", "del", self.name, check=False)
        self.unlink_socket()


class Lab:
    """Both namespaces and the wire between them; see conftest.py for the drawing."""

    clients = range(0x10, 0x18)

    def __init__(self, v4=True, v6=True):
        self.name = f"ase-{os.getpid()}-{secrets.token_hex(3)}"
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix=f"{self.name}-"))
        self.dir.chmod(0o755)
        self.serial = itertools.count(1)
        self.processes = []
        self.namespaces = []
        self.keep_dir = False
        self.closed = False
        atexit.register(self.close)
        try:
            self._build(v4, v6)
        except BaseException:
            self.close()
            raise

    def _build(self, v4, v6):
        self.edge = Netns(self, "edge")
        self.namespaces.append(self.edge)
        self.ca = Netns(self, "ca")
        self.namespaces.append(self.ca)
        sh("ip", "link", "add", "edge0", "netns", self.edge.name, "type", "veth",
           "peer", "name", "ca0", "netns", self.ca.name)
        for netns, device in ((self.edge, "edge0"), (self.ca, "ca0")):
            netns.device = device
            netns.run("ip", "link", "set", "lo", "up")
            netns.run("ip", "link", "set", device, "up")
        if v4:
            self.edge.v4 = "198.51.100.1"
            self.ca.v4 = "198.51.100.16"
            self.edge.run("ip", "address", "add", f"{self.edge.v4}/24", "dev", "edge0")
        if v6:
            self.edge.v6 = "2001:db8:443::1"
            self.ca.v6 = "2001:db8:443::10"
            self.edge.run("ip", "address", "add", f"{self.edge.v6}/64", "dev", "edge0", "nodad")
        self.sources = []
        for host in self.clients:
            if v4:
                self.sources.append(f"198.51.100.{host}")
                self.ca.run("ip", "address", "add", f"198.51.100.{host}/24", "dev", "ca0")
            if v6:
                self.sources.append(f"2001:db8:443::{host:x}")
                self.ca.run("ip", "address", "add", f"2001:db8:443::{host:x}/64", "dev", "ca0",
                            "nodad")
        # Room for tens of thousands of connections from a few addresses.
        self.ca.run("sysctl", "-qw", "net.ipv4.ip_local_port_range=1024 65535")

    def targets(self, port=443):
        """ADDR:PORT of the edge, every family it has."""
        targets = []
        if self.edge.v4:
            targets.append(f"{self.edge.v4}:{port}")
        if self.edge.v6:
            targets.append(f"[{self.edge.v6}]:{port}")
        return targets

    def source_options(self):
        return [word for source in self.sources for word in ("--source", source)]

    def close(self):
        if self.closed:
            return
        self.closed = True
        atexit.unregister(self.close)
        for process in reversed(self.processes):
            process.kill()
        for netns in self.namespaces:
            netns.delete()
        if not self.keep_dir:
            shutil.rmtree(self.dir, ignore_errors=True)


def remove_stale():
    """What a run that was killed with SIGKILL left: namespaces named for a process that is gone."""
    for line in sh("ip", "netns", "list", check=False).splitlines():
        match = NAME.match(line.split()[0]) if line.split() else None
        if match and not os.path.exists(f"/proc/{match[1]}"):
            name = match[0]
            for pid in sh("ip", "netns", "pids", name, check=False).split():
                kill_pid(int(pid))
            sh("ip", "netns", "del", name, check=False)
