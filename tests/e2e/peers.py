# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""Servers without TLS, for what is about bytes and connections: they live in the test's own process."""

import os
import resource
import select
import socket
import threading

IPPROTO_MPTCP = 262


def allow_descriptors(wanted):
    """So many for this process and those that it starts, or as many as it may have; how many that is."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
            return wanted
        except ValueError:  # root without CAP_SYS_RESOURCE
            pass
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def listen(netns, address="::", port=443, protocol=0, backlog=4096, reuse=True):
    """A listening socket in a namespace; on :: it takes both families."""
    def make():
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM, protocol)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind((address, port))
        sock.listen(backlog)
        return sock
    return netns.inside(make)


class Echo:
    """Sends everything back, on any number of connections, until close()."""

    def __init__(self, netns, *args, **kwargs):
        self.sock = listen(netns, *args, **kwargs)
        self.connections = {}
        self.accepted = []  # the clients' addresses
        self._epoll = select.epoll()
        self._epoll.register(self.sock, select.EPOLLIN)
        self._wake, self._waker = os.pipe()
        self._epoll.register(self._wake, select.EPOLLIN)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        while True:
            for fd, _events in self._epoll.poll():
                if fd == self._wake:
                    return
                if fd == self.sock.fileno():
                    connection, peer = self.sock.accept()
                    self.accepted.append(peer[0].removeprefix("::ffff:"))
                    self.connections[connection.fileno()] = connection
                    self._epoll.register(connection, select.EPOLLIN)
                    continue
                self._echo(fd)

    def _echo(self, fd):
        connection = self.connections[fd]
        try:
            data = connection.recv(65536)
            if data:
                connection.sendall(data)
                return
        except OSError:
            pass
        del self.connections[fd]
        connection.close()

    def close(self):
        os.write(self._waker, b"x")
        self._thread.join()
        for connection in self.connections.values():
            connection.close()
        self.sock.close()
        self._epoll.close()
        os.close(self._wake)
        os.close(self._waker)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


class Once:
    """Accepts one connection and gives it to a function in a thread of its own; result() is what that returns."""

    def __init__(self, netns, serve, **kwargs):
        self._sock = listen(netns, **kwargs)
        self._serve = serve
        self._result = self._error = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        try:
            connection, _peer = self._sock.accept()
            with connection:
                self._result = self._serve(connection)
        except BaseException as error:  # pylint: disable=broad-except
            self._error = error

    def result(self, timeout):
        self._thread.join(timeout)
        assert not self._thread.is_alive(), f"the server is not done in {timeout} s"
        if self._error:
            raise self._error
        return self._result

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._sock.close()


def ask(sock, data=b"over and back"):
    """Sends and reads as much; what came."""
    sock.sendall(data)
    got = b""
    while len(got) < len(data):
        part = sock.recv(len(data) - len(got))
        if not part:
            break
        got += part
    return got
