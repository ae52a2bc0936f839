"""The advisory locks that sidecars take in a database: numbers that mean the same to all of them."""

from __future__ import annotations

# Whoever replays into the database, or changes its role, holds it. An arbitrary number.
WRITER_LOCK = 7_235_421_398_517

LOCKS = 1_919_250_540  # "repl": the first key of the others
GUARD = 1  # the guard of a fence, for as long as it is open
MUTEX = 2  # whoever moves the time until which a fence is open
INSTALLING = 3  # whoever makes the schema ``replicator`` and what is in it
