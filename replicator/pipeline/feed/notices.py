"""What the settle buffer and the region that is followed say, in words and in numbers, and the halts that follow.

Guarantee: everything that needs a person is said as a warning, with both sides of a contradiction in full; what is
ordinary (reordering, duplicates) is counted and said only to who looks for it. Pure.
"""

from __future__ import annotations

import dataclasses
import logging

from replicator.errors import Halted, Rejected
from settle_buffer.events import (
    Certificate,
    Conflict,
    Event,
    GapExpired,
    GapFilled,
    GapOpened,
    GapRequest,
    GapWaived,
    Late,
    Pressure,
    SpoolSetAside,
    Stopped,
)

BOOTSTRAP_CURE = (
    "stop this sidecar; replicator bootstrap CONFIG --replace takes a consistent copy from a region that has everything"
    " and goes on from there (--plan shows what it would do); what is here now is set aside, not lost"
)


@dataclasses.dataclass(slots=True)
class GapCounts:
    """What became of gaps since the sidecar started; reordering opens gaps that are never asked for."""

    opened: int = 0
    requests: int = 0
    filled: int = 0
    expired: int = 0
    waived: int = 0

    def add(self, event: Event) -> None:
        """Count what the event tells."""
        match event:
            case GapOpened():
                self.opened += 1
            case GapRequest():
                self.requests += 1
            case GapFilled():
                self.filled += 1
            case GapExpired():
                self.expired += 1
            case GapWaived():
                self.waived += 1


def notice(event: Event) -> tuple[int, str]:
    """The level to log an event at, and its words."""
    match event:
        case GapRequest(_, first, last, 1):
            return logging.INFO, f"{span(first, last)} did not come and is asked for"
        case GapExpired(_, first, last):
            return logging.WARNING, f"{span(first, last)} is still missing: see replicator gaps CONFIG"
        case GapFilled(_, first, last, _, certificate) if certificate is not None:
            return logging.INFO, f"{span(first, last)} came after {certificate.requests} requests"
        case GapWaived(certificate):
            return logging.WARNING, waiver_text(certificate)
        case Late(entry, policy):
            return logging.WARNING, f"{late_text(event)}; it is kept apart: {policy}, {entry.digest.hex()}"
        case Conflict():
            return logging.ERROR, conflict_text(event)
        case Pressure(True, bound):
            return logging.WARNING, f"full ({bound}): the feed waits until there is room"
        case Pressure(False, bound):
            return logging.INFO, f"there is room again ({bound})"
        case SpoolSetAside(path):
            return logging.ERROR, f"the spool was damaged: it is kept as {path}, and the feed is read again"
        case _:
            return logging.DEBUG, str(event)[:500]


def stopped(event: Stopped, why: str) -> Halted:
    """The halt that a stopped strand is shown as; ``why`` is what was said before it stopped."""
    cures = {
        "conflict": "find out which region is right; then see replicator gaps discard --help, or make this region anew",
        "late": "see replicator gaps late --help",
    }
    message = why or f"the settle buffer stopped the strand: {event.reason}"
    cure = cures.get(event.reason, "see replicator gaps CONFIG")
    return Halted(event.reason, message, place=f"strand {event.strand}", cure=cure)


def behind_waiver(certificate: Certificate) -> Halted:
    """The halt of a hash-chained strand at a gap that was given up."""
    return Halted(
        "waived",
        f"{waiver_text(certificate)}. What follows cannot be linked to the block before, and is not applied",
        place=f"strand {certificate.strand}",
        cure="make this region anew from a whole one; or, if the blocks can be had after all, let [follow] primary "
        "name a region that has them, stop the sidecar, remove its spool and start it: the feed is read again",
    )


def refused(refusal: Rejected, sequence: int, fork: int | None, place: str) -> Halted:
    """The halt that a refused stream is shown as. ``sequence`` is where this region's journal ends, ``fork`` the first
    sequence at which the chains differ, where the refusal is that they do."""
    match refusal.reason:
        case "diverged":
            message = f"diverged at sequence {fork}: this region and the primary hold different blocks from there on"
            cure = "find out which history is right before anything else; then make the other region anew:"
            cure += " replicator bootstrap CONFIG --replace"
            return Halted("diverged", message, place=place, cure=cure)
        case "ahead":
            message = f"this region is at sequence {sequence}; {refusal.message}"
            cure = "the primary was set back, or it is another one: find out before anything else"
            return Halted("ahead_of_primary", message, place=place, cure=cure)
        case "pruned":
            message = f"this region needs the block behind sequence {sequence}; {refusal.message}"
            return Halted("pruned", message, place=place, cure=BOOTSTRAP_CURE)
        case reason:
            cure = refusal.cure or "check [follow] and the primary's version"
            return Halted(reason, refusal.message, place=place, cure=cure)


def waiver_text(certificate: Certificate) -> str:
    """A waiver in words: what was given up, by whom and why."""
    return f"{span(certificate.first, certificate.last)} was waived by {certificate.who}: {certificate.why}"


def conflict_text(event: Conflict) -> str:
    """A contradiction in words, with the hashes of both sides in full."""
    if event.kind == "link":
        return (
            f"block {event.sequence}, {event.other.digest.hex()}, names {event.other.link.hex()} as the block before "
            f"it; here that is {event.digest.hex()}"
        )
    return f"two blocks claim sequence {event.sequence}: {event.digest.hex()} is here, {event.other.digest.hex()} came"


def late_text(event: Late) -> str:
    """A late block in words."""
    return f"sequence {event.entry.sequence} came after its gap had been waived"


def span(first: int, last: int) -> str:
    """Missing sequences in words."""
    return f"gap {first}" if first == last else f"gap {first} to {last}"
