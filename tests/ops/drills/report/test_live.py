"""The report that is made of what was observed and measured, and how it is shown."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from replicator.ops.drills.plan_file import parse_plan
from replicator.ops.drills.report.form import DrillReport, canary_report, exit_code
from replicator.ops.drills.report.heading import DrillHeading
from replicator.ops.drills.report.html import page
from replicator.ops.drills.report.live import DrillEvent, FinalRegion, report_of
from replicator.ops.drills.report.text import lines
from replicator.ops.drills.rules.measures import Canary
from replicator.ops.drills.rules.observations import MarkLevel, RegionObservations, TimelineEntry
from replicator.ops.drills.rules.plan import DrillPlan
from tests.ops.drills.failover import FAILOVER


def plan(text: str) -> DrillPlan:
    return parse_plan(text, Path("plan.toml"), {})


NAME = 'lima"><script>alert(1)</script>'
LOSS = 'kind = "region_loss"\ntarget = "paris"\n[targets]\nrpo_blocks = 1\nrto = "4s"\n[fault]\ninject = ["x"]\n'


def position(sequence: int) -> str:
    return f"main:3:{sequence}:{'ab' * 32}"


@pytest.fixture
def report() -> DrillReport:
    """A failover from paris to tokyo that lost two canaries, and the way back."""
    observations = RegionObservations(0)
    observations.entries = [
        *FAILOVER[:-1],
        TimelineEntry(8.9, NAME, "following"),
        TimelineEntry(30.05, "tokyo", "demoting"),
        TimelineEntry(30.2, "paris", "primary"),
    ]
    observations.verified = {"tokyo": [MarkLevel(9.2, 60)], NAME: [MarkLevel(9.8, 60)], "paris": [MarkLevel(31.0, 90)]}
    observations.at_risk_blocks = 7
    before = [Canary(n, 4.5 + n / 20, 4.51 + n / 20, "paris", position(n)) for n in range(1, 10)]
    after = [Canary(10, 8.8, 9.0, "tokyo", position(52), 4), Canary(11, 30.2, 30.3, "paris", position(80))]
    after += [Canary(20 + n, 9.0 + n / 2, 9.0 + n / 2, "tokyo", position(52 + n)) for n in range(1, 43)]
    there = {canary.number for canary in (*before, *after)} - {8, 9}
    about = DrillHeading(
        "id-1", {"kind": "region_loss"}, "ef" * 32, {"replicator": "0.1.0"}, "2026-11-24T12:00:00.000Z"
    )
    return report_of(
        about,
        plan(LOSS),
        observations,
        [DrillEvent("event", 5.0, 30.0, "paris", "tokyo"), DrillEvent("back", 30.0, 40.0, "tokyo", "paris")],
        [*before, *after],
        canary_report(60, 0, [*before, *after]),
        [
            FinalRegion("paris", "http://paris", there, 90, position(90), "reference", {"wallets": "cd" * 32}),
            FinalRegion("tokyo", "http://tokyo", there, 90, position(90), "equal", {"wallets": "cd" * 32}, [0.1, 0.2]),
            FinalRegion(NAME, "http://lima", None, 90, "", "could not be compared: <i>away</i>"),
        ],
        leader="paris",
        ended=40.0,
        stopped="",
        failed="",
        notes=["<b>note</b>"],
    )


def test_the_report_measures_each_change(report: DrillReport) -> None:
    event, back = report.changes
    assert [step.step for step in event.steps] == [
        *("fault", "detection", "decision", "fence", "drain", "promote", "first write", "verified"),
    ]
    assert event.rto_seconds == pytest.approx(4.0)
    assert event.blocked_seconds == pytest.approx(9.0 - 4.96)
    assert [step.step for step in back.steps][:2] == ["order", "decision"]
    assert back.rto_seconds == pytest.approx(0.3)
    assert report.rto_seconds == pytest.approx(4.0)
    assert (report.rpo_blocks, report.rpo_amounts) == (2, {"EUR": 2.0})
    assert {target.name: target.met for target in report.targets} == {
        "rpo_blocks": False,
        "rto": True,
        "regions_equal": False,
        "failover": True,
    }
    assert (report.outcome, exit_code(report.outcome)) == ("missed", 1)


def test_the_report_is_of_the_form_that_is_documented(report: DrillReport) -> None:
    assert DrillReport.model_validate_json(report.model_dump_json()) == report
    assert json.loads(report.model_dump_json())["format"] == 1
    described = DrillReport.model_json_schema()
    assert set(report.model_dump()) == set(described["properties"])


def test_the_page_is_self_contained_and_shows_names_as_text(report: DrillReport) -> None:
    html = page(report)
    assert "<script" not in html
    assert "<i>" not in html
    assert "<b>note" not in html
    assert "&lt;script&gt;" in html
    for fetched in ("src=", "href=", "url(", "@import"):
        assert fetched not in html
    assert "default-src &#x27;none&#x27;" in html
    assert "prefers-color-scheme: dark" in html
    assert "not measured" in html


def test_the_picture_can_be_read_by_a_program_and_says_it_in_words(report: DrillReport) -> None:
    html = page(report)
    pictures = [f"<svg{part.split('</svg>')[0]}</svg>" for part in html.split("<svg")[1:]]
    assert len(pictures) == 2
    root = ElementTree.fromstring(pictures[0])
    assert root.attrib["role"] == "img"
    title, words = root.find("title"), root.find("desc")
    assert title is not None
    assert words is not None
    assert title.text == "tokyo takes over from paris"
    assert "fence in tokyo after 3.600 s" in str(words.text)
    assert [root.attrib["aria-labelledby"].split()[0], title.attrib["id"]] == ["p0-t", "p0-t"]
    digits = [text.text for text in root.iter("text") if text.attrib.get("class") == "digit"]
    assert digits == [str(number) for number in range(1, 9)]


def test_the_lines_end_with_the_verdict(report: DrillReport) -> None:
    told = lines(report)
    assert told[-1].startswith("missed: region loss")
    assert any(line.startswith("MISS rpo_blocks: 2 blocks, at most 1") for line in told)


def test_writers_that_were_never_interrupted_have_an_rto_of_nothing() -> None:
    steady = [Canary(n, n / 20, n / 20 + 0.01, "paris") for n in range(1, 200)]
    found = report_of(
        DrillHeading("id-2", {}, "", {}, "now"),
        plan('kind = "canary"\n[targets]\nrto = "1s"'),
        RegionObservations(0),
        [DrillEvent("event", 1.0, 9.0, "paris", "paris")],
        steady,
        canary_report(199, 0, steady),
        [FinalRegion("paris", "u", set(range(1, 200)), 1, "", "reference")],
        leader="paris",
        ended=10.0,
        stopped="",
        failed="",
        notes=[],
    )
    assert (found.rto_seconds, found.rpo_blocks, found.outcome) == (0.0, 0, "passed")
    assert found.changes[0].steps == []
