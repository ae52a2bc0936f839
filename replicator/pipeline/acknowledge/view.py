"""How acknowledgement stands at one moment, as a value for status and metrics."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, slots=True)
class AcknowledgeView:
    """The rule's ``count``, the last ``acknowledged`` sequence, and whether the primary goes on ``degraded``, without
    enough regions; how many writers are ``waiting``, for how many seconds the oldest block that is not acknowledged has
    been, and the sequence that each of the ``regions`` reported."""

    count: int
    acknowledged: int
    degraded: bool
    waiting: int
    oldest_seconds: float
    regions: Mapping[str, int]
