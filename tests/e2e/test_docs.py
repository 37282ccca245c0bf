# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""The pages of docs/: links lead somewhere, quoted output is the program's, no module is forgotten, options exist."""

import collections
import re
import subprocess

import pytest

from documented import ROOT
from steer import BINARY

pytestmark = pytest.mark.needs_steer

PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "deploy" / "README.md",
                *(ROOT / "docs").glob("*.md")])
TROUBLE = ROOT / "docs" / "troubleshooting.md"


def anchors(page):
    """Of its headings, as forges make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        if path.startswith("https:"):
            continue
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


def test_all_pages_are_linked():
    for page in (ROOT / "docs").glob("*.md"):
        assert f"(docs/{page.name})" in (ROOT / "README.md").read_text(), page


def literals():
    """Regular expressions for all that the program can say."""
    found = []
    for source in sorted((ROOT / "user").glob("*.c")):
        text = re.sub(r"/\*.*?\*/", "", source.read_text(), flags=re.S)
        for chain in re.findall(r'"(?:[^"\\\n]|\\.)*"(?:\s*(?:RELAYED\b|"(?:[^"\\\n]|\\.)*"))*', text):
            chain = chain.replace("RELAYED", '"; connections are relayed instead"')
            words = "".join(re.findall(r'"((?:[^"\\\n]|\\.)*)"', chain)).replace('\\"', '"')
            for line in words.split("\\n"):
                parts = re.split(r"%[-.*0-9]*(?:z|ll|l)?[sdux]", said(line))
                if len(re.sub(r"\W", "", line)) >= 8:
                    found.append(re.compile(".+".join(map(re.escape, parts))))
    return found


def said(line):
    """What of a quoted line is the finding or the remedy."""
    line = line.strip()
    line = re.sub(r"^(ok|warn|fail) +", "", line)
    line = re.sub(r"^(\[[0-9a-f:]+\]|[0-9.]+):443 +|^[a-z-]+ {2,}", "", line)
    return re.sub(r"^(->|or) ", "", line)


def test_quoted_output_is_the_programs():
    known = literals()
    quoted = [line for block in re.findall(r"^```text\n(.*?)^```$", TROUBLE.read_text(), re.M | re.S)
              for line in block.splitlines()]
    assert len(quoted) > 60
    for line in quoted:
        # A listener is described by words that are put together.
        text = said(line)
        assert any(expression.fullmatch(text) for expression in known), line


def test_every_module_has_its_line():
    page = (ROOT / "docs" / "architecture.md").read_text()
    table = page.split("## The modules of user/")[1].split("\n## ")[0]
    named = collections.Counter(re.findall(r"`(\w+\.c)`", table))
    assert set(named) == {source.name for source in (ROOT / "user").glob("*.c")}
    assert set(named.values()) == {1}
    for path in re.findall(r"`((?:user|bpf|tests|static)/[\w./]*)`", page):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_exist(page):
    """Each verb and option of acme-steer in a page is one that it has."""
    text = re.sub(r"\\\n\s*", " ", page.read_text())
    for verb, rest in re.findall(r"acme-steer (run|open|close|challenge|status|doctor|probe|serve)\b([^\n`|]*)", text):
        helped = subprocess.run([BINARY, verb, "--help"], capture_output=True, text=True, check=True).stdout
        ours = re.split(" -- |'", rest)[0]
        for option in re.findall(r"(?<=\s)--([a-z][a-z-]+)", ours):
            assert f"--{option}" in helped, (verb, rest)


def test_drawings(tmp_path):
    """They can be drawn, and are shown."""
    pages = "".join(page.read_text() for page in (ROOT / "docs").glob("*.md"))
    for drawing in (ROOT / "docs" / "img").glob("*.svg"):
        done = subprocess.run(["rsvg-convert", "--output", tmp_path / "drawing.png", drawing], capture_output=True, text=True, check=False)
        assert done.returncode == 0 and not done.stderr, done.stderr
        assert f"(img/{drawing.name})" in pages
