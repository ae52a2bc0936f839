"""What is said of a strand's progress: marks, stages, lag. Values only; ``status/progress.py`` keeps and judges them.

Guarantee: a view is one moment, immutable; None means *not known*, never zero.
"""

from __future__ import annotations

import enum
from typing import Literal, NamedTuple

from replicator.errors import ReplicatorError

MarkName = Literal["received", "settled", "applied", "verified"]
StageName = Literal["source", "feed", "settle", "apply"]
Mode = Literal["settled", "applied"]

MARKS: tuple[MarkName, ...] = ("received", "settled", "applied", "verified")
STAGES: tuple[StageName, ...] = ("source", "feed", "settle", "apply")


class Now(NamedTuple):
    """One moment on both clocks: monotonic seconds, and wall microseconds since 1970."""

    monotonic: float
    wall_us: int


class StageCondition(enum.Enum):
    """What a stage is doing."""

    WORKING = "working"
    IDLE = "idle"  # nothing to do, and the path is known to be alive
    WAITING = "waiting"  # for something outside, which is named
    STUCK = "stuck"  # there is work, or silence where a heartbeat is due, and nothing moves
    HALTED = "halted"  # a person is needed, and the error says for what


class Mark(NamedTuple):
    """How far something is. ``committed_at`` is µs by the source's clock, ``moved_at`` the monotonic time of the last
    progress, ``committed_monotonic`` the commit's time on this process' monotonic clock as first seen."""

    sequence: int
    committed_at: int
    moved_at: float
    committed_monotonic: float


class Lag(NamedTuple):
    """How far behind; None is *not known*."""

    blocks: int | None
    seconds: float | None


class StageView(NamedTuple):
    """A stage at one moment. ``trouble`` is what it waits for or was halted by; ages are in seconds."""

    name: StageName
    condition: StageCondition
    lag: Lag
    progress_age_seconds: float
    heartbeat_age_seconds: float | None
    trouble: ReplicatorError | None
    trouble_age_seconds: float | None


class StrandView(NamedTuple):
    """A strand at one moment: everything that status and metrics say of it. A mark not reached yet is None."""

    strand: str
    head: Mark | None
    head_age_seconds: float | None
    marks: dict[MarkName, Mark | None]
    stages: tuple[StageView, ...]
    settled_lag: Lag
    applied_lag: Lag
    regressions: int
    resets: tuple[str, ...]

    @property
    def end_to_end(self) -> Lag:
        """The lag of what readers see."""
        return self.applied_lag
