"""The one tree of errors.

    ReplicatorError          place, what went wrong, cure
    ├── ConfigError          the operator's file or command line; exit code 2
    ├── Rejected             the caller's request; answered with its HTTP status
    ├── Unavailable          the world's fault that can get better: wait and try again
    └── Halted               what trying again cannot cure: the strand stops with a named reason
        └── Corrupt          stored or received bytes that do not prove themselves

Guarantee: an error that reaches a person names the place, the cause and the cure.
Library exceptions are translated into these at the edge that touches the library.
"""

from __future__ import annotations


class ReplicatorError(Exception):
    """What went wrong, where, and what cures it.

    ``reason`` is a short stable slug (``slot_lost``) for metrics, JSON and tests; ``place`` names the
    strand, table, file or address; ``cure`` says what a person can do.
    """

    def __init__(self, reason: str, message: str, *, place: str = "", cure: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.place = place
        self.cure = cure

    def __str__(self) -> str:
        where = f"{self.place}: " if self.place else ""
        cure = f" (cure: {self.cure})" if self.cure else ""
        return f"{where}{self.message} [{self.reason}]{cure}"

    def as_json(self) -> dict[str, str]:
        """The error as a JSON object: reason, message, place, cure."""
        return {"reason": self.reason, "message": self.message, "place": self.place, "cure": self.cure}


class ConfigError(ReplicatorError):
    """The configuration or the command line is wrong; nothing was started. Exit code 2."""


class Rejected(ReplicatorError):
    """A request that is refused as it is; ``status`` is its HTTP status, ``retry_after`` in seconds if any."""

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        status: int = 400,
        retry_after: int | None = None,
        place: str = "",
        cure: str = "",
    ) -> None:
        super().__init__(reason, message, place=place, cure=cure)
        self.status = status
        self.retry_after = retry_after


class Unavailable(ReplicatorError):
    """Something outside cannot be reached or used now; the stage waits, visibly, and tries again."""


class Halted(ReplicatorError):
    """The strand cannot go on without a person: the reason is kept and shown until it is cured."""


class Corrupt(Halted):
    """Bytes that fail their own proof: a broken hash, link or encoding."""

    def __init__(self, reason: str, message: str, *, place: str = "", cure: str = "") -> None:
        cure = cure or "check them where they come from (replicator journal verify); nothing of them was used"
        super().__init__(reason, message, place=place, cure=cure)

    def within(self, place: str) -> Corrupt:
        """The same error, where it had no better place to name."""
        return Corrupt(self.reason, self.message, place=self.place or place, cure=self.cure)
