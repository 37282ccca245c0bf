# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""
Which failures of a run are permitted.

A failure is a dict of the load tools': start, took (seconds, CLOCK_MONOTONIC), local, local_port, remote, what,
and the tool and kind it is from. It is permitted when it fits one of the permits that the faults have
left; each permit says why, and may be used up. Everything else is a violation.
"""

import dataclasses

# Before the web server (or the responder) has answered: so far only the sniffer can have the connection.
UNANSWERED = ("connect", "wait before hello", "handshake")


def phase(failure):
    """The part of `what` that says how far the connection had got: "download: handshake: closed" -> handshake."""
    words = failure["what"].split(": ")
    return words[1] if words[0] in ("download", "upload", "idle") and len(words) > 2 else words[0]


def peer(failure):
    return failure["local"], failure["local_port"]


@dataclasses.dataclass
class Permit:
    """Failures of connections that were alive at some moment between begin and end."""

    why: str
    begin: float
    end: float
    peers: set = None       # only these connections ...
    since: float = None     # ... and those that began from here on
    unanswered: bool = False  # only as far as that
    what: str = ""          # only failures whose description begins so
    kind: str = ""          # only of these clients
    remote: tuple = ()      # only to these addresses
    limit: int = None       # so many at most
    used: int = 0

    def fits(self, failure):
        start, end = failure["start"], failure["start"] + failure["took"]
        if start > self.end or end < self.begin:
            return False
        if self.limit is not None and self.used >= self.limit:
            return False
        if self.peers is not None and peer(failure) not in self.peers and not (
                self.since is not None and start >= self.since):
            return False
        if self.unanswered and phase(failure) not in UNANSWERED:
            return False
        if self.remote and failure["remote"] not in self.remote:
            return False
        return failure["what"].startswith(self.what) and failure.get("kind", "").startswith(self.kind)


class Oracle:
    def __init__(self):
        self.permits = []
        self.windows = {}       # name -> [(from, until)]: it was answered for then, for sure
        self.disturbances = []  # (begin, end): then it may not have been
        self.violations = []
        self.trace = []         # (when, fault)

    def around(self, when):
        """The last faults that had begun by then."""
        last = [f"{name} at {at:.3f}" for at, name in self.trace if at <= when][-2:]
        return ", ".join(last)

    def permit(self, why, begin, end, **kwargs):
        self.permits.append(Permit(why, begin, end, **kwargs))
        return self.permits[-1]

    def disturbed(self, begin, end):
        self.disturbances.append((begin, end))

    def sure(self, name, begin, end):
        if end > begin:
            self.windows.setdefault(name, []).append((begin, end))

    def violation(self, text):
        self.violations.append(text)

    def judge(self, failures):
        """Sorts failures into permitted ones, by reason, and violations."""
        permitted = {}
        # Narrow permits first, so that a wide one is left to those that need it.
        permits = sorted(self.permits, key=lambda p: p.end - p.begin)
        for failure in failures:
            for permit in permits:
                if permit.fits(failure):
                    permit.used += 1
                    permitted[permit.why] = permitted.get(permit.why, 0) + 1
                    break
            else:
                self.violation(f"{failure.get('tool', '')} {failure.get('kind', '')} "
                               f"{failure['local']}:{failure['local_port']} -> {failure['remote']} from "
                               f"{failure['start']:.3f} for {failure['took']:.3f} s: {failure['what']}; "
                               f"{self.around(failure['start'] + failure['took'])}")
        return permitted

    def judge_validations(self, validations):
        """Inside a window nothing else than its responder answers. How many were, for sure, inside one."""
        inside = 0
        for v in validations:
            if not any(b <= v["start"] and v["end"] <= e for b, e in self.windows.get(v["name"], [])):
                continue
            if any(v["start"] <= e and v["end"] >= b for b, e in self.disturbances):
                continue
            inside += 1
            if v["answer"] != "responder":
                self.violation(f"{v['name']} was answered by the {v['answer']}, its window open, at "
                               f"{v['start']:.3f}")
        return inside
