"""Several replicas compared with one primary: where no journal can tell who is wrong, the regions vote.

Guarantee: a region is named only if more than half of all regions, the primary included, show another row for that key.
The comparisons may be of different positions; a key that changed in between is judged as each comparison saw it. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

from replicator.format.canonical import line_of
from replicator.verify.check import Verdict
from replicator.verify.compare import Difference, Values
from replicator.verify.diagnosis import diagnose
from replicator.verify.evidence import Evidence

Name = tuple[str, str]  # a table, and a key as text


def vote(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts, in which differences that the journal could not judge name the odd regions, if a vote does."""
    differences = [
        {_name(difference): difference for table in verdict.tables for difference in table.differences}
        for verdict in verdicts
    ]
    return [_judged(verdict, verdicts, differences) for verdict in verdicts]


def _judged(verdict: Verdict, verdicts: Sequence[Verdict], differences: Sequence[dict[Name, Difference]]) -> Verdict:
    tables = []
    for table in verdict.tables:
        judged = [_voted(difference, verdict.primary, verdicts, differences) for difference in table.differences]
        tables.append(table._replace(differences=judged))
    return Verdict(verdict.primary, verdict.replica, verdict.position, tables)


def _voted(
    difference: Difference, primary: str, verdicts: Sequence[Verdict], differences: Sequence[dict[Name, Difference]]
) -> Difference:
    if (difference.evidence is not None and difference.evidence.known) or not difference.key:
        return difference
    lines = {primary: _line(difference.primary)}
    for verdict, of_verdict in zip(verdicts, differences, strict=True):
        its_difference = of_verdict.get(_name(difference))  # a replica that is not listed shows what the primary shows
        lines[verdict.replica] = _line(difference.primary if its_difference is None else its_difference.replica)
    return difference._replace(diagnosis=diagnose(lines, difference.evidence or Evidence(known=False)))


def _name(difference: Difference) -> Name:
    return difference.table, line_of(list(difference.key.values())).decode()


def _line(row: Values | None) -> bytes | None:
    return None if row is None else line_of([row[name] for name in sorted(row)])
