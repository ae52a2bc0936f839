"""Times on the command line: RFC 3339, with their offset."""

from __future__ import annotations

import datetime

from replicator.errors import ConfigError

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def microseconds(option: str, text: str) -> int:
    """The time as µs since 1970. Raises ConfigError."""
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        cure = "write it like 2026-03-01T12:00:00Z, with its offset"
        raise ConfigError("bad_time", f"{text[:80]!r} is not a time", place=option, cure=cure)
    return (moment - _EPOCH) // datetime.timedelta(microseconds=1)
