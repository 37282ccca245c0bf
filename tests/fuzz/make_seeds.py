#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""Turns vectors into seeds for fuzz_hello: make_seeds.py VECTORS_FOLDER SEEDS_FOLDER"""

import pathlib
import sys

HEADERS_LEN = 5 + 4  # of the record and of the handshake message
BODY_START = b"\x03\x03" + b"r" * 32 + b"\x00" + b"\x00\x02\x13\x01" + b"\x01\x00"
LABEL = b"l" * 63


def vector16(data):
    return len(data).to_bytes(2, "big") + data


def body_with_name(name, padding=0):
    server_name = b"\x00\x00" + vector16(vector16(b"\x00" + vector16(name)))
    extensions = server_name + b"\x00\x15" + vector16(bytes(padding))
    return BODY_START + vector16(extensions)


def limit_seeds():
    """What mutation hardly comes by: names and messages about as long as they may be."""
    yield "name255", b"\x01" + body_with_name(b".".join([LABEL] * 4))
    yield "name257", b"\x01" + body_with_name(b".".join([LABEL] * 4) + b".l")
    yield "label64", b"\x01" + body_with_name(LABEL + b"l")
    yield "dots", b"\x01" + body_with_name(b"l..")
    long_body = body_with_name(b"l", 16000)
    yield "long", b"\x01" + long_body
    # One length byte's half is how many bytes say where to cut: here one, records of 2 bytes.
    yield "long-cut", bytes([1 | 1 << 1, 1]) + long_body


def main():
    vectors, seeds = map(pathlib.Path, sys.argv[1:])
    seeds.mkdir(parents=True, exist_ok=True)
    for path in sorted(vectors.glob("*.hex")):
        lines = path.read_text().splitlines()
        stream = bytes.fromhex("".join(line for line in lines if not line.startswith("#")))
        (seeds / f"{path.stem}.stream").write_bytes(b"\x00" + stream)
        (seeds / f"{path.stem}.body").write_bytes(b"\x01" + stream[HEADERS_LEN:])
        cuts = bytes([2 * 3, 0, 4, 130])
        (seeds / f"{path.stem}.cut").write_bytes(cuts + stream)
    for name, seed in limit_seeds():
        (seeds / name).write_bytes(seed)


if __name__ == "__main__":
    main()
