#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""
Clients out of the ordinary, and what exactly each of them gets.

    oddclient.py SECONDS ADDRESS PORT SNI CASE=SOURCE...

Each case runs in a thread of its own from its own source address ("-": any) and records what can be compared
between two runs: the bytes themselves where they are plain (the Date header aside), the types and lengths
of records and the plain alerts where they are TLS, how the stream ended (FIN, RST, or neither within
so many SECONDS), and whether the client could send all it had. One JSON object at the end.
"""

import fcntl
import json
import re
import select
import socket
import struct
import sys
import termios
import threading
import time

PACE = 0.0001  # between single bytes, so that they are not one segment by chance


def extension(kind, body):
    return struct.pack(">HH", kind, len(body)) + body


def client_hello(sni, alpn=b"http/1.1", total=None):
    """A TLS 1.3 ClientHello as one record; padded so that the record has total bytes."""
    name = sni if isinstance(sni, bytes) else sni.encode()
    extensions = b"".join((
        extension(0, struct.pack(">HBH", len(name) + 3, 0, len(name)) + name),
        extension(43, b"\x02\x03\x04"),
        extension(10, b"\x00\x02\x00\x1d"),
        extension(13, b"\x00\x06\x08\x07\x04\x03\x08\x04"),
        extension(16, struct.pack(">HB", len(alpn) + 1, len(alpn)) + alpn),
        extension(51, b"\x00\x24\x00\x1d\x00\x20" + bytes(range(9, 41)))))
    fixed = b"\x03\x03" + bytes(range(32)) + b"\x20" + bytes(32) + b"\x00\x02\x13\x01\x01\x00"
    if total:
        padding = total - 5 - 4 - len(fixed) - 2 - len(extensions) - 4
        extensions += extension(21, bytes(padding))
    body = fixed + struct.pack(">H", len(extensions)) + extensions
    handshake = b"\x01" + struct.pack(">I", len(body))[1:] + body
    return records(handshake, 16384)


def records(handshake, size):
    return b"".join(b"\x16\x03\x01" + struct.pack(">H", len(part)) + part
                    for part in (handshake[i:i + size] for i in range(0, len(handshake), size)))


def split_over_records(hello, size):
    return records(hello[5:], size)


class Client:
    def __init__(self, address, port, source, limit):
        self.limit = limit
        source_address = (source, 0) if source != "-" else None
        self.sock = socket.create_connection((address, port), limit, source_address)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sent_all = True

    def send(self, data, pieces=None):
        try:
            if not pieces:
                self.sock.sendall(data)
            else:
                for i in range(0, len(data), pieces):
                    self.sock.sendall(data[i:i + pieces])
                    time.sleep(PACE)
        except OSError:
            self.sent_all = False

    def fin(self):
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def receive(self):
        """(bytes, how the stream ended)"""
        got = b""
        end = time.monotonic() + self.limit
        while True:
            self.sock.settimeout(max(0.01, end - time.monotonic()))
            try:
                data = self.sock.recv(65536)
            except socket.timeout:
                return got, "open"
            except ConnectionResetError:
                return got, "RST"
            if not data:
                return got, "RST" if self.is_reset() else "FIN"
            got += data

    def is_reset(self):
        """A server may close before all has come to it: its FIN is first then, and the reset for the rest behind it."""
        poll = select.poll()
        poll.register(self.sock, 0)
        while not poll.poll(1):
            if not struct.unpack("i", fcntl.ioctl(self.sock, termios.TIOCOUTQ, bytes(4)))[0]:
                return False
        return self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0


def case_hello(client, sni):
    client.send(client_hello(sni))


def case_hello_4k_bytewise(client, sni):
    client.send(client_hello(sni, total=4096), 1)


def case_hello_4k_pieces(client, sni):
    client.send(client_hello(sni, total=4096), 1000)


def case_hello_records(client, sni):
    client.send(split_over_records(client_hello(sni, total=1800), 100))


def case_hello_records_bytewise(client, sni):
    client.send(split_over_records(client_hello(sni), 7), 1)


def case_hello_45k(client, sni):
    """
    More than anybody reassembles for a ClientHello's names. And more than a server reads before it refuses the second
    hello, however the segments fall: one that has read all closes with a FIN, another with a reset. OpenSSL reads
    16.4 KiB at a time where it reads ahead, and so at most that much behind the 15.1 KiB of the first.
    """
    client.send(split_over_records(client_hello(sni, total=15000), 600) * 3)


def case_hello_and_fin(client, sni):
    client.send(client_hello(sni))
    client.fin()


def case_part_of_hello(client, sni):
    client.send(client_hello(sni)[:100])


def case_part_of_hello_and_fin(client, sni):
    client.send(client_hello(sni)[:100])
    client.fin()


def case_acme_for_a_stranger(client, sni):
    """acme-tls/1 for a name that no window answers for."""
    client.send(client_hello("stranger.example.test", alpn=b"acme-tls/1"))


def case_plain_http(client, sni):
    client.send(f"GET / HTTP/1.1\r\nHost: {sni}\r\n\r\n".encode())


def case_plain_http_bytewise(client, sni):
    client.send(f"GET / HTTP/1.1\r\nHost: {sni}\r\n\r\n".encode(), 1)


def case_plain_http_and_fin(client, sni):
    client.send(f"GET / HTTP/1.0\r\nHost: {sni}\r\n\r\n".encode())
    client.fin()


def case_not_tls(client, sni):
    client.send(b"SSH-2.0-OpenSSH_9.2\r\n")


def case_wrong_handshake(client, sni):
    """A handshake record with no ClientHello in it."""
    client.send(records(b"\x02" + b"\x00\x00\x10" + bytes(16), 16384))


def case_silent(client, sni):
    pass


def case_silent_and_fin(client, sni):
    client.fin()


def describe(got):
    """What can be compared of what came."""
    if not got:
        return []
    if got[0] not in (20, 21, 22, 23):
        return [re.sub(rb"\r\nDate: [^\r]*", b"\r\nDate: -", got).decode("latin-1")]
    found = []
    while len(got) >= 5:
        kind, length = got[0], struct.unpack(">H", got[3:5])[0]
        body, got = got[5:5 + length], got[5 + length:]
        if kind == 21 and length == 2:
            found.append(f"alert {body[0]} {body[1]}")
        else:
            found.append(f"record {kind} {length}" + ("" if len(body) == length else " cut"))
    if got:
        found.append(f"{len(got)} bytes more")
    return found


CASES = {name[5:]: function for name, function in sorted(globals().items())
         if name.startswith("case_")}


def run(address, port, sni, case, source, limit):
    began = time.monotonic()
    try:
        client = Client(address, port, source, limit)
    except OSError as error:
        return {"got": [], "end": f"connect: {error}"}
    CASES[case](client, sni)
    got, end = client.receive()
    client.sock.close()
    return {"got": describe(got), "end": end, "sent_all": client.sent_all,
            "seconds": round(time.monotonic() - began, 3)}


def main(argv):
    limit, address, port, sni = float(argv[1]), argv[2], int(argv[3]), argv[4]
    results = {}
    threads = []
    for word in argv[5:] or [f"{case}=-" for case in CASES]:
        case, source = word.split("=", 1)

        def body(case=case, source=source):
            results[case] = run(address, port, sni, case, source, limit)
        threads.append(threading.Thread(target=body))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps(results, sort_keys=True))


if __name__ == "__main__":
    main(sys.argv)
