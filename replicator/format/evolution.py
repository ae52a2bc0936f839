"""Evolution: what changed between two definitions of a table, and whether replicas can follow.

Guarantee: a change that replicas cannot follow without losing or altering a value raises Halted with a named reason;
everything else comes back as steps that lead from the old definition to the new one. Pure.

Columns are the same if they have the same number; where a definition has no numbers, if they have the same name. A
column that keeps its number under another name was renamed.

What cannot be seen here, because the rows' values say it and not the schema: ``ALTER … TYPE … USING`` with an
expression that changes values while the type widens. Verification finds that.
"""

from __future__ import annotations

import dataclasses
import re

from replicator.errors import Halted
from replicator.format.definition import Column, Definition

# Where nothing but a new copy helps; ``slot.new_copy`` has it with the slot's name.
RESYNC = (
    "begin a new history: stop the sidecar, move its data directory away, drop its slot if it is there (SELECT"
    " pg_drop_replication_slot('SLOT')) and start it: it copies every table anew; then make each other region anew:"
    " replicator bootstrap CONFIG --replace; in a cluster instead: stop the sidecar, and once another region leads"
    " make this one anew: replicator bootstrap CONFIG --replace, which tells of rows that only this region may have"
)


def recopy(name: tuple[str, str]) -> str:
    """The cure where a table cannot be carried on from where the log left it."""
    return (
        f"copy the table anew, as it is now: replicator recopy CONFIG {'.'.join(name)}; the other regions follow by"
        " themselves"
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Changes:
    """From the old definition to the new one, to be done in this order.

    ``dropped`` are old names. ``renamed`` are (old name, new name), in an order in which no step meets a name that is
    still taken. ``retyped`` are the new columns whose type widened; ``loosened`` the new names of columns that may now
    be NULL; ``added`` the new columns, whose ``missing`` is what older rows read as.
    """

    dropped: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    retyped: tuple[Column, ...] = ()
    loosened: tuple[str, ...] = ()
    added: tuple[Column, ...] = ()
    user_changed: bool = False

    def __bool__(self) -> bool:
        return self != Changes()


def changes(old: Definition, new: Definition) -> Changes:
    """What leads from ``old`` to ``new``, definitions of one table. Raises Halted for what replicas cannot follow."""
    if old.name != new.name or old.documents != new.documents:
        raise _halted(new, "table_replaced", f"it is not the table {old.label} that was there before")
    pairs = _pair_columns(old, new)
    old_by_new = {after.name: before for before, after in pairs}
    names = {before.name: after.name for before, after in pairs}
    if tuple(names.get(name) for name in old.key) != new.key:
        raise _halted(new, "key_changed", f"its key was {_listed(old.key)} and is now {_listed(new.key)}")
    for before, after in pairs:
        if not widens(before.type, after.type):
            raise _halted(new, "type_changed", f"column {after.name} changed from {before.type} to {after.type}")
    added = tuple(column for column in new.columns if column.name not in old_by_new)
    for column in added:
        if not column.nullable and column.missing is None:
            raise _halted(new, "added_without_value", f"column {column.name} is NOT NULL and older rows have no value")
    return Changes(
        dropped=tuple(column.name for column in old.columns if column.name not in names),
        renamed=_rename_order(new, [(before.name, after.name) for before, after in pairs if before.name != after.name]),
        retyped=tuple(after for before, after in pairs if before.type != after.type),
        loosened=tuple(after.name for before, after in pairs if after.nullable and not before.nullable),
        added=added,
        # A user column that was dropped counts as changed: no column has the empty name.
        user_changed=(None if old.user is None else names.get(old.user, "")) != new.user,
    )


def can_follow(old: Definition, new: Definition) -> bool:
    """Whether a replica's table can come from the one to the other with its rows."""
    try:
        changes(old, new)
    except Halted:
        return False
    return True


def _pair_columns(old: Definition, new: Definition) -> list[tuple[Column, Column]]:
    """The columns that both have, as (before, after) in the new order."""
    if all(column.number for column in (*old.columns, *new.columns)):
        by_number = {column.number: column for column in old.columns}
        return [(by_number[column.number], column) for column in new.columns if column.number in by_number]
    by_name = {column.name: column for column in old.columns}
    pairs = [(by_name[column.name], column) for column in new.columns if column.name in by_name]
    # Without numbers, one column that went and one that came look the same as one that was renamed.
    if len(pairs) < min(len(old.columns), len(new.columns)):
        raise _halted(new, "ambiguous_rename", "columns came and went at once, which may have been a rename")
    return pairs


def _rename_order(new: Definition, renames: list[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    ordered: list[tuple[str, str]] = []
    waiting = list(renames)
    while waiting:
        taken = {before for before, _ in waiting}
        free = [rename for rename in waiting if rename[1] not in taken]  # none: names went round in a ring
        if not free:
            raise _halted(new, "ambiguous_rename", f"columns {_listed(sorted(taken))} exchanged their names")
        ordered += free
        waiting = [rename for rename in waiting if rename not in free]
    return tuple(ordered)


_INTEGERS = ("smallint", "integer", "bigint")
_GROWING = (  # a greater first modifier alters no value; numeric's scale, the second, does
    "character varying",
    "bit varying",
    "numeric",
    "timestamp without time zone",
    "timestamp with time zone",
    "time without time zone",
    "time with time zone",
)
_MODIFIER = re.compile(r"([^()]+?)\s*\(([0-9, -]+)\)(.*)", re.DOTALL)


def widens(old: str, new: str) -> bool:
    """Whether every value of the SQL type ``old`` is, unaltered and in the same text, one of ``new``."""
    if old == new:
        return True
    if old in _INTEGERS and new in _INTEGERS:
        return _INTEGERS.index(old) < _INTEGERS.index(new)
    (base, before), (other, after) = _split(old), _split(new)
    if base == "character varying" and other == "text":
        return True
    if base == "text" and other == "character varying":
        return after is None
    if base != other or base not in _GROWING:
        return False
    # Without a modifier anything fits. With one the first may grow; numeric's scale is part of every value's text.
    return after is None or (before is not None and before[1:] == after[1:] and before[0] <= after[0])


def _split(type_: str) -> tuple[str, tuple[int, ...] | None]:
    """``numeric(12,2)`` as its name and modifiers; what stands behind the modifier belongs to the name."""
    match = _MODIFIER.fullmatch(type_)
    if match is None:
        return type_, None
    return (match[1] + match[3]), tuple(int(number) for number in match[2].split(","))


def _listed(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(names) if names else "none"


def _halted(table: Definition, reason: str, message: str) -> Halted:
    return Halted(reason, message, place=f"table {table.label}", cure=recopy(table.name))
