"""With three regions or more the odd one out is named, the primary included, also where no journal can tell."""

from __future__ import annotations

from replicator.format.position import genesis
from replicator.verify.check import Verdict
from replicator.verify.compare import Difference, TableResult, Values
from replicator.verify.diagnosis import Diagnosis
from replicator.verify.evidence import Evidence
from replicator.verify.vote import vote

UNKNOWN = Diagnosis((), None, None, "not known")


def verdict(replica: str, mine: Values | None, theirs: Values | None, known: bool = False) -> Verdict:
    differences = []
    if mine != theirs:
        difference = Difference("t", {"id": "1"}, mine, theirs, UNKNOWN, Evidence(known), b"1")
        differences.append(difference)
    return Verdict("primary", replica, genesis("main"), [TableResult("t", 1, 1, len(differences), differences)])


def odd(verdicts: list[Verdict]) -> list[tuple[str, ...]]:
    return [
        difference.diagnosis.odd
        for verdict in vote(verdicts)
        for table in verdict.tables
        for difference in table.differences
        if difference.diagnosis is not None
    ]


A: Values = {"id": "1", "v": "a"}
B: Values = {"id": "1", "v": "b"}


def test_the_replica_that_stands_alone_is_named() -> None:
    assert odd([verdict("tokyo", A, A), verdict("lima", A, B)]) == [("lima",)]


def test_the_primary_that_stands_alone_is_named() -> None:
    assert odd([verdict("tokyo", A, B), verdict("lima", A, B)]) == [("primary",), ("primary",)]


def test_two_regions_or_three_opinions_decide_nothing() -> None:
    assert odd([verdict("tokyo", A, B)]) == [()]
    assert odd([verdict("tokyo", A, B), verdict("lima", A, None)]) == [(), ()]


def test_where_the_journal_can_tell_nobody_votes() -> None:
    assert odd([verdict("tokyo", A, B, known=True), verdict("lima", A, B)])[0] == ()
