"""The one tree of errors.

    ReplicatorError          place, what went wrong, cure
    ├── ConfigError          the operator's file or command line; exit code 2
    ├── Rejected             the caller's request; answered with its HTTP status
    │   └── NotPrimary       a write, where writes are not taken now; names the primary
    ├── Unavailable          the world's fault that can get better: wait and try again
    │   └── OutcomeUnknown   a write that may stand and may yet be undone; to be sent again
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


class NotPrimary(Rejected):
    """A write that came to a region which takes none now. ``primary`` is the address of the one that does, if known;
    with ``retry_after`` the ledger is on its way to another region, and it is soon known."""

    def __init__(
        self, message: str, primary: str | None, *, status: int = 409, retry_after: int | None = None, place: str = ""
    ) -> None:
        cure = f"send it to {primary}" if primary else "send it to the primary region"
        if retry_after is not None:
            cure = f"send it again in {retry_after} s; the same idempotency key makes that safe"
        super().__init__("not_primary", message, status=status, retry_after=retry_after, place=place, cure=cure)
        self.primary = primary

    def as_json(self) -> dict[str, str]:
        """The error as a JSON object; ``primary`` is there if it is known."""
        return {**super().as_json(), **({"primary": self.primary} if self.primary else {})}


class Unavailable(ReplicatorError):
    """Something outside cannot be reached or used now; the stage waits, visibly, and tries again."""


class OutcomeUnknown(Unavailable):
    """What a writer hears whose transaction may have been committed and may yet be undone; ``why`` it is not known."""

    def __init__(self, why: str) -> None:
        super().__init__(
            "outcome_unknown",
            f"whether the transaction stands is not known: {why}",
            place="ledger",
            cure="send it again with the same idempotency key: it is then done once, or answered as the first time",
        )


class Halted(ReplicatorError):
    """The strand cannot go on without a person: the reason is kept and shown until it is cured."""


class Corrupt(Halted):
    """Bytes that fail their own proof: a broken hash, link or encoding."""

    def __init__(self, reason: str, message: str, *, place: str = "", cure: str = "") -> None:
        cure = cure or "check them where they come from (replicator journal verify CONFIG); nothing of them was used"
        super().__init__(reason, message, place=place, cure=cure)

    def within(self, place: str) -> Corrupt:
        """The same error, where it had no better place to name."""
        return Corrupt(self.reason, self.message, place=self.place or place, cure=self.cure)
