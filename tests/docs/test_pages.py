"""The documents are true where a program can tell: generated pages, links, paths, targets, HTTP paths."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from docs.generate.__main__ import PAGES, stale
from replicator.cluster.decisions.states import TABLE, RoleEvent, RoleState
from tests.docs.pages import BESIDE, DOCS, ROOT, documents, site_pages

README_WORDS = 1_200
QUESTIONS = (
    "Where is a gap handled?",
    "How do I add a source?",
    "What happens at promotion?",
    "What is persisted where?",
    "What runs concurrently?",
    "Why is a region not ready?",
)


def test_generated_pages_are_as_the_source_says() -> None:
    assert not stale(), "make docs"


def test_the_diagram_has_every_state_and_every_event() -> None:
    drawn = PAGES["concepts/failover-states.svg"]()
    assert all(f">{state.value}<" in drawn for state in RoleState)
    events = {name for label in re.findall(r'class="event" [^>]*>([^<]+)<', drawn) for name in label.split(", ")}
    assert events == {event.name.lower() for event in RoleEvent if any(one is event for _, one in TABLE)}


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= README_WORDS


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_of_the_first_week_is_one_hop_from_the_readme(question: str) -> None:
    row = next(line for line in (ROOT / "README.md").read_text().splitlines() if question in line)
    assert re.search(r"\]\([^)]+\.md(#[^)]+)?\)", row)


@pytest.mark.parametrize("name", BESIDE)
def test_links_of_the_documents_beside_the_site_lead_somewhere(name: str) -> None:
    text = re.sub(r"^```.*?^```", "", (ROOT / name).read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        assert file.exists(), f"{name}: {target}"
        if anchor:
            assert anchor in _anchors(file.read_text()), f"{name}: {target}"


def _anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_every_page_is_in_the_navigation() -> None:
    there = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    assert there == set(site_pages())


def test_the_site_is_built_and_every_link_in_it_leads_somewhere(tmp_path: Path) -> None:
    """And nothing in it is asked of another host: no font, no script, no picture."""
    site = tmp_path / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(site)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    pages = list(site.rglob("*.html"))
    assert len(pages) >= len(site_pages())
    for page in pages:
        fetched = _Fetched()
        fetched.feed(page.read_text())
        assert not [url for url in fetched.urls if re.match(r"(https?:)?//", url)], page


class _Fetched(HTMLParser):
    """What a browser fetches by itself when it shows a page."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("script", "img", "iframe", "source") and (url := given.get("src")):
            self.urls.append(url)
        if tag == "link" and given.get("rel") != "canonical" and (url := given.get("href")):
            self.urls.append(url)


def test_paths_that_are_named_are_there() -> None:
    missing = []
    for name, text in documents().items():
        for path in re.findall(r"`((?:replicator|settle_buffer|tests|config|bench|docker)/[\w./-]*)`", text):
            if not (ROOT / path).exists():
                missing.append(f"{name}: {path}")
    assert not missing


def test_no_document_cites_a_line() -> None:
    for name, text in documents().items():
        assert not re.search(r"\.py:\d|#L\d|\blines? \d+ of\b", text), name


def test_make_targets_that_are_named_are_there() -> None:
    code = re.compile(r"(?:`|^ {4}|`[A-Z_]+=\S+ )make ([a-z][a-z-]*)", re.MULTILINE)
    named = {name for text in documents().values() for name in code.findall(text)}
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    assert {"demo", "test", "docs", "fast"} <= named
    assert not named - targets


def test_every_http_path_is_documented() -> None:
    """Each path that the source serves is in the page of the HTTP API."""
    page = (DOCS / "reference/http.md").read_text()
    served = set()
    for file in (ROOT / "replicator").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                text = node.value
                if re.fullmatch(r"(/v1|/feed/v1)(/[\w{}:-]+)+", text):
                    served.add(re.sub(r":\w+(?=})", "", text))
    assert len(served) > 35
    assert not [path for path in sorted(served) if path not in page]
