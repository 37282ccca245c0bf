# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""The oracle itself: what it permits, and that it permits nothing else."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

# pylint: disable=wrong-import-position
from oracle import Oracle, phase


def failure(start=10.0, took=1.0, what="handshake: closed", port=1000, remote="198.51.100.1", **more):
    return dict(start=start, took=took, what=what, local="198.51.100.16", local_port=port, remote=remote, **more)


@pytest.fixture
def oracle():
    return Oracle()


def test_nothing_is_permitted_by_itself(oracle):
    assert oracle.judge([failure()]) == {}
    assert len(oracle.violations) == 1


@pytest.mark.parametrize("begin, end, fits", [(10.5, 10.6, True), (9, 10, True), (11, 12, True),
                                              (9, 9.9, False), (11.1, 12, False)])
def test_alive_at_that_moment(oracle, begin, end, fits):
    oracle.permit("why", begin, end)
    assert oracle.judge([failure()]) == ({"why": 1} if fits else {})
    assert bool(oracle.violations) != fits


@pytest.mark.parametrize("what, expected", [
    ("handshake: closed", "handshake"), ("wait before hello: Connection reset by peer", "wait before hello"),
    ("response: short body", "response"), ("download: handshake: closed", "handshake"),
    ("upload: write: Broken pipe", "write"), ("idle: closed while idle", "idle")])
def test_phase(what, expected):
    assert phase({"what": what}) == expected


@pytest.mark.parametrize("what, fits", [("handshake: closed", True), ("connect: refused", True),
                                        ("response: closed", False), ("upload: write: Broken pipe", False)])
def test_unanswered(oracle, what, fits):
    """Once the web server has answered, a kill must not matter."""
    oracle.permit("why", 10, 11, unanswered=True)
    assert bool(oracle.judge([failure(what=what)])) == fits


@pytest.mark.parametrize("limits, fits", [
    ({"peers": {("198.51.100.16", 1000)}}, True), ({"peers": {("198.51.100.16", 1001)}}, False),
    ({"peers": set()}, False), ({"peers": set(), "since": 9.9}, True), ({"peers": set(), "since": 10.1}, False),
    ({"remote": ("198.51.100.1",)}, True), ({"remote": ("203.0.113.1",)}, False),
    ({"kind": "validator"}, False), ({"what": "idle: "}, False)])
def test_narrowed(oracle, limits, fits):
    oracle.permit("why", 10, 11, **limits)
    assert bool(oracle.judge([failure()])) == fits


def test_used_up(oracle):
    oracle.permit("why", 10, 11, limit=2)
    assert oracle.judge([failure(port=port) for port in range(3)]) == {"why": 2}
    assert len(oracle.violations) == 1


@pytest.mark.parametrize("answer, window, disturbed, inside, violations", [
    ("responder", (9, 12), None, 1, 0), ("web server", (9, 12), None, 1, 1),
    ("web server", (10.5, 12), None, 0, 0), ("web server", (9, 12), (10.5, 10.6), 0, 0),
    ("somebody", (9, 12), (1, 2), 1, 1)])
def test_validations(oracle, answer, window, disturbed, inside, violations):
    oracle.sure("a", *window)
    if disturbed:
        oracle.disturbed(*disturbed)
    assert oracle.judge_validations([{"name": "a", "start": 10, "end": 11, "answer": answer}]) == inside
    assert len(oracle.violations) == violations
