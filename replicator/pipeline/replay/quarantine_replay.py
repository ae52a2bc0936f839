"""What was set aside, tried again once its cause is cured, or given up.

Guarantee: the statements of a key are done together or not at all, in one transaction with the note that they were; a
dry run does the same and takes it back. The position stays as it is: everything that came before it and is not set
aside is applied already, and whatever came later on those keys is set aside behind them.

They are done as their net effect, as a batch is: a state in between that the replica would refuse is no obstacle. Keys
that a statement ties together (a changed key) are one *group*; so is a table that waits as a whole. All calls block;
they belong between two steps of replay (``Replay.between_steps``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from replicator.errors import Corrupt, Halted, Rejected
from replicator.format.definition import Definition
from replicator.format.statement import unpack_statements
from replicator.pipeline.replay.blocked_keys import UNREADABLE, Key, touched_by
from replicator.pipeline.replay.planner import Planner
from replicator.pipeline.replay.quarantine import MESSAGE_LIMIT_CHARACTERS, is_curable
from replicator.pipeline.replay.row_translation import RowTranslation
from replicator.pipeline.replicas.base import AppliedMark, Replica, Step
from replicator.pipeline.replicas.quarantine import Place, QuarantineClosing, QuarantinedStatement


class GroupFilter(NamedTuple):
    """Which groups: of this table (its label), and with one of these keys; all if not given."""

    table: str | None = None
    keys: tuple[Key, ...] = ()


class ReplayOutcome(NamedTuple):
    """A group that was tried. ``outcome`` is replayed or refused; then ``reason`` and ``message`` say why."""

    table: str
    keys: list[Key]
    places: list[Place]
    outcome: str
    reason: str = ""
    message: str = ""


Group = list[QuarantinedStatement]


def groups(statements: Sequence[QuarantinedStatement], definitions: Mapping[int, Definition]) -> list[Group]:
    """The statements by what has to be done together, each group in order; groups by their first statement. Pure."""
    touches = [touched_by(definitions.get(one.relation), one) for one in statements]
    whole = {one.name for one, what in zip(statements, touches, strict=True) if what.whole}
    found: list[Group] = []
    group_of: dict[tuple[Any, ...], Group] = {}
    for one, what in zip(statements, touches, strict=True):
        ties: list[tuple[Any, ...]] = [(one.name,)] if one.name in whole else [(one.name, key) for key in what.keys]
        tied = [group_of[tie] for tie in ties if tie in group_of]
        group = tied[0] if tied else []
        for other in tied[1:]:
            if other is not group:
                group += other
                group_of.update({tie: group for tie, its in group_of.items() if its is other})
                found = [kept for kept in found if kept is not other]
        if not tied:
            found.append(group)
        group.append(one)
        group_of.update(dict.fromkeys(ties, group))
    for group in found:
        group.sort(key=lambda one: one.place)
    return sorted(found, key=lambda group: group[0].place)


def wanted_groups(wanted: GroupFilter, found: Sequence[Group]) -> list[Group]:
    """Those of the groups that are asked for. Raises Rejected if none is."""
    chosen = [
        group
        for group in found
        if wanted.table in (None, group[0].label)
        and (not wanted.keys or any(key in wanted.keys for key in _keys(group)))
    ]
    if not chosen and wanted != GroupFilter():
        place = f"table {wanted.table}" if wanted.table else "quarantine"
        cure = "see replicator quarantine; keys are written as it shows them"
        raise Rejected("nothing_held", "nothing of this is set aside", status=404, place=place, cure=cure)
    return chosen


def _keys(group: Group) -> list[Key]:
    return list(dict.fromkeys(key for one in group for key in (one.key, one.key_before) if key is not None))


def replay(
    replica: Replica, applied: AppliedMark, wanted: GroupFilter, closing: QuarantineClosing | None
) -> list[ReplayOutcome]:
    """Try the groups that are asked for; with ``closing`` for good, without it as a dry run. Raises Rejected,
    Unavailable, or Halted for what lies not with the statements."""
    strand = applied.position.strand
    read = replica.definitions(strand)
    chosen = wanted_groups(wanted, groups(replica.quarantine().open(strand), read))
    replica.begin()
    tried = [_try(replica, strand, group, closing, read) for group in chosen]
    if closing is None:
        replica.rollback()
    else:
        replica.commit(applied)
    return tried


def _try(
    replica: Replica, strand: str, group: Group, closing: QuarantineClosing | None, read: Mapping[int, Definition]
) -> ReplayOutcome:
    told = ReplayOutcome(group[0].label, _keys(group), [one.place for one in group], "replayed")
    try:
        replica.attempt(strand, _plan(replica, strand, group, read))
    except Halted as error:
        if not is_curable(error) and error.reason not in _FOLLOWING:
            raise
        return told._replace(outcome="refused", reason=error.reason, message=error.message[:MESSAGE_LIMIT_CHARACTERS])
    if closing is not None:
        replica.quarantine().close(strand, told.places, closing)
    return told


# Why a row of an older definition cannot be read by the one in force (``evolution``).
_FOLLOWING = frozenset(("table_replaced", "key_changed", "type_changed", "added_without_value", "ambiguous_rename"))


def _plan(replica: Replica, strand: str, group: Group, read: Mapping[int, Definition]) -> list[Step]:
    """The group's net effect on the table as it is now."""
    definitions = dict(read)
    newest = max(relation for relation, one in read.items() if one.name == group[0].name)
    translations: dict[int, RowTranslation] = {}
    for relation in {one.relation for one in group} - {newest}:
        translations[relation] = RowTranslation(read[relation], read[newest])
        definitions[-relation] = translations[relation].definition
    planner = Planner(definitions)
    for one in group:
        whole = replica.quarantine().one(strand, one.place)
        assert whole is not None, "rows of the quarantine are never deleted"
        (statement,) = unpack_statements(whole.statement)
        if one.relation in translations:
            statement = _translated(translations[one.relation], statement, one)
        planner.add(one.sequence, [statement], one.ordinal)
    return planner.take()


def _translated(translation: RowTranslation, statement: list[Any], one: QuarantinedStatement) -> list[Any]:
    try:
        return translation.statement(statement, -one.relation)
    except UNREADABLE as error:
        place = f"table {one.label}, sequence {one.sequence}, ordinal {one.ordinal}"
        raise Corrupt("bad_row", f"a row image cannot be read: {error}", place=place) from error


def drop(replica: Replica, applied: AppliedMark, place: Place, closing: QuarantineClosing) -> QuarantinedStatement:
    """Give a statement up: it is never done, and stays listed as dropped. Raises Rejected."""
    strand = applied.position.strand
    one = replica.quarantine().one(strand, place)
    where = f"sequence {place[0]}, ordinal {place[1]}"
    if one is None:
        cure = "see replicator quarantine"
        raise Rejected("not_set_aside", "this statement was never set aside", status=404, place=where, cure=cure)
    if one.outcome:
        message = f"this statement is {one.outcome} already, by {one.closed_by}"
        raise Rejected("closed", message, status=409, place=where, cure="see replicator quarantine --closed")
    replica.begin()
    replica.quarantine().close(strand, [place], closing)
    replica.commit(applied)
    return one
