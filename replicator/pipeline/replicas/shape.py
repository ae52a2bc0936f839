"""A replica's table against its definition: the comparison that both databases share, and how a difference is said.

A shape is each column's type, as the database names it, and its place in the primary key: from 1, 0 outside. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from replicator.errors import Halted
from replicator.format.definition import Definition
from replicator.format.evolution import changes

VERSION_FALLS = "version_falls"

Shape = dict[str, tuple[str, int]]


def differing_columns(wanted: Shape, actual: Shape) -> str:
    """How a table's actual shape differs from the wanted one, for people; empty if it does not."""
    problems = [f"column {name} is missing" for name in wanted if name not in actual]
    problems += [f"column {name} is not the ledger's" for name in actual if name not in wanted]
    for name in wanted.keys() & actual.keys():
        (kind, key), (actual_kind, actual_key) = wanted[name], actual[name]
        if kind != actual_kind:
            problems.append(f"column {name} is {actual_kind or 'untyped'}, not {kind}")
        if key != actual_key:
            problems.append(f"column {name} is {_key_place(actual_key)}, not {_key_place(key)}")
    return "; ".join(sorted(problems))


def _key_place(place: int) -> str:
    return f"number {place} of the primary key" if place else "outside the primary key"


def table_differs(definition: Definition, problem: str) -> Halted:
    """The halt for a table of the replica that is not what its definition says."""
    return Halted(
        "replica_table_differs",
        f"the table is there and cannot be taken: {problem}",
        place=f"replica table {definition.label}",
        cure="rename or drop the table, or point the replica at another database; then run again",
    )


def name_taken(definition: Definition, problem: str) -> Halted:
    """The halt for a table that the database cannot keep under its own names."""
    place = f"replica table {definition.label}"
    return Halted("replica_name_taken", problem, place=place, cure="rename it at the source, or leave the table out")


def definition_before(definitions: Mapping[int, Definition], relation: int) -> Definition | None:
    """The definition that ``relation`` took the place of, None if it made the table. Raises Halted if a table cannot
    go back to it: what a dropped column held is gone, and a type that was widened may hold what the old one cannot."""
    definition = definitions[relation]
    older = [number for number, other in definitions.items() if number < relation and other.name == definition.name]
    if not older:
        return None
    before = definitions[max(older)]
    try:
        back = changes(definition, before)
    except Halted as error:
        raise _not_undoable(definition, error.message) from error
    if back.added:
        raise _not_undoable(definition, f"column {back.added[0].name} was dropped, with what it held")
    return before


def _not_undoable(definition: Definition, message: str) -> Halted:
    return Halted(
        "define_not_undoable",
        f"what a block did to the table cannot be taken back: {message}",
        place=f"replica table {definition.label}",
        cure="the blocks are sealed, nothing was changed: replicator bootstrap CONFIG --replace makes the region anew",
    )


def version_falls(definition: Definition, key: Sequence[str] = ()) -> Halted:
    """A block brings a document that cannot follow the one stored under its key."""
    name = json.dumps(list(key)) if len(key) > 1 else "".join(key)
    return Halted(
        VERSION_FALLS,
        "a block brings a version of a document that is not above the stored one: somebody wrote to this replica, or"
        " the primary had lost the row when it wrote it anew; nothing was overwritten",
        place=f"table {definition.label}" + (f", key {name}" if key else ""),
        cure="replicator repair CONFIG --key TABLE KEY --apply sets it right if it was written to here; then start the"
        " sidecar anew. If it halts again, it was the primary: replicator rebuild CONFIG there; then make this region"
        " as its journal says: stop its sidecar; replicator bootstrap CONFIG --replace",
    )
