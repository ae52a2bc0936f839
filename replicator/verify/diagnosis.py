"""Who is the odd one out, since when, and why, as far as rows and journal tell. Pure.

Guarantee: a region is named only if the journal, or the other regions among themselves, speak against it; otherwise it
is said that nobody can tell. Causes are called likely: rows do not remember who wrote them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from replicator.verify.evidence import BlockRef, Evidence


class Diagnosis(NamedTuple):
    """A judgement of one key. ``odd``: the regions whose row is wrong. ``first``: the first block after which it is,
    where a block's change is missing. ``last``: the block that touched the key last. ``cause``: for people."""

    odd: tuple[str, ...]
    first: BlockRef | None
    last: BlockRef | None
    cause: str


def diagnose(lines: Mapping[str, bytes | None], evidence: Evidence) -> Diagnosis:
    """Judge a key by the lines that regions show for it, in the order in which the evidence was asked about them."""
    if not evidence.known:
        odd = _minority(lines)
        reason = "the other regions agree with each other" if odd else "its history is not in the journal here"
        return Diagnosis(odd, None, evidence.last, f"not known: {reason}")
    odd = tuple(name for name, line in lines.items() if line != evidence.right)
    for place, name in enumerate(lines):
        if name in odd:
            first, cause = _cause(lines[name], evidence, place)
            return Diagnosis(odd, first, evidence.last, cause)
    return Diagnosis((), None, evidence.last, "equal by now")


def _minority(lines: Mapping[str, bytes | None]) -> tuple[str, ...]:
    """With three regions or more, those that differ from what more than half of them show."""
    counts = Counter(lines.values())
    ((majority, count),) = counts.most_common(1)
    return tuple(name for name, line in lines.items() if line != majority) if count * 2 > len(lines) >= 3 else ()


def _cause(line: bytes | None, evidence: Evidence, place: int) -> tuple[BlockRef | None, str]:
    met, following = evidence.met[place], evidence.next[place]
    if evidence.held:
        return following, "a statement of this key is in quarantine"
    # It is as some block left it, and a later one's change is missing: replay's fault, not somebody else's hand.
    if following is not None and met is not None:
        lost = "its delete" if evidence.right is None and following == evidence.last else "the change"
        return following, f"{lost} of block {following.sequence} is missing: the row is as block {met.sequence} left it"
    if line is None:
        written = f"block {evidence.last.sequence} wrote it" if evidence.last else "it was written"
        return following, f"the row is missing though {written}: deleted by somebody else, or its write was lost"
    if evidence.last is None:
        return None, "added by somebody else: no block ever wrote this key"
    if evidence.right is None:
        return None, f"added by somebody else: the ledger deleted the row in block {evidence.last.sequence}"
    return None, "changed by somebody else, or damaged: no block ever wrote this row"
