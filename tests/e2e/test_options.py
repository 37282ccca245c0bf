# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""What --help lists, the manual page and the completions have: no option more, and none less."""

import re
import subprocess

import pytest

from documented import ROOT
from steer import BINARY

pytestmark = pytest.mark.needs_steer

COMPLETION = ROOT / "deploy" / "completion"


def output(*argv, **kwargs):
    done = subprocess.run([str(word) for word in argv], capture_output=True, text=True, timeout=30,
                          check=False, **kwargs)
    assert done.returncode == 0 and not done.stderr, (argv, done)
    return done.stdout


def help_verbs():
    return re.findall(r"^  ([a-z]+) +\S", output(BINARY, "--help"), re.M)


VERBS = help_verbs() if BINARY.exists() else ["none"]


def help_options(verb):
    """Long options at the beginning of help's lines."""
    text = output(BINARY, verb, "--help")
    starts = re.findall(r"^ +((?:-\w, )?--[a-z-]+(?:, --[a-z-]+)*)", text, re.M)
    return {name for start in starts for name in re.findall(r"--([a-z-]+)", start)}


def man_options(verb):
    """Of the verb's parts of the manual page, and of its lines in the synopsis."""
    page = (ROOT / "deploy" / "man" / "acme-steer.8").read_text()
    synopsis = page.split("\n.Sh SYNOPSIS\n")[1].split("\n.Sh ")[0]
    parts = [block for block in synopsis.split(".Nm\n") if re.match(rf"\.Cm {verb}\b", block)]
    for name, part in re.findall(r"^\.Ss acme-steer (\w+)(.*?)(?=^\.S[sh] )", page, re.S | re.M):
        if name == verb or (verb == "run" and name == "open"):
            parts.append(part)
    found = {"help"} if re.search(r"^\.It Fl h , -help$", page, re.M) else set()
    for line in "".join(parts).splitlines():
        found |= set(re.findall(r"Fl -([a-z][a-z-]+)", line))
        if line.startswith(".It Fl"):
            found |= set(re.findall(r" -([a-z][a-z-]+)", line))
    return found


def bash(*words):
    """What bash offers for the last of these words."""
    script = (f'source {COMPLETION}/acme-steer.bash; COMP_WORDS=(acme-steer "$@"); '
              'COMP_CWORD=$#; _acme_steer; printf "%s\\n" "${COMPREPLY[@]}"')
    return set(output("bash", "-c", script, "bash", *words).split())


def zsh_specs(*words):
    """What is given to zsh's own functions, which then offer it."""
    script = ("compdef() { }; _describe() { print -rl -- ${(P)4} }; _arguments() { print -rl -- $@ }; "
              "words=(acme-steer $@); CURRENT=$(( $# + 1 )); "
              f". {COMPLETION}/acme-steer.zsh")
    return output("zsh", "-f", "-c", script, "zsh", *words).splitlines()


def zsh(*words):
    return {match[1] for match in (re.match(r"(?:\([^)]*\)|\*)*--([a-z-]+)[=\[]", line)
                                   for line in zsh_specs(*words)) if match}


def fish(*words):
    """What fish offers for the last of these words."""
    line = " ".join(("acme-steer", *words))
    script = f"source {COMPLETION}/acme-steer.fish; complete -C {line!r}"
    return {offer.split("\t")[0] for offer in output("fish", "--no-config", "-c", script).splitlines()}


def long_options(offers):
    return {offer[2:].rstrip("=") for offer in offers if offer.startswith("--")}


@pytest.mark.parametrize("verb", VERBS)
def test_manual_page(verb):
    assert man_options(verb) == help_options(verb)


@pytest.mark.parametrize("verb", VERBS)
def test_help_says_how_it_ends(verb):
    text = output(BINARY, verb, "--help")
    assert text.startswith(f"Usage: acme-steer {verb} ") and "\nExit codes: " in text
    assert len({line.index("--") for line in text.splitlines() if re.match(r" +--", line)}) == 1


@pytest.mark.parametrize("verb", VERBS)
def test_bash(verb):
    assert long_options(bash(verb, "--")) == help_options(verb)


@pytest.mark.parametrize("verb", VERBS)
def test_zsh(verb):
    assert zsh(verb, "--") == help_options(verb)


@pytest.mark.parametrize("verb", VERBS)
def test_fish(verb):
    assert long_options(fish(verb, "--")) == help_options(verb)


def test_verbs():
    verbs = set(VERBS)
    page = (ROOT / "deploy" / "man" / "acme-steer.8").read_text()
    listed = page.split("The verbs are:")[1].split(".El")[0]
    assert set(re.findall(r"^\.It Cm (\w+)$", listed, re.M)) == verbs
    assert bash("") == bash("help", "") == verbs | {"help"}
    assert {spec.split(":")[0] for spec in zsh_specs("") if not spec.startswith("-")} == verbs | {"help"}
    assert fish("''") == verbs | {"help"}
    assert bash("--") == {"--help", "--version"} <= fish("--")


def test_values():
    planes = {"auto", "handoff", "relay"}
    assert bash("open", "--plane", "") == bash("open", "--plane", "=", "") == planes
    assert bash("open", "--plane", "=") == planes
    assert bash("open", "--plane", "=", "re") == bash("challenge", "add", "--plane", "re") == {"relay"}
    assert fish("open", "--plane", "''") == planes
    assert {f"--plane={plane}" for plane in planes} <= fish("open", "--plane=")
    ways = {"none", "transparent", "proxy-v1", "proxy-v2"}
    assert bash("run", "--client-ip", "") == fish("run", "--client-ip", "''") == ways
    for words in (("challenge", "add"), ("challenge", "list")):
        assert words[1] in bash("challenge", words[1][0]) & fish("challenge", words[1][0])
    # Not every option has values that could be known.
    assert bash("open", "--name", "") == set()


def test_command_of_run():
    assert "nsenter" in bash("run", "--ttl", "=", "5m", "--", "nsent")
    assert "nsenter" in fish("run", "--", "nsent")


def test_version():
    first, *rest = output(BINARY, "--version").splitlines()
    assert re.fullmatch(r"acme-steer \d+\.\d+\.\d+", first)
    built, runs = rest
    assert re.fullmatch(r"built with: gcc \S+, clang \S+, libbpf \d+\.\d+, OpenSSL \d+\.\d+\.\d+, "
                        r"json-c \d+\.\d+", built), built
    assert re.fullmatch(r"runs with:  libbpf \d+\.\d+, OpenSSL \d+\.\d+\.\d+, json-c \d+\.\d+", runs), runs
    assert output(BINARY, "-V").splitlines()[0] == first
