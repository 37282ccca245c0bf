# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""The authenticator with the certbot that is installed, and as with a certbot 5."""

import hashlib
import importlib
import pathlib
import sys
import types

import josepy
import pytest
from acme import challenges, messages
from certbot import errors, interfaces
from certbot._internal import auth_handler
from cryptography.hazmat.primitives.asymmetric import ec

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import certbot_acme_steer  # noqa: E402  pylint: disable=wrong-import-position

TOKEN = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA"


def offer(kind, token=TOKEN):
    """What a CA sends of a challenge."""
    return messages.ChallengeBody.from_json(
        {"type": kind, "url": f"https://ca.example.test/{kind}", "status": "pending", "token": token})


@pytest.fixture(scope="module")
def account_key():
    return josepy.JWKEC(key=ec.generate_private_key(ec.SECP256R1()))


@pytest.fixture(params=["as installed", "certbot 5"])
def plugin(request, monkeypatch):
    """The plugin's module, loaded with acme as it is, and with an acme that has no TLS-ALPN-01."""
    for base in (challenges.Challenge, challenges.ChallengeResponse):
        known = dict(base.TYPES)
        if request.param == "certbot 5":
            known.pop("tls-alpn-01", None)
        monkeypatch.setattr(base, "TYPES", known)
    if request.param == "certbot 5":
        monkeypatch.delattr(challenges, "TLSALPN01", raising=False)
        monkeypatch.delattr(challenges, "TLSALPN01Response", raising=False)
    module = importlib.reload(certbot_acme_steer)
    own = module.TLSALPN01.__module__ == module.__name__
    assert own or request.param == "as installed"
    return module


class Program:
    """Stands in for acme-steer: writes its arguments down, and fails for a name "bad.*"."""

    def __init__(self, directory):
        self.file = directory / "acme-steer"
        self.log = directory / "log"
        self.file.write_text(f"""#!/bin/sh
echo "$*" >>{self.log}
case "$*" in *bad.*) echo "acme-steer: challenge: no" >&2; exit 1 ;; esac
echo done
""")
        self.file.chmod(0o755)

    def calls(self):
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def program(tmp_path):
    return Program(tmp_path)


@pytest.fixture
def authenticator(plugin, program):
    config = types.SimpleNamespace(acme_steer_command=str(program.file))
    return plugin.Authenticator(config, "acme-steer")


def annotated(account_key, name, new=None, token=TOKEN):
    """A challenge as certbot hands it to an authenticator; with .identifier, or .domain, alone."""
    challb = offer("tls-alpn-01", token)
    achall = types.SimpleNamespace(challb=challb, chall=challb.chall, account_key=account_key,
                                   response=challb.chall.response)
    if new:
        achall.identifier = messages.Identifier(
            typ=messages.IDENTIFIER_FQDN, value=name)
    else:
        achall.domain = name
    return achall


def key_authorization(account_key, token=TOKEN):
    return token + "." + josepy.b64encode(account_key.thumbprint()).decode()


def test_is_an_authenticator(authenticator):
    assert isinstance(authenticator, interfaces.Authenticator)
    assert authenticator.description and authenticator.more_info()


def test_offer_becomes_our_class(plugin, authenticator):
    """certbot chooses among the CA's offers by class."""
    offers = [offer("http-01"), offer("dns-01"), offer("tls-alpn-01")]
    assert type(offers[2].chall) is plugin.TLSALPN01
    assert isinstance(offers[2].chall, challenges.KeyAuthorizationChallenge)
    preferred = authenticator.get_chall_pref("www.example.test")
    if "combinations" in auth_handler.gen_challenge_path.__code__.co_varnames[:3]:
        path = auth_handler.gen_challenge_path(offers, preferred, ((0,), (1,), (2,)))
    else:
        path = auth_handler.gen_challenge_path(offers, preferred)
    assert tuple(path) == (2,)


def test_certbot_annotates_it(plugin, account_key):
    """certbot's own way from an offer to what perform() gets."""
    name = "www.example.test"
    code = auth_handler.challb_to_achall.__code__
    if "identifier" in code.co_varnames[:code.co_argcount]:
        name = messages.Identifier(typ=messages.IDENTIFIER_FQDN, value=name)
    achall = auth_handler.challb_to_achall(offer("tls-alpn-01"), account_key, name)
    assert plugin._name(achall) == "www.example.test"
    assert plugin._digest(achall) == hashlib.sha256(
        key_authorization(account_key).encode()).hexdigest()
    assert achall.response(account_key).key_authorization == key_authorization(account_key)


@pytest.mark.parametrize("new", [False, True], ids=["domain", "identifier"])
@pytest.mark.parametrize("name", ["www.example.test", "198.51.100.1", "2001:db8:443::1"])
def test_perform_and_cleanup(authenticator, program, account_key, name, new):
    achalls = [annotated(account_key, name, new),
               annotated(account_key, "b.example.test", new, "b" * 43)]
    responses = authenticator.perform(achalls)
    digests = [hashlib.sha256(key_authorization(account_key, token).encode()).hexdigest()
               for token in (TOKEN, josepy.b64encode(achalls[1].chall.token).decode())]
    assert program.calls() == [f"challenge add --ttl 30m {name} {digests[0]}",
                               f"challenge add --ttl 30m b.example.test {digests[1]}"]
    assert len(responses) == 2
    assert all(isinstance(response, challenges.KeyAuthorizationChallengeResponse)
               for response in responses)
    authenticator.cleanup(achalls)
    assert program.calls()[2:] == [f"challenge remove {name}", "challenge remove b.example.test"]


def test_response_says_nothing_to_the_ca(authenticator, account_key):
    """The key authorization is the CA's to know already (RFC 8555 section 7.5.1)."""
    response, = authenticator.perform([annotated(account_key, "www.example.test")])
    assert "keyAuthorization" not in response.to_json()


def test_failing_add_is_told(authenticator, account_key):
    with pytest.raises(errors.PluginError, match="acme-steer: challenge: no"):
        authenticator.perform([annotated(account_key, "bad.example.test")])


def test_failing_remove_breaks_nothing(authenticator, program, account_key):
    authenticator.cleanup([annotated(account_key, "bad.example.test"),
                           annotated(account_key, "www.example.test")])
    assert program.calls() == ["challenge remove bad.example.test",
                               "challenge remove www.example.test"]


def test_program_that_is_not_there(authenticator, program, account_key):
    authenticator.prepare()
    program.file.unlink()
    with pytest.raises(errors.NoInstallationError, match="acme-steer-command"):
        authenticator.prepare()
    with pytest.raises(errors.PluginError):
        authenticator.perform([annotated(account_key, "www.example.test")])


def test_program_that_hangs(plugin, authenticator, program, account_key, monkeypatch):
    program.file.write_text("#!/bin/sh\nexec tail -f /dev/null\n")
    monkeypatch.setattr(plugin, "COMMAND_TIMEOUT_S", 0.2)
    with pytest.raises(errors.PluginError, match="timed out"):
        authenticator.perform([annotated(account_key, "www.example.test")])


def test_option():
    options = {}
    certbot_acme_steer.Authenticator.add_parser_arguments(
        lambda name, **kwargs: options.update({name: kwargs}))
    assert options["command"]["default"] == "acme-steer"
