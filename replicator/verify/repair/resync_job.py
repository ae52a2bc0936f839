"""A resync as it was asked for, and how far it is. Pure data; kept as JSON in the worklist.

scanning ─▶ rewriting ─▶ done          cancelled and failed from either; a plan ends in done, too
"""

from __future__ import annotations

import dataclasses
from typing import Any

ACTIVE_STATES = ("scanning", "rewriting")
WRITE_ROWS_PER_SECOND = 10_000  # assumed for a plan, which writes nothing


@dataclasses.dataclass(frozen=True, slots=True)
class ResyncRequest:
    """What to resync: everything committed from ``since`` on (µs), up to and with ``until``; of these tables (labels)
    and users only, if given. ``who`` asks for it; with ``plan`` nothing is written."""

    since: int
    until: int | None
    tables: list[str] | None
    users: list[str] | None
    who: str
    plan: bool


@dataclasses.dataclass(slots=True)
class ResyncJob:
    """A request and how far it is. Times are µs since 1970. ``first`` is the sequence behind which the span begins,
    ``last`` its last block, ``scanned`` how far blocks were looked at.

    ``keys`` were touched in the span; ``compared`` of them were looked at so far, ``differing`` were not as the journal
    says, ``unknown`` cannot be told and were left alone, ``other_users`` belong to none of ``users``. In a plan of many
    keys only a part is compared (``sampled``).
    """

    since: int
    until: int | None
    tables: list[str] | None
    users: list[str] | None
    who: str
    plan: bool
    first: int
    last: int
    scanned: int
    started_at: int
    state: str = "scanning"
    finished_at: int | None = None
    to_sweep: list[str] | None = None  # tables that were truncated in the span; None until that is known
    swept: list[str] = dataclasses.field(default_factory=list)
    blocks: int = 0
    bytes: int = 0
    keys: int = 0
    compared: int = 0
    differing: int = 0
    unknown: int = 0
    other_users: int = 0
    sampled: bool = False
    scan_seconds: float = 0.0
    rewrite_seconds: float = 0.0
    error: dict[str, str] | None = None

    @classmethod
    def stored(cls, fields: dict[str, Any] | None) -> ResyncJob | None:
        """The job that a worklist holds; None if there is none, or one of another release of this program."""
        own = {field.name for field in dataclasses.fields(cls)}
        return None if fields is None or fields.keys() != own else cls(**fields)

    @property
    def is_active(self) -> bool:
        """Whether there is something left to do."""
        return self.state in ACTIVE_STATES

    @property
    def unswept(self) -> frozenset[str]:
        """Tables of which keys are still gathered behind the span's end."""
        return frozenset(self.to_sweep or ()) - frozenset(self.swept)

    def expected_seconds(self) -> float | None:
        """How long all of it takes, by the rates that were measured; None while there is none."""
        if not self.compared:
            return self.scan_seconds if self.state == "done" else None
        share = max(1.0, self.keys / self.compared)
        writes = self.differing * share / WRITE_ROWS_PER_SECOND if self.plan else 0.0
        return self.scan_seconds + self.rewrite_seconds * share + writes

    def remaining_seconds(self) -> float | None:
        """How long the rest takes, once keys are compared."""
        if self.state != "rewriting" or not self.compared:
            return None
        return self.rewrite_seconds / self.compared * max(0, self.keys - self.compared)

    def conflicts(self) -> int:
        """Keys whose stored row is not what the journal says; of a sample, what that makes of all."""
        return round(self.differing * self.keys / self.compared) if self.sampled and self.compared else self.differing

    def as_json(self) -> dict[str, Any]:
        """For the HTTP surface."""
        return {
            **dataclasses.asdict(self),
            "conflicts": self.conflicts(),
            "expected_seconds": self.expected_seconds(),
            "remaining_seconds": self.remaining_seconds(),
        }
