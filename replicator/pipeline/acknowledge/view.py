"""How acknowledgement stands at one moment, as a value."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, slots=True)
class AcknowledgeView:
    """How it stands: the rule's ``count``, the last ``acknowledged`` sequence, whether the primary goes on without
    enough regions, how many writers ``waiting`` and for how long the oldest block, and what each region reported."""

    count: int
    acknowledged: int
    degraded: bool
    waiting: int
    oldest_seconds: float
    regions: Mapping[str, int]
