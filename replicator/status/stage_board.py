"""Where the stages report: their callbacks, written into ``StrandProgress``.

Guarantee: whoever advances is no longer waiting; what is shown is what was reported, with this process' clocks.
"""

from __future__ import annotations

import logging
import time

import trio

from replicator.errors import ReplicatorError, Unavailable
from replicator.format.block import Header
from replicator.format.wire import Heartbeat
from replicator.pipeline.replicas.base import AppliedMark
from replicator.status.marks import Now, StageName
from replicator.status.progress import StrandProgress

log = logging.getLogger("replicator")


def now() -> Now:
    """This moment on both clocks."""
    return Now(trio.current_time(), time.time_ns() // 1000)


UPSTREAM_REASON = "primary_not_read"


def upstream_trouble(trouble: str) -> Unavailable:
    """What the region that is followed says of its ledger, as the trouble of following it."""
    condition, _, reason = trouble.partition(":")
    words = _UPSTREAM.get(condition, "the primary says that its ledger is {condition}: {reason}")
    return Unavailable(
        UPSTREAM_REASON,
        words.format(condition=condition, reason=reason) + "; what it commits meanwhile is not known here",
        place="the region that is followed",
        cure="see replicator status CONFIG of the primary, which says more; here it goes on by itself",
    )


_UPSTREAM = {
    "halted": "the primary's ledger is not read, its source is halted: {reason}",
    "waiting": "the primary's ledger is not read, its source waits: {reason}",
    "stuck": "the primary's ledger is not read, its source stands still: {reason}",
    "copying": "the primary has not finished its first copy",
    "starting": "the primary has just started and has not read its ledger to the end yet",
    "fenced": "the region that is followed does not lead now",
}


class StageTrouble:
    """A stage's troubles, shown on the board."""

    def __init__(self, progress: StrandProgress, stage: StageName) -> None:
        self._progress = progress
        self._stage = stage

    def wait(self, cause: Unavailable) -> None:
        self._progress.wait(self._stage, cause, now())

    def halt(self, cause: ReplicatorError) -> None:
        self._progress.halt(self._stage, cause, now())


class StageBoard:
    """One strand's reports. Stages that do not run here have no trouble to report."""

    def __init__(self, progress: StrandProgress) -> None:
        self.progress = progress
        self.source = StageTrouble(progress, "source")
        self.feed = StageTrouble(progress, "feed")
        self.settle = StageTrouble(progress, "settle")
        self.apply = StageTrouble(progress, "apply")
        self._received = progress.sequence("received")
        self.upstream_trouble: str | None = (
            None  # what the region that is followed said of its ledger, condition:reason
        )

    def captured(self, last: Header) -> None:
        """The source's blocks up to this one are in the journal."""
        self.progress.go_on("source")
        self.progress.advance("settled", last.sequence, last.committed_at, now())

    def complete(self, at: float) -> None:
        """Everything that the ledger committed before this monotonic time is in the journal."""
        current = now()
        self.progress.hear("source", at, current.wall_us - round((current.monotonic - at) * 1e6))

    def lives(self, at: float) -> None:
        """The source had a sign of life at this monotonic time: what it waited for before that is there."""
        if at > self.progress.met_trouble_at("source"):
            self.progress.go_on("source")

    def heard(self, heartbeat: Heartbeat, at: float) -> None:
        """The other region says how far it is, and up to when it has read the ledger. What came before it is in the
        spool."""
        # Ages are taken on the clock of the region that sends, and count on from the arrival on ours: clocks of two
        # regions are never compared.
        complete_at = None
        if heartbeat.heard is not None:
            complete_at = at - max(0, heartbeat.now - heartbeat.heard) / 1e6
        self.progress.go_on("settle")
        arrival = Now(at, heartbeat.now)
        self.progress.hear_head(heartbeat.position.sequence, heartbeat.committed_at, arrival, complete_at)
        self.upstream_trouble = heartbeat.trouble
        if heartbeat.trouble is None:
            self.progress.go_on("feed")
        else:
            self.feed.wait(upstream_trouble(heartbeat.trouble))

    def staged(self) -> None:
        """Parts of a large block are durable; the block itself is still to come."""
        self.progress.go_on("feed")
        self.progress.work("feed", now())

    def received(self, last: Header) -> None:
        """Blocks up to this one, or some before it, are durable in the spool."""
        self.progress.go_on("feed")
        if last.sequence > self.progress.sequence("received"):
            self.progress.advance("received", last.sequence, last.committed_at, now())

    def settled(self, last: Header) -> None:
        """Blocks up to this one are in the journal."""
        self.progress.go_on("settle")
        self.progress.advance("settled", last.sequence, last.committed_at, now())

    def resumed(self) -> None:
        """A person let the settle buffer go on."""
        self.progress.resume("settle")

    def opened(self, applied: AppliedMark) -> None:
        """The replica was opened, and stands here. Its commits do not wait for its server's disk: a server that was
        killed may have lost the last of them, which the journal has."""
        lost = self.progress.sequence("applied") - applied.position.sequence
        if lost > 0:
            reason = f"the replica's database lost its last {lost} blocks and gets them again from the journal"
            log.warning("%s", reason)
            self.progress.reset("applied", applied.position.sequence, applied.committed_at, reason, now())

    def applied(self, applied: AppliedMark) -> None:
        """The replica stands here."""
        self.progress.go_on("apply")
        self.progress.advance("applied", applied.position.sequence, applied.committed_at, now())

    def verified(self, sequence: int) -> None:
        """Up to this sequence the replica is proven equal."""
        if sequence > self.progress.sequence("verified"):
            self.progress.prove(sequence, now())
