#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""
Seeds for a fuzzer: what mutation hardly comes by, and what was a fault once.

make_seeds.py hello VECTORS_FOLDER SEEDS_FOLDER
make_seeds.py conn SEEDS_FOLDER
"""

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


def extension(number, data):
    return number.to_bytes(2, "big") + vector16(data)


def host_names(*names, kind=b"\x00"):
    return extension(0, vector16(b"".join(kind + vector16(name) for name in names)))


def protocols(*names):
    return extension(16, vector16(b"".join(bytes([len(name)]) + name for name in names)))


def body_with(*extensions):
    return BODY_START + vector16(b"".join(extensions))


def record(data, kind=22, major=3):
    return bytes([kind, major, 1]) + vector16(data)


def message(body, kind=1, length=None):
    return bytes([kind]) + (len(body) if length is None else length).to_bytes(3, "big") + body


def broken_bodies():
    """One that has everything, cut off everywhere, and each of its bytes changed; and what it can't have twice."""
    whole = body_with(host_names(b"A-z_0.example"), protocols(b"acme-tls/1"), extension(21, bytes(2)))
    for length in range(len(whole)):
        yield f"cut-{length}", whole[:length]
    for at in range(len(whole)):
        for name, value in (("zero", 0), ("max", 255), ("more", whole[at] + 1 & 255), ("less", whole[at] - 1 & 255)):
            yield f"{name}-{at}", whole[:at] + bytes([value]) + whole[at + 1:]
    yield "no-extensions", BODY_START
    yield "session-id-33", BODY_START[:34] + bytes([33]) + bytes(33) + BODY_START[35:]
    yield "suites-odd", BODY_START[:35] + b"\x00\x03\x13\x01\x00\x01\x00"
    yield "suites-to-the-end", BODY_START[:35] + vector16(b"\x13\x01" * 4)
    yield "no-compressions", BODY_START[:-2] + b"\x00"
    yield "two-names", body_with(host_names(b"a", b"b"))
    yield "name-of-other-type", body_with(host_names(b"a", kind=b"\x01"))
    yield "no-names", body_with(host_names())
    yield "empty-name", body_with(host_names(b""))
    yield "dot", body_with(host_names(b"."))
    yield "dot-first", body_with(host_names(b".a"))
    yield "dot-last", body_with(host_names(b"a."))
    yield "two-name-extensions", body_with(host_names(b"a"), host_names(b"a"))
    yield "two-alpn", body_with(protocols(b"h2"), protocols(b"h2"))
    yield "no-protocols", body_with(protocols())
    yield "empty-protocol", body_with(protocols(b""))
    yield "two-protocols", body_with(protocols(b"acme-tls/1", b"h2"))
    yield "acme-tls-2", body_with(protocols(b"acme-tls/2"))
    for byte in b"@AZ[`az{/09:-._ ":
        yield f"name-{byte}", body_with(host_names(b"a" + bytes([byte]) + b"a"))


def broken_streams():
    """Headers of records and messages, and streams that end within them."""
    body = body_with(host_names(b"www.example.org"), protocols(b"acme-tls/1"))
    for length in range(12):
        yield f"stream-cut-{length}", record(message(body))[:length]
    yield "record-type", record(message(body), kind=23)
    yield "record-major", record(message(body), major=2)
    yield "record-empty", record(b"") + record(message(body))
    yield "record-long", b"\x16\x03\x01\x40\x01" + message(body)
    yield "record-very-long", b"\x16\x03\x01\x41\x00" + message(body)
    yield "message-type", record(message(body, kind=2))
    for length in (0, 1, 37, 16384, 16385, 0x4100, 0x5000, 0x10000):
        yield f"message-{length}", record(message(body, length=length))
        yield f"message-{length}-scattered", b"".join(record(bytes([byte])) for byte in message(body, length=length))
    for length in range(1, 4):
        yield f"message-header-{length}", record(message(body)[:length]) + record(message(body)[length:])
    yield "two-messages", record(message(body) + message(body))
    # A message within its limit, in records that take it beyond the stream's.
    yield "stream-too-long", b"".join(record(bytes([byte])) for byte in message(body_with(extension(21, bytes(5000)))))


# fuzz_conn.c's steps.
COMES, SENDS, EVENTS, TIME, TARGETS, RELAY, OPTIONS, DRAIN = 1, 3, 8, 10, 11, 12, 13, 15
CLOCK_LATER = 4  # than what a batch of events is told
ALL = 255
ACME, WEB = 0, 2
TAKES, IS_BUSY, CANT_HAVE_IT, LOSES_IT = 0, 3, 4, 5
RELAYED, NO_ADDRESS, PROXY_V1, TWO_RELAYS = 2, 0, 2, 0x80
REFUSED, NOT_PERMITTED = 1, 7  # a relay's connect()


def came(number, asks_for):
    """A client has come, and has said it all."""
    return [COMES, 0, asks_for, 0, SENDS, number, ALL, EVENTS]


def targets(web_server, responder):
    return [TARGETS, next(n for n in range(256) if (n % 6, n // 8 % 6) == (web_server, responder))]


def options(plane, client_ip, flags=0):
    return [OPTIONS, next(n for n in range(256) if (n % 3, n // 4 % 4, n & 0xc0) == (plane, client_ip, flags))]


def passing(ns):
    """So long, small steps first."""
    return [byte for exponent in range(32) if ns // 64 >> exponent & 1 for byte in (TIME, exponent)]


def conn_seeds():
    """Stories of connections. Time passes in steps of 64 ns times a power of 2."""
    yield "refused-late-then-relayed", [0, *targets(CANT_HAVE_IT, IS_BUSY), *came(0, ACME),
                                        *targets(LOSES_IT, CANT_HAVE_IT), TIME, 27]
    yield "relay-fails-late", [0, *targets(TAKES, CANT_HAVE_IT), *came(0, ACME), *targets(TAKES, IS_BUSY),
                               TIME, 26, RELAY, 0, NOT_PERMITTED, TIME, 26]
    # The wait for the responder began later than the time that the drain is told.
    yield "drained-as-the-relay-fails", [CLOCK_LATER, *options(RELAYED, NO_ADDRESS), *came(0, ACME), RELAY, 0, REFUSED,
                                         *targets(IS_BUSY, TAKES), DRAIN]
    # One try more, at the end of that wait, and then another.
    yield "wait-begins-later", [CLOCK_LATER, *options(RELAYED, NO_ADDRESS), *came(0, ACME), *targets(TAKES, IS_BUSY),
                                RELAY, 0, REFUSED, *passing(5_002_000_000), TIME, 22]
    yield "header-beyond-the-limit", [0, *options(RELAYED, PROXY_V1, TWO_RELAYS), *came(0, WEB), *came(1, WEB),
                                      *came(2, WEB)]


def write_hello_seeds(vectors, seeds):
    for path in sorted(vectors.glob("*.hex")):
        lines = path.read_text().splitlines()
        stream = bytes.fromhex("".join(line for line in lines if not line.startswith("#")))
        (seeds / f"{path.stem}.stream").write_bytes(b"\x00" + stream)
        (seeds / f"{path.stem}.body").write_bytes(b"\x01" + stream[HEADERS_LEN:])
        cuts = bytes([2 * 3, 0, 4, 130])
        (seeds / f"{path.stem}.cut").write_bytes(cuts + stream)
    for name, body in broken_bodies():
        (seeds / f"body-{name}").write_bytes(b"\x01" + body)
    for name, stream in broken_streams():
        (seeds / name).write_bytes(b"\x00" + stream)
    for name, seed in limit_seeds():
        (seeds / name).write_bytes(seed)


def main():
    fuzzer, *vectors, seeds = sys.argv[1:]
    seeds = pathlib.Path(seeds)
    seeds.mkdir(parents=True, exist_ok=True)
    if fuzzer == "hello":
        write_hello_seeds(pathlib.Path(*vectors), seeds)
    else:
        for name, story in conn_seeds():
            (seeds / name).write_bytes(bytes(story))


if __name__ == "__main__":
    main()
