"""The page says first whether the region is ready, shows every figure, and takes nothing from outside as HTML."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from replicator.errors import Halted
from replicator.pipeline.acknowledge import AcknowledgeView
from replicator.pipeline.feed.publish import ServedFollower
from replicator.status.model import Snapshot
from replicator.status.page import SHOWN_GAPS, page
from replicator.status.settle_view import GapView, SettleView
from replicator.transport.page_style import CONTENT_SECURITY_POLICY, CSS, SCRIPT
from replicator.verify.view import DivergentKeyView, VerifyView
from tests.status import samples

VOID = {"meta", "br", "link", "img"}


class Text(HTMLParser):
    """The text that a reader sees; fails at tags that do not match."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.text.append(data)


def read(snapshot: Snapshot) -> Text:
    reader = Text()
    reader.feed(page(snapshot))
    assert reader.open == []
    return reader


def text_of(snapshot: Snapshot) -> str:
    return " ".join(" ".join(read(snapshot).text).split())


def test_what_is_at_risk_and_who_waits_for_it_is_shown() -> None:
    snapshot = samples.healthy()
    degraded = AcknowledgeView(2, 90, True, 0, 3.0, {"lima": 90})
    amounts = {("wallets", "<EUR>"): 1234.5}
    strand = dataclasses.replace(
        snapshot.strands[0], acknowledge=degraded, at_risk_blocks=7, at_risk_amounts=amounts, at_risk_unknown=1
    )
    text = text_of(dataclasses.replace(snapshot, strands=(strand,)))
    assert "DEGRADED: writers are answered although fewer than 2 other regions have what they wrote" in text
    assert "In no other region yet: 7 blocks, 1,234.50 <EUR> of wallets, 1 changes of unknown amount" in text
    waiting = AcknowledgeView(1, 90, False, 3, 2.5, {"lima": 90})
    strand = dataclasses.replace(snapshot.strands[0], acknowledge=waiting, at_risk_blocks=0)
    text = text_of(dataclasses.replace(snapshot, strands=(strand,)))
    assert "when 1 other region has what they wrote; the oldest that it does not have waits since 2.5 s" in text
    assert "In no other region" not in text


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("healthy", ["tokyo", "ready", "104,140", "60", "follows https://paris.example:7400"]),
        (
            "quarantining",
            ["ready", "5 statements are set aside", "audit.<events> (1 key)", "replicator quarantine replay"],
        ),
        (
            "cut_off",
            ["not ready", "feed, waiting for 1 min 55 s", "connection refused", "104,191 to 104,193", "expired"],
        ),
        ("halted", ["not ready", "apply, halted for 1.0 s", "What to do: drop or rename the table", "<wallets>"]),
        ("primary", ["ready", "postgres", "0/1A2B3C4D", "16,777,216", "virginia", "104,150"]),
        ("copying", ["not ready", "120,000 of about 1,000,000 rows", "not known", "not yet"]),
    ],
)
def test_what_each_state_shows(name: str, shown: list[str]) -> None:
    text = text_of(getattr(samples, name)())
    for piece in shown:
        assert piece in text


def test_ready_comes_before_everything_else() -> None:
    text = text_of(samples.cut_off())
    assert text.index("not ready") < text.index("connection refused") < text.index("Strand main") + 200
    assert text.count("What to do") == 1


def test_nothing_from_outside_becomes_html() -> None:
    evil = "<img src=x onerror=alert(1)>&'\""
    progress = samples.healthy_progress()
    progress.halt("apply", Halted(evil, evil, place=evil, cure=evil), samples.at(1))
    snapshot = dataclasses.replace(
        samples.region(progress),
        region=evil,
        primary_url=evil,
        version=evil,
        followers=(ServedFollower(evil, evil, 1),),
    )
    reader = read(snapshot)
    assert "img" not in reader.tags
    assert evil in "".join(reader.text)


def test_divergent_keys_are_shown_and_nothing_of_them_becomes_html() -> None:
    snapshot = samples.region(samples.healthy_progress())
    wrong = DivergentKeyView("wallets<b>", "id=<i>7", 90, 88, 89, ("tokyo",), "changed by <somebody> else")
    proof = VerifyView(
        87, 2.0, divergent_keys={"wallets<b>": 3}, wrong=(wrong,), scrub_sequence=80, scrub_age_seconds=9
    )
    state = dataclasses.replace(snapshot.strands[0], verify=proof)
    text = page(dataclasses.replace(snapshot, strands=(state,)))
    assert "up to block 87; whole tables compared at 80, 9.0 s ago" in text
    assert "Divergent keys: 3 of wallets&lt;b&gt;" in text
    assert "id=&lt;i&gt;7" in text
    assert "<somebody>" not in text


def test_thousands_of_gaps_do_not_make_a_thousand_lines() -> None:
    gaps = tuple(GapView(n, n, "open", 1.0) for n in range(1, 5001))
    text = text_of(samples.region(samples.healthy_progress(), settle=SettleView(gaps=gaps)))
    assert f"and {5000 - SHOWN_GAPS:,} more" in text
    assert len(text) < 5000


@pytest.mark.parametrize("kind", ["style", "script"])
def test_the_policy_allows_exactly_what_is_inline(kind: str) -> None:
    (inline,) = re.findall(rf"<{kind}>(.*?)</{kind}>", page(samples.healthy()), re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
    assert f"{kind}-src 'sha256-{digest}'" in CONTENT_SECURITY_POLICY


def test_a_primary_whose_writes_nobody_takes_is_not_simply_ready() -> None:
    snapshot = samples.primary()
    strand = dataclasses.replace(snapshot.strands[0], at_risk_blocks=3)
    at_risk = dataclasses.replace(snapshot, strands=(strand,))
    assert "<title>paris: ready</title>" in page(at_risk)
    alone = dataclasses.replace(at_risk, followers=())
    assert "<title>paris: ready, but alone</title>" in page(alone)
    assert '<span class="state wait">ready, but alone</span>' in page(alone)
    assert "<title>paris: ready</title>" in page(dataclasses.replace(snapshot, followers=()))
    silent = dataclasses.replace(samples.clustered(), role="primary", strands=(strand,))
    assert silent.failover is not None
    for heard, words in ((0.3, "ready"), (12.0, "ready, but alone")):
        peers = tuple(dataclasses.replace(peer, seen_age_seconds=heard) for peer in silent.failover.peers)
        failover = dataclasses.replace(silent.failover, peers=peers)
        assert f"<title>tokyo: {words}</title>" in page(dataclasses.replace(silent, failover=failover))


def test_a_level_keeps_its_colour_among_the_figures() -> None:
    html = page(samples.clustered())
    assert '<b><span class="state wait">yellow</span></b>' in html
    # Only a figure's name is soft: a rule for every span in it would win over the colours of states.
    coloured = [rule for rule in re.findall(r"([^{}]+)\{([^{}]*)\}", CSS) if re.search(r"(^|[ ;])color:", rule[1])]
    assert [selector.strip() for selector, _ in coloured if "span" in selector] == [".figures div > span"]


@pytest.mark.skipif(shutil.which("node") is None, reason="no node here to run the page's script in")
def test_a_page_that_cannot_be_renewed_says_that_nothing_is_known() -> None:
    document = """
    const state = { textContent: "ready", className: "state good" };
    const shown = { "header .state": state, "h1": { textContent: "paris" } };
    globalThis.document = { getElementById: () => ({ style: {} }), querySelector: name => shown[name],
                            title: "paris: ready", hidden: false };
    globalThis.setTimeout = function_ => { globalThis.again = function_; };
    globalThis.fetch = () => Promise.reject(new Error("no sidecar"));
    """
    told = "; again().then(() => console.log(JSON.stringify([document.title, state])));"
    said = subprocess.run(["node", "-e", document + SCRIPT + told], capture_output=True, text=True, check=True).stdout
    assert json.loads(said) == ["paris: not known", {"textContent": "not known", "className": "state wait"}]
