#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""Turns vectors into seeds for fuzz_hello: make_seeds.py VECTORS_FOLDER SEEDS_FOLDER"""

import pathlib
import sys

HEADERS_LEN = 5 + 4  # of the record and of the handshake message


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


if __name__ == "__main__":
    main()
