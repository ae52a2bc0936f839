"""The advisory locks that sidecars take in a database: two numbers, the first of which is always LOCKS."""

from __future__ import annotations

LOCKS = 1_919_250_540  # "repl"
GUARD = 1  # held by the session that keeps the fence open
MUTEX = 2  # held for one change of the fence
INSTALLING = 3  # held while our own tables and functions are made
