#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""Makes a ClientHello with a post-quantum key share, as a vector.

    make_pq.py FILE [--sni NAME] [--alpn LIST] [--size BYTES] [--raw]

Stands in for a CA's validator (Go's crypto/tls 1.24 and later), which no Debian 12 package brings.
It follows RFC 8446 4.1.2 and draft-ietf-tls-ecdhe-mlkem: the X25519MLKEM768 share (0x11ec) is an
ML-KEM-768 encapsulation key of 1184 bytes (768 coefficients of 12 bits, each below 3329 so that a
server's modulus check passes, and a seed of 32), then an X25519 key of 32. A plain X25519 share
follows. Everything "random" comes from SHAKE-128 of a fixed string: the same options, the same file.
--size pads to that many bytes of stream with the padding extension (RFC 7685).
"""

import argparse
import hashlib
import pathlib
import struct

from capture import write_vector

KYBER_Q = 3329
CIPHER_SUITES = (
    *(0xC02B, 0xC02F, 0xC02C, 0xC030, 0xCCA9, 0xCCA8, 0xC009, 0xC013, 0xC00A, 0xC014),
    *(0x1301, 0x1302, 0x1303),  # TLS 1.3's
)
RECORD_HEADER_LEN = 5
EXTENSION_HEADER_LEN = 4


def random_bytes(label, length):
    return hashlib.shake_128(b"acme-steer " + label).digest(length)


def vector(length_format, data):
    return struct.pack(length_format, len(data)) + data


def vector8(data):
    return vector(">B", data)


def vector16(data):
    return vector(">H", data)


def u16_list(*values):
    return vector16(b"".join(struct.pack(">H", value) for value in values))


def extension(kind, data):
    return struct.pack(">H", kind) + vector16(data)


def mlkem768_key():
    """FIPS 203: ByteEncode12 of 3 polynomials of 256 coefficients, then rho."""
    stream = random_bytes(b"coefficients", 4096)
    numbers = (int.from_bytes(stream[i : i + 2], "little") & 0xFFF for i in range(0, 4096, 2))
    coefficients = [number for number in numbers if number < KYBER_Q][:768]
    packed = b"".join(
        (a | b << 12).to_bytes(3, "little") for a, b in zip(coefficients[::2], coefficients[1::2])
    )
    return packed + random_bytes(b"rho", 32)


def key_shares():
    pq = mlkem768_key() + random_bytes(b"x25519 of the hybrid", 32)
    assert len(pq) == 1216
    x25519 = random_bytes(b"x25519", 32)
    return struct.pack(">H", 0x11EC) + vector16(pq) + struct.pack(">H", 0x001D) + vector16(x25519)


def extensions(sni, protocols):
    out = b""
    if sni:
        out += extension(0, vector16(b"\0" + vector16(sni.encode())))
    out += extension(5, b"\1\0\0\0\0")  # status_request: OCSP
    out += extension(10, u16_list(0x11EC, 0x001D, 0x0017, 0x0018, 0x0019))
    out += extension(11, b"\1\0")  # ec_point_formats: uncompressed
    out += extension(13, u16_list(0x0804, 0x0403, 0x0807, 0x0805, 0x0806, 0x0401, 0x0501, 0x0601))
    out += extension(0xFF01, b"\0")  # renegotiation_info
    out += extension(23, b"")  # extended_master_secret
    if protocols:
        names = b"".join(vector8(name.encode()) for name in protocols)
        out += extension(16, vector16(names))
    out += extension(18, b"")  # signed_certificate_timestamp
    out += extension(43, vector8(b"\x03\x04\x03\x03"))  # supported_versions
    out += extension(51, vector16(key_shares()))
    return out


def record(sni, protocols, size):
    fixed = b"\x03\x03" + random_bytes(b"random", 32) + vector8(random_bytes(b"session id", 32))
    fixed += u16_list(*CIPHER_SUITES)
    fixed += vector8(b"\0")
    exts = extensions(sni, protocols)
    missing = size - len(fixed) - len(exts) - 2 - 4 - RECORD_HEADER_LEN
    if missing >= EXTENSION_HEADER_LEN:
        exts += extension(21, bytes(missing - EXTENSION_HEADER_LEN))
    body = fixed + vector16(exts)
    message = b"\1" + len(body).to_bytes(3, "big") + body
    return b"\x16\x03\x01" + vector16(message)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=pathlib.Path)
    parser.add_argument("--sni", default="acme.example.org")
    parser.add_argument("--alpn", default="acme-tls/1", help="comma between protocols; empty: none")
    parser.add_argument("--size", type=int, default=0, help="bytes of stream to pad to")
    parser.add_argument("--raw", action="store_true", help="write the bytes, not a vector")
    args = parser.parse_args()

    stream = record(args.sni, [name for name in args.alpn.split(",") if name], args.size)
    if args.raw:
        args.file.write_bytes(stream)
        return
    how = f"make_pq.py --sni={args.sni} --alpn={args.alpn} --size={args.size}"
    header = [
        ("client", "none: synthetic, X25519MLKEM768"),
        ("how", how),
        ("expect", "done"),
        ("sni", args.sni),
        ("alpn", args.alpn),
        ("acme", "yes" if args.alpn == "acme-tls/1" else "no"),
    ]
    write_vector(args.file, header, stream)


if __name__ == "__main__":
    main()
