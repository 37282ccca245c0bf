#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""Records the ClientHello that a command sends, as a vector.

    capture.py FILE --client TEXT --sni NAME --alpn LIST -- COMMAND [ARG...]

Listens on a free port of 127.0.0.1, runs COMMAND with {port} replaced by it, keeps what the first
connection sends before it falls silent, and hangs up. The expectations come from the options, that
is from what the command was told to send, not from any parser: read them, they are the test.
"""

import argparse
import pathlib
import shlex
import socket
import subprocess

QUIET_S = 0.5


def receive(listener):
    connection, _ = listener.accept()
    connection.settimeout(QUIET_S)
    stream = b""
    try:
        while True:
            data = connection.recv(65536)
            if not data:
                break
            stream += data
    except TimeoutError:
        pass
    connection.close()
    return stream


def write_vector(path, header, stream):
    lines = ["# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause"]
    lines += [f"# {key}: {value}".rstrip() for key, value in header]
    lines += [stream[i : i + 32].hex() for i in range(0, len(stream), 32)]
    path.write_text("\n".join(lines) + "\n")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=pathlib.Path)
    parser.add_argument("--client", required=True, help="name and version")
    parser.add_argument("--sni", default="", help="empty: none expected")
    parser.add_argument("--alpn", default="", help="comma between protocols; empty: none expected")
    parser.add_argument("--how", help="in place of the command, in the vector's header")
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    parser.add_argument("command", nargs="+")
    args = parser.parse_args()

    with socket.create_server(("127.0.0.1", args.port)) as listener:
        listener.settimeout(30)
        port = listener.getsockname()[1]
        command = [word.replace("{port}", str(port)) for word in args.command]
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as client:
            stream = receive(listener)
            client.kill()
    header = [
        ("client", args.client),
        ("how", args.how or shlex.join(args.command)),
        ("expect", "done"),
        ("sni", args.sni),
        ("alpn", args.alpn),
        ("acme", "yes" if args.alpn == "acme-tls/1" else "no"),
    ]
    write_vector(args.file, header, stream)


if __name__ == "__main__":
    main()
