"""A durable, ordered, gap-proof settle buffer: see README.md for what it guarantees.

The pure core is ``SettleBuffer``, the durable store ``Spool``; ``settle_buffer.loop.Settler`` joins them on trio.
"""

from settle_buffer.buffer import SettleBuffer
from settle_buffer.config import AutoWindow, SettleConfig
from settle_buffer.entry import Entry
from settle_buffer.errors import Misuse, SettleError, SpoolDamaged, SpoolUnavailable
from settle_buffer.events import (
    Certificate,
    Conflict,
    Correction,
    Duplicate,
    Event,
    GapExpired,
    GapFilled,
    GapOpened,
    GapRequest,
    GapWaived,
    Idle,
    Late,
    Load,
    Pressure,
    Release,
    SpoolSetAside,
    Stopped,
)
from settle_buffer.spool import Spool
from settle_buffer.status import GapStatus, Status, StrandStatus

__all__ = [
    "AutoWindow",
    "Certificate",
    "Conflict",
    "Correction",
    "Duplicate",
    "Entry",
    "Event",
    "GapExpired",
    "GapFilled",
    "GapOpened",
    "GapRequest",
    "GapStatus",
    "GapWaived",
    "Idle",
    "Late",
    "Load",
    "Misuse",
    "Pressure",
    "Release",
    "SettleBuffer",
    "SettleConfig",
    "SettleError",
    "Spool",
    "SpoolDamaged",
    "SpoolSetAside",
    "SpoolUnavailable",
    "Status",
    "Stopped",
    "StrandStatus",
]
