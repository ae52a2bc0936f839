"""How an orphan transaction stands to the region in charge. Pure.

    there      it is there already: the same request was carried out there, or it was re-applied
    clean      every row that it touches is there as it was before it (or as clean orphans before it leave it)
    conflict   something that came since touches what it touches; a person decides
    nothing    it changes no row

Guarantee: on the safe side. A row that is the same there by another transaction is no proof that both are one business
(two deposits of the same amount look alike): that is a conflict, and says so. What builds on a conflict is one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

THERE, CLEAN, CONFLICT, NOTHING = "there", "clean", "conflict", "nothing"
VERDICTS = (THERE, CLEAN, CONFLICT, NOTHING)
ROW_OPS = ("insert", "update", "patch", "delete")
_NAMED_BY_US = re.compile(r"tx-[0-9]+")  # by the embedded ledger, where the client gave no name: no proof of anything

WHOLE_TABLE: dict[str, str | None] = {}  # instead of a key: an orphan that is not there touched any of them

Fields = dict[str, Any]
Row = dict[str, str | None]


class WinningBlock(NamedTuple):
    """A block of the chain in charge."""

    sequence: int
    transaction: str
    committed_at: str


class WinningRow(NamedTuple):
    """What the region in charge has under a key. ``by`` is the last block behind the fork that touched it, None if none
    did: then it is as it was at the fork, and ``row`` is not given."""

    by: WinningBlock | None
    row: Row | None
    unknown: str


class CarriedRequest(NamedTuple):
    """A request that was carried out behind the fork."""

    by: WinningBlock
    digest: str


class WinningChain(Protocol):
    """What is asked of the chain in charge."""

    def has_table(self, label: str, columns: list[str] | None) -> bool: ...
    def look(self, label: str, key: Mapping[str, str | None]) -> WinningRow: ...


class KeyOutcomes(Protocol):
    """What became of keys that orphans before this one touched: by label and key, the last one's sequence, and whether
    it is clean."""

    def get(self, label: str, key: Mapping[str, str | None]) -> tuple[int, bool] | None: ...
    def set(self, label: str, key: Mapping[str, str | None], sequence: int, *, clean: bool) -> None: ...
    def drop(self, label: str, key: Mapping[str, str | None]) -> None: ...


class ConflictVerdict(NamedTuple):
    """The verdict, and what it rests on: texts for people, each with the table, the key and the block that it names."""

    verdict: str
    why: list[Fields]

    def as_json(self) -> Fields:
        return {"verdict": self.verdict, "why": self.why}


def reapply_id(transaction: Fields) -> str:
    """The idempotency key under which an orphan is sent again. Its client's own, if it had one: then a retry that its
    client sends yet is refused, and not carried out a second time."""
    return str(transaction["request"] or f"orphan-{transaction['hash'][:40]}")


def judge(
    transaction: Fields,
    chain: WinningChain,
    marks: KeyOutcomes,
    carried_out: Callable[[str], CarriedRequest | None],
    reapplied: Fields | None,
) -> ConflictVerdict:
    """Judge one orphan; those before it have been judged with the same ``marks``."""
    judgement = _judge(transaction, chain, marks, carried_out, reapplied)
    for label in transaction["left_tables"]:
        marks.set(label, WHOLE_TABLE, transaction["sequence"], clean=False)
    for statement in transaction["statements"]:
        if statement["op"] == "truncate":
            marks.set(statement["table"], WHOLE_TABLE, transaction["sequence"], clean=False)
        if statement["op"] not in ROW_OPS:
            continue
        if judgement.verdict == THERE:
            marks.drop(statement["table"], statement["key"])
        else:
            marks.set(statement["table"], statement["key"], transaction["sequence"], clean=judgement.verdict == CLEAN)
    return judgement


def _judge(
    transaction: Fields,
    chain: WinningChain,
    marks: KeyOutcomes,
    carried_out: Callable[[str], CarriedRequest | None],
    reapplied: Fields | None,
) -> ConflictVerdict:
    # First what is certain: our own note, or a request under an id that follows from the orphan's hash alone.
    if reapplied is not None:
        return ConflictVerdict(THERE, [_why(f"it was re-applied by {reapplied['who']} at {reapplied['at']}")])
    same = carried_out(reapply_id(transaction))
    if same is not None and not transaction["request"]:
        return ConflictVerdict(THERE, [_why("it was re-applied", by=same.by)])
    if same is not None and same.digest == transaction["digest"]:
        return ConflictVerdict(THERE, [_why("the same request was carried out there", by=same.by)])
    results = [_statement(statement, transaction, chain, marks) for statement in transaction["statements"]]
    verdicts = {verdict for verdict, _ in results}
    why = [reason for _, reason in results if reason is not None]
    # Its client has used the id for something else: sent again under it, this orphan would never be carried out.
    if same is not None and verdicts - {NOTHING} != {THERE}:
        return ConflictVerdict(
            CONFLICT, [_why("another transaction was made under its idempotency key", by=same.by), *why]
        )
    if transaction["left_out"]:
        return ConflictVerdict(CONFLICT, [_why("it is too large to be told, judged or re-applied whole"), *why])
    if verdicts <= {NOTHING}:
        return ConflictVerdict(NOTHING, why)
    if CONFLICT in verdicts:
        return ConflictVerdict(CONFLICT, why)
    if THERE not in verdicts:
        return ConflictVerdict(CLEAN, why)
    if CLEAN not in verdicts and not any(reason.get("unsure") for reason in why):
        return ConflictVerdict(THERE, why)
    # A part of it is there, or all by another transaction: sent whole it might be done twice.
    return ConflictVerdict(CONFLICT, why)


def _statement(
    statement: Fields, transaction: Fields, chain: WinningChain, marks: KeyOutcomes
) -> tuple[str, Fields | None]:
    """The verdict on one statement by itself, and why."""
    op, label, key = statement["op"], statement["table"], statement["key"]
    if op == "truncate":
        return CONFLICT, _why("it empties the whole table: that is never re-applied", label)
    if op == "define":
        if chain.has_table(label, statement["columns"]):
            return THERE, _why("the table is there", label)
        return CONFLICT, _why("the table is not there like this: declare it there, then judge anew", label)
    if op not in ROW_OPS:
        return NOTHING, None
    if not chain.has_table(label, None):
        return CONFLICT, _why("there is no such table there: declare it, then judge anew", label, key)
    if statement["unknown"]:
        return CONFLICT, _why(f"what it changed cannot be told: {statement['unknown']}", label, key)
    if statement["keyless"]:
        return CLEAN, None
    mark = marks.get(label, WHOLE_TABLE) or marks.get(label, key)
    if mark is not None:
        return _after_orphan(mark, label, key)
    return _compared(statement, transaction, chain.look(label, key))


def _after_orphan(mark: tuple[int, bool], label: str, key: Fields) -> tuple[str, Fields]:
    sequence, clean = mark
    if clean:
        return CLEAN, _why(f"behind the orphan {sequence}, which it builds on", label, key, builds_on=sequence)
    return CONFLICT, _why(f"it builds on the orphan {sequence}, which is not there", label, key, builds_on=sequence)


def _compared(statement: Fields, transaction: Fields, there: WinningRow) -> tuple[str, Fields | None]:
    label, key, by = statement["table"], statement["key"], there.by
    if by is None:
        return CLEAN, None
    if there.unknown:
        return CONFLICT, _why(f"a block since has touched the row: {there.unknown}", label, key, by)
    if there.row == statement["after"]:
        if by.transaction in _names(transaction):
            return THERE, _why("the same transaction has left the same row", label, key, by)
        text = "the row is the same there, by another transaction: whether that is the same business is not known"
        return THERE, {**_why(text, label, key, by), "unsure": True}
    if there.row == statement["before"]:
        return CLEAN, _why("touched since, and again as it was before", label, key, by)
    return CONFLICT, _why("a block since has changed the row", label, key, by, now=there.row)


def _names(transaction: Fields) -> set[str]:
    """By what a block there tells that it is this transaction."""
    name = transaction["transaction"]
    return {reapply_id(transaction), *(() if _NAMED_BY_US.fullmatch(name) else (name,))}


def _why(
    text: str, table: str | None = None, key: Fields | None = None, by: WinningBlock | None = None, **more: Any
) -> Fields:
    block = None if by is None else by._asdict()
    return {"says": text, "table": table, "key": key, "block": block, **more}
