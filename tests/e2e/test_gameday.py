"""A short game day in every test run, and the checkers' own: they find what was not true."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.gameday.bank import ACCOUNTS, OPENING, Books, Receipt, alternations, reused_numbers
from tests.e2e.gameday.claims import Claim, lies, two_writers
from tests.e2e.gameday.day import GameDay
from tests.e2e.gameday.probes import Sight


def test_a_short_day_has_no_violation(tmp_path: Path) -> None:
    """A fault within the first copy, then a lost region and a line to the lease store that is cut."""
    lines: list[str] = []
    day = GameDay(tmp_path, 5, 1, lines.append, ["kill_region", "cut_from_etcd"])
    day.day(2)
    story = "\n".join(lines)
    assert not day.violations, story
    assert day.rounds == 2, story
    assert day.acknowledged, story


def receipt(ordinal: int, heard: float, region: str = "paris", number: int | None = None) -> Receipt:
    return Receipt(f"t-{ordinal}", "t", ordinal, region, number or ordinal, heard - 0.1, heard)


def sight(at: float, done: int | None, *, writes: bool = False) -> Sight:
    return Sight(at, at + 0.1, writes, None if done is None else {"t": done})


def test_claims_are_held_against_what_was_seen() -> None:
    receipts = [receipt(number, float(number)) for number in range(1, 31)]
    kept = frozenset(each.request for each in receipts)
    frozen = {"lima": [sight(float(at), 5) for at in range(40)]}
    fresh = Claim("lima", "fresh", "lag", 20.0, 20.1, 1.0)
    assert "t-15, acknowledged 5.0 s ago, is not there" in lies([fresh], frozen, receipts, kept)[0]
    assert not lies([fresh._replace(seconds=30.0)], frozen, receipts, kept)
    assert not lies([fresh], frozen, receipts, frozenset()), "what was lost and sealed is nobody's to show"
    dead = {"lima": [sight(float(at), None) for at in range(40)]}
    assert lies([fresh._replace(kind="leads")], frozen, receipts, kept)
    assert lies([fresh._replace(kind="promotable")], dead, receipts, kept)
    assert not lies([fresh._replace(kind="promotable")], frozen, receipts, kept)


def test_two_writers_are_seen() -> None:
    paris = [sight(0.0, 1, writes=True), sight(1.0, 1, writes=True), sight(2.0, 1)]
    assert two_writers({"paris": paris, "lima": [sight(0.5, 1, writes=True)]})
    assert not two_writers({"paris": paris, "lima": [sight(1.5, 1, writes=True)]})
    turns = [receipt(1, 1.0), receipt(2, 2.0, "lima"), receipt(3, 3.0), receipt(4, 4.0)]
    assert alternations(turns) == ["paris", "lima", "paris"]
    assert reused_numbers([*turns, receipt(9, 9.0, number=4)]) == [4]


def test_books_that_do_not_follow_from_transfers() -> None:
    before = [f"before {n}" for n in range(1, 51)]
    balances = dict.fromkeys(range(1, ACCOUNTS + 1), OPENING)
    assert not Books(balances, {}, before, {}).faults()
    moved = {**balances, 1: OPENING - 7, 2: OPENING + 7}
    transfers = {"t-1": (1, 1, 2, 7)}
    assert not Books(moved, transfers, [*before, "t-1"], {}).faults()
    assert len(Books(balances, transfers, before, {}).faults()) == 2
