"""What was set aside, tried again once its cause is cured, or given up.

Guarantee: the statements of a key are done together or not at all, in one transaction with the note that they were; a
dry run does the same and takes it back. The position stays as it is: everything that came before it and is not set
aside is applied already, and whatever came later on those keys is set aside behind them.

They are done as their net effect, as a batch is: a state in between that the replica would refuse is no obstacle. Keys
that a statement ties together (a changed key) are one *group*; so is a table that waits as a whole. All calls block;
they belong between two steps of replay (``ReplayLoop.between_steps``).
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
    """Which groups are asked for: those of this table (its label), with one of these keys; all where not given."""

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
    touched = [touched_by(definitions.get(statement.relation), statement) for statement in statements]
    whole = {statement.name for statement, keys in zip(statements, touched, strict=True) if keys.whole}
    result: list[Group] = []
    group_of: dict[tuple[Any, ...], Group] = {}
    for statement, keys in zip(statements, touched, strict=True):
        name = statement.name
        ties: list[tuple[Any, ...]] = [(name,)] if name in whole else [(name, key) for key in keys.keys]
        tied = [group_of[tie] for tie in ties if tie in group_of]
        group = tied[0] if tied else []
        for other in tied[1:]:  # a change of key ties two groups that were apart so far
            if other is not group:
                group += other
                group_of.update({tie: group for tie, tied_to in group_of.items() if tied_to is other})
                result = [remaining for remaining in result if remaining is not other]
        if not tied:
            result.append(group)
        group.append(statement)
        group_of.update(dict.fromkeys(ties, group))
    for group in result:
        group.sort(key=lambda statement: statement.place)
    return sorted(result, key=lambda group: group[0].place)


def wanted_groups(wanted: GroupFilter, all_groups: Sequence[Group]) -> list[Group]:
    """The groups that are asked for. Raises Rejected if there is none of them."""
    chosen = [
        group
        for group in all_groups
        if wanted.table in (None, group[0].label)
        and (not wanted.keys or any(key in wanted.keys for key in _keys(group)))
    ]
    if not chosen and wanted != GroupFilter():
        place = f"table {wanted.table}" if wanted.table else "quarantine"
        cure = "see replicator quarantine CONFIG; keys are written as it shows them"
        raise Rejected("nothing_held", "nothing of this is set aside", status=404, place=place, cure=cure)
    return chosen


def _keys(group: Group) -> list[Key]:
    return list(dict.fromkeys(key for each in group for key in (each.key, each.key_before) if key is not None))


def replay(
    replica: Replica, applied: AppliedMark, wanted: GroupFilter, closing: QuarantineClosing | None
) -> list[ReplayOutcome]:
    """Try the groups that are asked for; with ``closing`` for good, without it as a dry run. Raises Rejected,
    Unavailable, or Halted for what lies not with the statements."""
    strand = applied.position.strand
    definitions = replica.definitions(strand)
    chosen = wanted_groups(wanted, groups(replica.quarantine().open(strand), definitions))
    replica.begin()
    outcomes = [_try(replica, strand, group, closing, definitions) for group in chosen]
    if closing is None:
        replica.rollback()  # a dry run has met every constraint that the real one would
    else:
        replica.commit(applied)  # the position as it was: these statements lie behind it already
    return outcomes


def _try(
    replica: Replica,
    strand: str,
    group: Group,
    closing: QuarantineClosing | None,
    definitions: Mapping[int, Definition],
) -> ReplayOutcome:
    outcome = ReplayOutcome(group[0].label, _keys(group), [each.place for each in group], "replayed")
    try:
        replica.attempt(strand, _plan(replica, strand, group, definitions))
    except Halted as error:
        if not is_curable(error) and error.reason not in _FOLLOWING:
            raise
        message = error.message[:MESSAGE_LIMIT_CHARACTERS]
        return outcome._replace(outcome="refused", reason=error.reason, message=message)
    if closing is not None:
        replica.quarantine().close(strand, outcome.places, closing)
    return outcome


# Why a row of an older definition cannot be read by the one in force (``evolution``).
_FOLLOWING = frozenset(("table_replaced", "key_changed", "type_changed", "added_without_value", "ambiguous_rename"))


def _plan(replica: Replica, strand: str, group: Group, applied: Mapping[int, Definition]) -> list[Step]:
    """The group's net effect on the table as it is now; ``applied`` are the replica's definitions by relation."""
    definitions = dict(applied)
    newest = max(relation for relation, definition in applied.items() if definition.name == group[0].name)
    translations: dict[int, RowTranslation] = {}
    for relation in {each.relation for each in group} - {newest}:
        translations[relation] = RowTranslation(applied[relation], applied[newest])
        definitions[-relation] = translations[relation].definition  # relations are positive: these numbers are free
    planner = Planner(definitions)
    for listed in group:
        quarantined = replica.quarantine().one(strand, listed.place)  # one at a time: a list comes without statements
        assert quarantined is not None, "rows of the quarantine are never deleted"
        (statement,) = unpack_statements(quarantined.statement)
        if listed.relation in translations:
            statement = _translated(translations[listed.relation], statement, listed)
        planner.add(listed.sequence, [statement], listed.ordinal)
    return planner.take()


def _translated(translation: RowTranslation, statement: list[Any], listed: QuarantinedStatement) -> list[Any]:
    try:
        return translation.statement(statement, -listed.relation)
    except UNREADABLE as error:
        place = f"table {listed.label}, sequence {listed.sequence}, ordinal {listed.ordinal}"
        raise Corrupt("bad_row", f"a row image cannot be read: {error}", place=place) from error


def drop(replica: Replica, applied: AppliedMark, place: Place, closing: QuarantineClosing) -> QuarantinedStatement:
    """Give a statement up: it is never done, and stays listed as dropped. Raises Rejected."""
    strand = applied.position.strand
    quarantined = replica.quarantine().one(strand, place)
    where = f"sequence {place[0]}, ordinal {place[1]}"
    if quarantined is None:
        cure = "see replicator quarantine CONFIG"
        raise Rejected("not_set_aside", "this statement was never set aside", status=404, place=where, cure=cure)
    if quarantined.outcome:
        message = f"this statement is {quarantined.outcome} already, by {quarantined.closed_by}"
        raise Rejected("closed", message, status=409, place=where, cure="see replicator quarantine CONFIG --closed")
    replica.begin()
    replica.quarantine().close(strand, [place], closing)
    replica.commit(applied)
    return quarantined
