#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""An ACME client that behaves as acme.sh does with --alpn; acme.sh itself is in no Debian package.

It has the options that deploy/README.md uses. The hooks are run in a shell, with Le_Domain and Le_Alt
before, and nothing but what there was after. For each name an "openssl s_server" is started, which takes
one connection at a time, and killed after the validation.

    acme_sh_like.py --issue --alpn --tlsport PORT --local-address ADDR -d NAME ... --server URL
                    --ca-bundle FILE --home DIR [--pre-hook COMMAND] [--post-hook COMMAND]
"""

import argparse
import datetime
import hashlib
import os
import pathlib
import subprocess
import sys
import threading

import josepy
from acme import client, crypto_util, messages
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

TRIES = 100
PAUSE_S = 0.1

_tick = threading.Event()


def openssl(*argv):
    subprocess.run(["openssl", *map(str, argv)], check=True, capture_output=True)


def listens(address, port):
    """By looking, for a connection would take the only place there is."""
    host = "".join(f"{int(byte):02X}" for byte in reversed(address.split(".")))
    wanted = f"{host}:{port:04X}"
    with open("/proc/net/tcp", encoding="ascii") as f:
        return any(line.split()[1] == wanted and line.split()[3] == "0A" for line in f.readlines()[1:])


def until(condition, what):
    for _ in range(TRIES):
        if condition():
            return
        _tick.wait(PAUSE_S)
    sys.exit(f"not in {TRIES * PAUSE_S:.0f} s: {what}")


def responder(options, name, key_authorization):
    digest = hashlib.sha256(key_authorization.encode()).hexdigest()
    cert, key = options.home / "tls.pem", options.home / "tls.key"
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", 2, "-subj", "/CN=tls.acme.sh",
            "-keyout", key, "-out", cert, "-addext", f"subjectAltName=DNS:{name}",
            "-addext", f"1.3.6.1.5.5.7.1.31=critical,DER:0420{digest}")
    process = subprocess.Popen(
        ["openssl", "s_server", "-www", "-cert", cert, "-key", key,
         "-accept", f"{options.local_address}:{options.tlsport}", "-alpn", "acme-tls/1"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: listens(options.local_address, options.tlsport) or process.poll() is not None,
          "openssl s_server listens")
    return process


def validate(acme, options, authz):
    name = authz.body.identifier.value
    challb = next(c for c in authz.body.challenges if c.chall.typ == "tls-alpn-01")
    response = challb.chall.response(acme.net.key)
    process = responder(options, name, response.key_authorization)
    try:
        acme.answer_challenge(challb, response)

        def ended():
            nonlocal authz
            authz, _ = acme.poll(authz)
            return authz.body.status not in (messages.STATUS_PENDING, messages.STATUS_PROCESSING)

        until(ended, f"{name} is validated")
    finally:
        process.kill()
        process.wait()
    if authz.body.status != messages.STATUS_VALID:
        sys.exit(f"{name}: {authz.to_json()}")


def issue(options):
    account_key = josepy.JWKEC(key=ec.generate_private_key(ec.SECP256R1()))
    net = client.ClientNetwork(account_key, alg=josepy.ES256, verify_ssl=str(options.ca_bundle))
    directory = messages.Directory.from_json(net.get(options.server).json())
    acme = client.ClientV2(directory, net)
    acme.new_account(messages.NewRegistration.from_data(email="admin@example.test",
                                                        terms_of_service_agreed=True))
    key = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    order = acme.new_order(crypto_util.make_csr(key, options.domain))
    for authz in order.authorizations:
        validate(acme, options, authz)
    order = acme.poll_and_finalize(order, datetime.datetime.now() + datetime.timedelta(seconds=30))
    (options.home / "fullchain.cer").write_text(order.fullchain_pem)


def hook(command, **env):
    if command:
        subprocess.run(["/bin/sh", "-c", command], env=dict(os.environ, **env), check=True)


def main():
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--issue", action="store_true", required=True)
    parser.add_argument("--alpn", action="store_true", required=True)
    parser.add_argument("--tlsport", type=int, required=True)
    parser.add_argument("--local-address", required=True)
    parser.add_argument("-d", "--domain", action="append", required=True)
    parser.add_argument("--server", required=True)
    parser.add_argument("--ca-bundle", type=pathlib.Path, required=True)
    parser.add_argument("--home", type=pathlib.Path, required=True)
    parser.add_argument("--pre-hook")
    parser.add_argument("--post-hook")
    options = parser.parse_args()

    try:
        hook(options.pre_hook, Le_Domain=options.domain[0], Le_Alt=",".join(options.domain[1:]))
        issue(options)
    finally:
        hook(options.post_hook)


if __name__ == "__main__":
    main()
