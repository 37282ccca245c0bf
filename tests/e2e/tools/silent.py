#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""
A slowloris: so many connections from one address that say nothing, opened as fast as they are let in.

    silent.py CONNECTIONS RATE SOURCE ADDRESS PORT

Prints "connected N" when all have been tried; holds them until SIGTERM.
"""

import errno
import resource
import select
import signal
import socket
import sys
import time

AT_ONCE = 256  # handshakes under way


def connect(source, target):
    sock = socket.socket(socket.AF_INET6 if ":" in source else socket.AF_INET, socket.SOCK_STREAM)
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
    sock.bind((source, 0))
    error = sock.connect_ex(target)
    assert error in (0, errno.EINPROGRESS), errno.errorcode[error]
    return sock


def main():
    count, rate, source, target = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3], (sys.argv[4], int(sys.argv[5]))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    poll = select.epoll()
    held, waiting, connected, began = [], {}, 0, time.monotonic()
    while len(held) < count or waiting:
        due = min(count, (time.monotonic() - began) * rate)
        while len(held) < due and len(waiting) < AT_ONCE:
            sock = connect(source, target)
            held.append(sock)
            waiting[sock.fileno()] = sock
            poll.register(sock, select.EPOLLOUT)
        for fd, _ in poll.poll(0.005):
            poll.unregister(fd)
            connected += not waiting.pop(fd).getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    print(f"connected {connected}", flush=True)
    signal.sigwait([signal.SIGTERM])


if __name__ == "__main__":
    main()
