# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""certbot authenticator for TLS-ALPN-01 (RFC 8737) beside a running web server.

certbot is told what to answer by the CA; acme-steer answers. So for each name the plugin runs
"acme-steer challenge add" before validation, and "acme-steer challenge remove" after it.
"""

import hashlib
import logging
import os
import shutil
import subprocess

from acme import challenges
from certbot import errors, interfaces
from certbot.plugins import common

logger = logging.getLogger(__name__)

TYPE = "tls-alpn-01"

# certbot polls the CA for up to 30 minutes, and then cleans up. This is for a certbot that is killed.
TTL = "30m"

COMMAND_TIMEOUT_S = 60

# cron's PATH has neither.
MORE_PATH = ("/usr/local/sbin", "/usr/sbin")


def _challenge_class():
    """What the CA's offers of TLS-ALPN-01 become.

    acme had such a class until 5.0, and another plugin may have brought one: it is taken, for there
    is one class per type. Only what all key authorization challenges have is used of it. acme 2.1's
    own certificate is that of a draft; the one that acme-steer makes is not.
    """
    known = challenges.Challenge.TYPES.get(TYPE)
    if known:
        return known

    @challenges.ChallengeResponse.register
    class TLSALPN01Response(challenges.KeyAuthorizationChallengeResponse):
        """That the challenge may be validated now."""
        typ = TYPE

    @challenges.Challenge.register
    class TLSALPN01(challenges.KeyAuthorizationChallenge):
        """The challenge of RFC 8737."""
        response_cls = TLSALPN01Response
        typ = TYPE

        def validation(self, account_key, **_kwargs):
            """The digest that goes into the certificate."""
            return hashlib.sha256(self.key_authorization(account_key).encode()).digest()

    return TLSALPN01


TLSALPN01 = _challenge_class()


def _name(achall):
    """The name or IP address that is validated: certbot 5.3 has .identifier, those before .domain."""
    identifier = getattr(achall, "identifier", None)
    return identifier.value if identifier is not None else achall.domain


def _digest(achall):
    key_authorization = achall.chall.key_authorization(achall.account_key)
    return hashlib.sha256(key_authorization.encode()).hexdigest()


class Authenticator(common.Plugin, interfaces.Authenticator):
    """Has challenges answered by acme-steer."""

    description = "Answer TLS-ALPN-01 on port 443 beside the running web server (acme-steer)"

    @classmethod
    def add_parser_arguments(cls, add):
        add("command", metavar="FILE", default="acme-steer",
            help="The acme-steer program, if it is not in PATH or /usr/local/sbin.")

    def more_info(self):
        return ("While the CA validates, acme-steer answers its connections to port 443, and the web "
                "server gets all others. Neither is the web server stopped nor its configuration changed.")

    def prepare(self):
        if not self._program():
            raise errors.NoInstallationError(
                f"{self.conf('command')} is not there or can't be executed; "
                f"see --{self.option_name('command')}")

    def get_chall_pref(self, _identifier):
        return [TLSALPN01]

    def perform(self, achalls):
        for achall in achalls:
            self._challenge("add", "--ttl", TTL, _name(achall), _digest(achall))
        return [achall.response(achall.account_key) for achall in achalls]

    def cleanup(self, achalls):
        for achall in achalls:
            try:
                self._challenge("remove", _name(achall))
            except errors.PluginError as error:
                # The certificate is there or not there all the same, and a challenge ends by itself.
                logger.warning("%s", error)

    def auth_hint(self, failed_achalls):
        return ("The CA did not get the answer of acme-steer on port 443. Do the names point to this host, "
                "and does nothing in front of it end TLS? Another host behind the same name can't answer.")

    def _program(self):
        path = os.pathsep.join((os.environ.get("PATH", os.defpath), *MORE_PATH))
        return shutil.which(self.conf("command"), path=path)

    def _challenge(self, *arguments):
        argv = [self._program() or self.conf("command"), "challenge", *arguments]
        try:
            done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, timeout=COMMAND_TIMEOUT_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise errors.PluginError(f"{argv[0]}: {error}") from error
        said = done.stdout.decode(errors="replace").strip()
        if done.returncode:
            raise errors.PluginError(
                said or f"{' '.join(argv[:3])}: exit code {done.returncode}")
        logger.debug("%s: %s", " ".join(argv), said)
