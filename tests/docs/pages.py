"""The documents as the tests read them: pages in the order of the site, and the blocks of commands in them.

Every block says in which language it is. What becomes of it goes by that, and by a comment on the line above, which
readers of the source see and readers of the page do not:

    sh      is run. ``<!-- run: HOW -->`` holds for it and all that follow on the page; HOW is ``alone``, ``after PAGE``
            (goes on where that page ends), or ``with two PostgreSQL servers, …``. ``<!-- not run: WHY -->`` is for one
            block
    sql     is run in a database of its own: ``<!-- run: in a database -->``
    toml    is read as a region's configuration, or as sections of one; json is read as JSON
    text    is no command

A block of commands that says nothing of this fails the tests: none is passed over in silence.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
BESIDE = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "settle_buffer/README.md")
LANGUAGES = frozenset({"sh", "sql", "toml", "json", "text"})
_BLOCK = re.compile(r"(?:^<!-- (run|not run): (.+?) -->\n)?^```(\S*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """A block: its language, its text, and what stands above it: ``run`` or ``not run``, and how or why."""

    language: str
    text: str
    rule: str
    words: str


def site_pages() -> list[str]:
    """The pages of the site, in its order, relative to docs/."""
    return re.findall(r"^ *- .*?([\w/.-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)


def documents() -> dict[str, str]:
    """Every document's text by its path from the root, README first."""
    paths = [ROOT / name for name in BESIDE] + [DOCS / name for name in site_pages()]
    return {str(path.relative_to(ROOT)): path.read_text() for path in paths}


def blocks(text: str) -> list[Block]:
    """The blocks of a page, in order."""
    return [Block(found[3], found[4], found[1] or "", found[2] or "") for found in _BLOCK.finditer(text)]


def sessions() -> dict[str, tuple[str, str]]:
    """What is run in one go, by the page that begins it: how, and the whole script."""
    found: dict[str, tuple[str, str]] = {}
    for name, text in documents().items():
        how = ""
        for block in blocks(text):
            if block.language != "sh" or block.rule == "not run":
                continue
            how = block.words if block.rule == "run" else how
            assert how, f"{name}: a block says neither how it is run nor why not:\n{block.text}"
            begins = f"docs/{how.removeprefix('after ')}" if how.startswith("after ") else name
            kind, script = found.get(begins, (how, ""))
            found[begins] = (kind, script + block.text)
    return found
