#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""
Clients that the load tools do not play: slow ones, ones that go away, and validators.

    clients.py --seed N [--slow RATE] [--aborted RATE] [--validator RATE] [--name NAME]... [--source ADDR]...
               ADDR:PORT...

Rates are per second; which client does what follows from the seed. A slow client sends its ClientHello byte
by byte, in 0.3 to 5 seconds, and then asks for the page. An aborted one goes at some point of the way, by FIN
or by RST. A validator speaks acme-tls/1 for one of the names. SIGTERM ends it in order; one JSON object
at the end: failures as the load tools report them, and who answered each validator.
"""

import argparse
import asyncio
import json
import random
import signal
import socket
import ssl
import struct
import sys
import time

LIMIT_S = 20
SLOW_S = (0.3, 1.5, 2.5, 5.0)  # the last is beyond the sniff timeout
REQUEST = b"GET / HTTP/1.1\r\nHost: www.example.test\r\nConnection: close\r\n\r\n"


# A fatal alert in plain text: no_application_protocol. Python's ssl has no name for it.
NO_PROTOCOL = b"\x15\x03\x03\x00\x02\x02\x78"


class Failed(Exception):
    pass


def tls_context(alpn):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([alpn])
    return context


WEB = tls_context("http/1.1")
ACME = tls_context("acme-tls/1")


class Client:
    """One connection."""

    def __init__(self, kind, target, source):
        self.kind = kind
        self.target = target
        self.source = source
        self.began = time.monotonic()
        self.phase = "connect"
        self.local = ("", 0)
        self.sock = None
        self.received = b""

    async def connect(self):
        loop = asyncio.get_running_loop()
        family = socket.AF_INET6 if ":" in self.target[0] else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_STREAM)
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.source:
            self.sock.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
            self.sock.bind((self.source, 0))
        await loop.sock_connect(self.sock, self.target)
        self.local = self.sock.getsockname()[:2]

    async def send(self, data, seconds=0):
        loop = asyncio.get_running_loop()
        if not seconds:
            await loop.sock_sendall(self.sock, data)
            return
        for i in range(len(data)):
            await loop.sock_sendall(self.sock, data[i:i + 1])
            await asyncio.sleep(seconds / len(data))

    async def receive(self):
        data = await asyncio.get_running_loop().sock_recv(self.sock, 65536)
        if not data:
            raise Failed("closed")
        self.received = data
        return data

    async def handshake(self, context, sni, slow_s=0):
        """The TLS object, its two buffers; the first flight takes slow_s seconds."""
        self.phase = "handshake"
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_hostname=sni)
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self.send(outgoing.read(), slow_s)
                slow_s = 0
                incoming.write(await self.receive())
        await self.send(outgoing.read())
        return tls, incoming, outgoing

    async def get(self, slow_s, page):
        tls, incoming, outgoing = await self.handshake(WEB, "www.example.test", slow_s)
        self.phase = "response"
        tls.write(REQUEST)
        await self.send(outgoing.read())
        got = b""
        while True:
            try:
                data = tls.read(65536)
                if not data:
                    break
                got += data
            except ssl.SSLWantReadError:
                incoming.write(await self.receive())
            except ssl.SSLZeroReturnError:
                break
        head, _, body = got.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200") or body != page:
            raise Failed("not the page")

    def close(self, reset=False):
        if not self.sock:
            return
        if reset:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


def hello_of(sni):
    outgoing = ssl.MemoryBIO()
    tls = WEB.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=sni)
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


class Clients:
    def __init__(self, args):
        self.args = args
        self.random = random.Random(args.seed)
        self.page = open(args.expect_file, "rb").read() if args.expect_file else b""
        self.started = 0
        self.ok = {}
        self.failures = []
        self.validations = []
        self.tasks = set()
        self.stopping = asyncio.Event()

    def pick(self):
        text = self.random.choice(self.args.targets)
        host, port = text.rsplit(":", 1)
        host = host.strip("[]")
        sources = [s for s in self.args.source if (":" in s) == (":" in host)]
        return (host, int(port)), self.random.choice(sources) if sources else None

    async def slow(self, client, seconds):
        await client.connect()
        await client.get(seconds, self.page)

    async def aborted(self, client, point, cut, reset):
        """Goes before, in or behind the ClientHello. Nothing that it meets is a failure but not being let in."""
        await client.connect()
        hello = hello_of("www.example.test")
        try:
            if point:
                await client.send(hello[:cut % len(hello)] if point == 1 else hello)
            if cut % 2:
                await asyncio.sleep(cut % 100 / 1000)
            if point == 3:
                await client.receive()
        except (OSError, Failed):
            pass
        client.close(reset)

    async def validator(self, client, name):
        await client.connect()
        try:
            tls, _, _ = await client.handshake(ACME, name)
        except ssl.SSLError:
            if client.received.endswith(NO_PROTOCOL):
                return "web server"
            raise
        return "responder" if tls.selected_alpn_protocol() == "acme-tls/1" else "somebody"

    async def run_one(self, client, coroutine, name=None):
        self.started += 1
        answer = what = None
        try:
            answer = await asyncio.wait_for(coroutine, LIMIT_S)
        except asyncio.TimeoutError:
            what = "timeout"
        except Failed as error:
            what = str(error)
        except ssl.SSLError as error:
            what = f"TLS: {error.reason or error}"
        except OSError as error:
            what = error.strerror or str(error)
        if what:
            self.failures.append({"kind": client.kind, "start": client.began,
                                  "took": time.monotonic() - client.began,
                                  "local": client.local[0], "local_port": client.local[1],
                                  "remote": client.target[0], "what": f"{client.phase}: {what}"})
        else:
            self.ok[client.kind] = self.ok.get(client.kind, 0) + 1
        if name and answer:
            self.validations.append({"name": name, "start": client.began, "end": time.monotonic(),
                                     "local": client.local[0], "local_port": client.local[1],
                                     "answer": answer})
        client.close()

    def start(self, kind):
        target, source = self.pick()
        client = Client(kind, target, source)
        name = None
        if kind == "slow":
            coroutine = self.slow(client, self.random.choice(SLOW_S))
        elif kind == "aborted":
            coroutine = self.aborted(client, self.random.randrange(4), self.random.randrange(1000),
                                     self.random.random() < 0.5)
        else:
            name = self.random.choice(self.args.name)
            coroutine = self.validator(client, name)
        task = asyncio.create_task(self.run_one(client, coroutine, name))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def steady(self, kind, rate):
        """Open loop: one more when it is due, whatever became of the others."""
        due = time.monotonic()
        while rate and not self.stopping.is_set():
            self.start(kind)
            due = max(due + 1 / rate, time.monotonic() - 1)
            try:
                await asyncio.wait_for(self.stopping.wait(), max(0.0, due - time.monotonic()))
            except asyncio.TimeoutError:
                pass

    async def run(self):
        loop = asyncio.get_running_loop()
        for sig in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(sig, self.stopping.set)
        await asyncio.gather(*(self.steady(kind, getattr(self.args, kind))
                               for kind in ("slow", "aborted", "validator")))
        while self.tasks:
            await asyncio.wait(self.tasks)
        print(json.dumps({"tool": "clients", "started": self.started, "ok": sum(self.ok.values()),
                          "ok_by_kind": self.ok, "failed": len(self.failures),
                          "failures": self.failures, "validations": self.validations}))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=1)
    for kind in ("slow", "aborted", "validator"):
        parser.add_argument(f"--{kind}", type=float, default=0)
    parser.add_argument("--name", action="append", default=[])
    parser.add_argument("--source", action="append", default=[])
    parser.add_argument("--expect-file")
    parser.add_argument("targets", nargs="+")
    args = parser.parse_args()
    if args.validator and not args.name:
        parser.error("--validator needs a --name")
    asyncio.run(Clients(args).run())
    return 0


if __name__ == "__main__":
    sys.exit(main())
