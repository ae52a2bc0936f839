"""The errors of this library, one tree.

    SettleError            what went wrong, where, and what cures it
    ├── Misuse             the caller's call was illegal; nothing has changed
    ├── SpoolDamaged       stored bytes that do not prove themselves; the file is named
    └── SpoolUnavailable   the disk or the file cannot be used now

Guarantee: ``reason`` is a short stable slug for programs; the text names the place and the cure.
"""

from __future__ import annotations


class SettleError(Exception):
    """What went wrong, where, and what cures it."""

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


class Misuse(SettleError):
    """An illegal call: refused as a whole, the state is as it was."""


class SpoolDamaged(SettleError):
    """The spool file holds bytes that fail their checksum or are no spool at all."""


class SpoolUnavailable(SettleError):
    """The spool cannot be read or written now: disk full, file locked, no permission."""
