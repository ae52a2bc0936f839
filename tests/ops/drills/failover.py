"""What the regions say of themselves in a failover from paris to tokyo after an event at 5 s."""

from __future__ import annotations

from replicator.ops.drills.rules.observations import TimelineEntry

FAILOVER = [
    TimelineEntry(0.0, "paris", "primary"),
    TimelineEntry(0.0, "tokyo", "following"),
    TimelineEntry(5.1, "paris", "away"),
    TimelineEntry(8.0, "lima", "suspecting"),
    TimelineEntry(8.1, "tokyo", "suspecting", "nobody holds the lease"),
    TimelineEntry(8.2, "tokyo", "claiming", "for epoch 2"),
    TimelineEntry(8.25, "tokyo", "demoted", "the lease is not ours"),
    TimelineEntry(8.3, "tokyo", "claiming", "for epoch 3"),
    TimelineEntry(8.4, "tokyo", "fencing"),
    TimelineEntry(8.6, "tokyo", "draining"),
    TimelineEntry(8.7, "tokyo", "promoting"),
    TimelineEntry(8.9, "tokyo", "primary", "in epoch 3"),
    TimelineEntry(20.0, "paris", "primary"),
]
