"""Places in PostgreSQL's write-ahead log, and its clock.

An LSN is a 64-bit number here and ``XXXXXXXX/XXXXXXXX`` in text, which is the form of an origin.
"""

from __future__ import annotations

import re

EPOCH_US = 946_684_800_000_000  # PostgreSQL counts from 2000-01-01; this is it in microseconds since 1970

_PATTERN = re.compile(r"([0-9A-F]{1,8})/([0-9A-F]{1,8})", re.IGNORECASE)


def lsn_text(lsn: int) -> str:
    """An LSN as PostgreSQL writes it."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def parse_lsn(text: str) -> int:
    """Read an LSN. Raises ValueError."""
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise ValueError(f"not a place in PostgreSQL's log: {text!r:.40}")
    return (int(match[1], 16) << 32) | int(match[2], 16)
