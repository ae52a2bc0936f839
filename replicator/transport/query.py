"""What stands in a request's path or query, as values."""

from __future__ import annotations

from replicator.errors import Rejected
from replicator.format.position import MAX_SEQUENCE

DIGITS_LIMIT = 20


def whole_number(text: str, name: str) -> int:
    """A number from 0 to ``MAX_SEQUENCE``; ``name`` is the parameter's. Raises Rejected (``bad_request``)."""
    # isdigit alone takes digits of other scripts; the length bounds what int() has to do.
    if not (text.isascii() and text.isdigit() and len(text) <= DIGITS_LIMIT and int(text) <= MAX_SEQUENCE):
        raise Rejected("bad_request", f"{name} is a whole number, not {text[:64]!r}", place=name)
    return int(text)
