"""Findings: what a check before the start saw, for people and for ``--json``.

Guarantee asked of every check that returns findings: it changes nothing, and it names a cure for all that is not ok.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

Level = Literal["ok", "warn", "fail"]


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. ``fail`` stops a start, ``warn`` is what an operator should know; ``cure`` is empty
    only for ``ok``."""

    level: Level
    what: str
    cure: str = ""
