"""What bootstrap does with what it finds in the region. Pure.

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
    """What is in the region. ``half`` tells of a partial copy and ``mark`` how far the replica has it; ``journal`` is
    the journal's end, ``base`` its beginning, and ``replica`` the replica's position. None: there is none. ``damaged``
    says what cannot be read."""

    half: PartialCopy | None
    journal: Position | None
    replica: Position | None
    mark: AppliedMark | None
    base: Position | None = None
    damaged: str = ""


class CopyDecision(enum.Enum):
    """What bootstrap does next; the value is the phrase for people."""

    BEGIN = "begin a copy"
    REPLACE = "set aside what is here, then begin a copy"
    ANEW = "remove the half copy, then begin another one"
    RESUME = "go on with the copy"
    FINISH = "the rows are whole: begin the journal"


def decide(contents: RegionContents, *, replace: bool, source: str | None = None) -> CopyDecision:
    """What to do with these contents; ``source`` is the region to copy if one was named. Raises Halted
    ``region_has_data``."""
    half = contents.half
    if half is not None:
        if contents.mark is None or not is_of(contents.mark, half.begun.copy):
            if half.cleared and contents.replica == contents.base == half.begun.position:
                return CopyDecision.FINISH  # killed behind the removal of the mark
            return CopyDecision.ANEW  # killed before its first transaction, which empties what was to be replaced
        if contents.replica is not None:
            return CopyDecision.FINISH
        # Where another region is named, the one that was copied from may be gone for good.
        return CopyDecision.RESUME if source in (None, half.url) else CopyDecision.ANEW
    if contents.journal is None and contents.replica is None and not contents.damaged:
        # A mark alone is what is left of a partial copy whose file was removed: its rows are nobody's ledger.
        return CopyDecision.ANEW if contents.mark is not None else CopyDecision.BEGIN
    if replace:
        return CopyDecision.REPLACE
    ends = (("journal", contents.journal), ("replica", contents.replica))
    here = [f"its {name} is at sequence {end.sequence:,}" for name, end in ends if end is not None]
    here += [contents.damaged] if contents.damaged else []
    raise Halted(
        "region_has_data",
        f"this region is not empty: {', '.join(here)}",
        place="bootstrap",
        cure="look at what would happen: --plan; give --replace to set the old data aside and take a copy",
    )
