# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""A TCP client over IPv4 that is made by hand, for packets that are lost at the right moment."""

import socket
import struct

from lab import longer

FIN, SYN, RST, ACK = 1, 2, 4, 16
OPTIONS = bytes([2, 4, 1460 >> 8, 1460 & 255])  # MSS
# The kernel knows nothing of this connection, and would say so.
NO_RESET = """
table ip rawtcp {{
    chain output {{
        type filter hook output priority 0;
        tcp sport {port} tcp flags & rst == rst drop
    }}
}}
"""


def checksum(data):
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff


class Segment:
    def __init__(self, packet):
        tcp = packet[(packet[0] & 15) * 4:]
        self.source, self.dest, self.seq, self.ack, offset, self.flags = struct.unpack(">HHIIBB", tcp[:14])
        self.payload = tcp[(offset >> 4) * 4:]


class RawClient:
    """Its numbers are the caller's to choose: seq and ack are what the next segment has."""

    def __init__(self, netns, address, port=443, source_port=20000):
        self.ports = source_port, port
        self.address = address
        self.source = netns.v4
        self.netns = netns
        self.seq, self.ack = 1000, 0
        netns.run("nft", "-f", "-", input=NO_RESET.format(port=source_port))
        self.sock = netns.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP))
        self.sock.settimeout(longer(10))

    def send(self, flags, payload=b"", options=b""):
        header = struct.pack(">HHIIBBHHH", *self.ports, self.seq & 0xffffffff, self.ack & 0xffffffff,
                             (20 + len(options)) // 4 << 4, flags, 64000, 0, 0) + options
        pseudo = socket.inet_aton(self.source) + socket.inet_aton(self.address) + struct.pack(
            ">BBH", 0, socket.IPPROTO_TCP, len(header) + len(payload))
        total = checksum(pseudo + header + payload)
        self.sock.sendto(header[:16] + struct.pack(">H", total) + header[18:] + payload, (self.address, 0))

    def receive(self, wanted):
        """The next segment of the server's for which wanted(segment)."""
        while True:
            segment = Segment(self.sock.recv(65536))
            if (segment.dest, segment.source) == self.ports and wanted(segment):
                return segment

    def connect(self):
        """Up to the first ACK, which is sent."""
        self.send(SYN, options=OPTIONS)
        self.seq += 1
        self.ack = self.receive(lambda segment: segment.flags == SYN | ACK).seq + 1
        self.send(ACK)

    def close(self):
        self.netns.run("nft", "delete", "table", "ip", "rawtcp")
        self.send(RST | ACK)
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()
