"""What ``replicator gaps`` prints of the sidecar's answers, line by line.

Guarantee: an answer that is not as expected raises KeyError, TypeError, ValueError or AttributeError. Nothing here
asks or prints; control characters are the caller's matter.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from replicator.status.json_form import seconds_text, time_text

Answer = dict[str, Any]


def open_lines(answer: Answer) -> Iterator[str]:
    """The open gaps, and what to do about the worst of them."""
    gaps = answer["gaps"]
    if (halted := answer["halted"]) is not None:
        yield f"strand {answer['strand']} is halted: {halted['message']} [{halted['reason']}]"
        yield f"What to do about that: {halted['cure']}"
    if not gaps:
        yield f"strand {answer['strand']}: no gap is open"
        return
    count = "1 gap is" if len(gaps) == 1 else f"{len(gaps):,} gaps are"
    yield f"strand {answer['strand']}: {count} open, {answer['held_entries']:,} blocks wait"
    for gap in gaps:
        yield f"  {_gap_line(gap)}"
    worst = max(gaps, key=lambda gap: ("open", "requested", "expired").index(gap["state"]))
    yield f"What to do about {_span(worst)}, which is {worst['state']}: {worst['cure']}"


def explained_lines(answer: Answer) -> Iterator[str]:
    """One gap, or how it was closed."""
    if (gap := answer["gap"]) is not None:
        yield _gap_line(gap)
        yield f"{gap['meaning']}. The window is {seconds_text(answer['window_seconds'])}."
        yield f"What to do: {gap['cure']}"
        return
    if not answer["certificates"]:
        yield f"sequence {answer['sequence']:,} is not missing, and no certificate tells that it ever was"
    for certificate in answer["certificates"]:
        yield _certificate_line(certificate)


def closed_lines(answer: Answer, sequence: int | None) -> Iterator[str]:
    """The certificates, those of one sequence if it is given."""
    certificates = [
        one for one in answer["certificates"] if sequence is None or one["first"] <= sequence <= one["last"]
    ]
    if not certificates:
        yield f"strand {answer['strand']}: no gap that was asked for has been closed"
    for certificate in certificates:
        yield _certificate_line(certificate)


def late_lines(answer: Answer) -> Iterator[str]:
    """The late blocks that nobody has settled."""
    if not answer["late"]:
        yield f"strand {answer['strand']}: no late block"
    for one in answer["late"]:
        what = f"sequence {one['sequence']:,}, {time_text(one['committed_at'])}, {one['bytes']:,} bytes"
        yield f"late {one['number']:d}: {what}, {one['hash']}"


def _gap_line(gap: Answer) -> str:
    asked = {0: "not asked for yet", 1: "asked for once"}.get(gap["requests"], f"asked for {gap['requests']:,} times")
    missing = f"{gap['missing']:,} missing, " if gap["missing"] != gap["last"] - gap["first"] + 1 else ""
    return f"{_span(gap)}  {gap['state']}, {missing}open for {seconds_text(gap['age_seconds'])}, {asked}"


def _certificate_line(one: Answer) -> str:
    took = seconds_text((one["closed_at"] - one["opened_at"]) / 1e6)
    what = (
        f"{time_text(one['closed_at'])}  {_span(one)}  {one['how']} after {took}, asked for {one['requests']:,} times"
    )
    if one["how"] == "waived":
        return f"{what}, by {one['who']}: {one['why']}"
    known = {"links": "every block names the hash of the one before"}.get(one["known_by"], one["known_by"])
    return f"{what}; known by: {known}"


def _span(gap: Answer) -> str:
    first, last = f"{gap['first']:,}", f"{gap['last']:,}"
    return first if first == last else f"{first} to {last}"
