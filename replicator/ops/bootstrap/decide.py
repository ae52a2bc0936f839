"""What bootstrap does with what it finds. Pure.

Guarantee: what is here is only ever replaced if that was asked for; half a copy of our own is no ledger and may go.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from replicator.errors import Halted
from replicator.format.position import Position
from replicator.pipeline.copies.partial_copy import PartialCopy, is_of
from replicator.pipeline.replicas.base import AppliedMark


class RegionContents(NamedTuple):
    """What is in the region. ``journal`` is its journal's end, ``replica`` where its replica stands; None: nothing."""

    half: PartialCopy | None
    journal: Position | None
    replica: Position | None
    mark: AppliedMark | None


class CopyDecision(enum.Enum):
    """How to go on."""

    BEGIN = "begin a copy"
    REPLACE = "set aside what is here, then begin a copy"
    ANEW = "remove the half copy, then begin another one"
    RESUME = "go on with the copy"
    FINISH = "the rows are whole: begin the journal"


def way(found: RegionContents, *, replace: bool, source: str | None = None) -> CopyDecision:
    """The way from what was found; ``source`` is the region to copy if one was named. Raises Halted
    ``region_has_data``."""
    half = found.half
    if half is not None:
        if found.mark is not None and is_of(found.mark, half.begun.copy):
            if found.replica is not None:
                return CopyDecision.FINISH
            return (
                CopyDecision.RESUME if source in (None, half.url) else CopyDecision.ANEW
            )  # the other one may be gone for good
        return CopyDecision.ANEW  # killed before its first transaction, which empties what was to be replaced
    if found.journal is None and found.replica is None:
        return CopyDecision.ANEW if found.mark is not None else CopyDecision.BEGIN
    if replace:
        return CopyDecision.REPLACE
    here = [f"its {name} is at sequence {at.sequence:,}" for name, at in _named(found) if at is not None]
    raise Halted(
        "region_has_data",
        f"this region is not empty: {', '.join(here)}",
        place="bootstrap",
        cure="look at what would happen: --plan; give --replace to set the old data aside and take a copy",
    )


def _named(found: RegionContents) -> list[tuple[str, Position | None]]:
    return [("journal", found.journal), ("replica", found.replica)]
