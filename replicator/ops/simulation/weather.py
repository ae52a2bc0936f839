"""How bad the world is: the chances of what goes wrong by itself, beside the faults that a plan orders."""

from __future__ import annotations

import dataclasses

from replicator.ops.simulation.pace import UNEVEN, SidecarPace


@dataclasses.dataclass(slots=True)
class Weather:
    """Chances are per message, per disk write, per action or per step of a task. Seconds are the most that it takes."""

    delay_seconds: float = 0.02
    long_delay: float = 0.0  # the chance of a message that takes up to ``long_delay_seconds``
    long_delay_seconds: float = 4.0
    loss: float = 0.0
    double: float = 0.0
    disk_fails: float = 0.0
    action_fails: float = 0.0
    crash: float = 0.0
    crash_seconds: float = 4.0
    action_seconds: float = 0.2
    write_every_seconds: float = 0.4
    settles: float = 1.0  # the chance that the spool's first entries are certain of their order by now
    replay_blocks: int = 50  # at most so many blocks are applied at a time
    pace: SidecarPace = UNEVEN


FAIR = Weather()
