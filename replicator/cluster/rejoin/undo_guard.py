"""What going back to the fork would take away, and whether that needs a person's word.

Guarantee: unasked, nothing is undone that is more than what a lost primary leaves behind: never the ledger's first
copy, and of no table more than a stated share of its rows. Whoever wants it all the same names each table; what is
undone is sealed before, either way. A few rows are always undone: of a small table they are a large share. Pure.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from typing import NamedTuple

from replicator.cluster.rejoin.fork import Fork
from replicator.errors import Halted


class UndoLimits(NamedTuple):
    """Unasked, so many rows of a table may go, or this share of it if that is more."""

    rows: int = 1_000
    share: float = 0.1


def check_undo(
    fork: Fork,
    removed: Mapping[str, int],
    rows: Mapping[str, int],
    limits: UndoLimits,
    named: Collection[str],
    *,
    keeps_first_copy: bool,
) -> None:
    """Raise Halted unless the orphans behind this fork may be undone. ``removed`` are the rows that would go, ``rows``
    those that are there, by table; ``named`` the tables that a person has named."""
    if keeps_first_copy:
        too_much = {
            table: number
            for table, number in removed.items()
            if number > max(limits.rows, limits.share * rows.get(table, 0))
        }
        what = "more than a lost primary leaves behind"
    else:
        too_much, what = dict(removed), "the ledger's first copy itself"
    unnamed = sorted(too_much.keys() - set(named))
    if not unnamed:
        return
    told = ", ".join(f"{table} {too_much[table]:,} of {rows.get(table, 0):,} rows" for table in unnamed[:5])
    more = f" and {len(unnamed) - 5} tables more" if len(unnamed) > 5 else ""
    tables = " --undo ".join(shlex.quote(table) for table in unnamed)
    raise Halted(
        "undoes_too_much",
        f"going back to sequence {fork.position.sequence} would take away {what}: {told}{more}; nothing was undone",
        place=f"strand {fork.strand}, {fork.orphans} orphans",
        cure=f"see which region has the right rows; if those here may go: replicator rejoin CONFIG --undo {tables}",
    )
