# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""The lines that deploy/README.md tells people to copy, so that the tests run those and no others."""

import pathlib
import re
import shlex

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = ROOT / "deploy" / "README.md"
HOOKS = "/usr/local/share/acme-steer/hooks"
NAME = "www.example.org"


def snippets(heading):
    """The code blocks under a heading of the page."""
    section = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", PAGE.read_text(), re.M | re.S)
    assert section, f"{PAGE} has no section {heading}"
    return re.findall(r"^```\w+\n(.*?)^```$", section[1], re.M | re.S)


def command(heading, words, names=(), after=None, hooks=HOOKS):
    """The argv of the page's line that has these words.

    names: in place of the page's; an option before the name is repeated with each
    after: {"word": [what to put after it]}, by the last part of a path
    hooks: where they are installed
    """
    lines = [line for text in snippets(heading) for line in text.splitlines() if words in line]
    assert len(lines) == 1, f"{heading}: {len(lines)} lines with {words}"
    argv = []
    for word in shlex.split(local(lines[0], hooks)):
        if word == NAME and argv[-1].startswith("-"):
            option = argv.pop()
            argv += [each for name in names for each in (option, name)]
        elif word == NAME:
            argv += names
        else:
            argv.append(word)
        argv += (after or {}).get(word.rsplit("/", 1)[-1], [])
    return argv


def local(text, hooks):
    """The page's text with the hooks where they are, and a domain that the CA takes mail of."""
    return text.replace(HOOKS, str(hooks)).replace("admin@example.org", "admin@example.test")
