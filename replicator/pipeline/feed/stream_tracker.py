"""Up to where a feed has sent everything: what makes a missing *last* block show.

Guarantee: nothing is called sent that the feed may still be about to send in this stream.

The idea. A heartbeat names the head of the feed's chain, but during a catch-up the blocks up to it are still to come. A
feed that has blocks to send sends some between two heartbeats. So two heartbeats with nothing between them say that
everything up to the head that the first one named has been sent; what of it is not here was lost on the way. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

from replicator.format.wire import Frame, Heartbeat


class StreamTracker:
    """Follows the frames of one stream."""

    def __init__(self) -> None:
        self._named_sequence: int | None = None  # by the last heartbeat, if nothing has come behind it

    def up_to(self, batch: Sequence[Frame]) -> int | None:
        """The sequence up to which all has been sent, None if the end of this batch does not tell."""
        beats: list[int] = []  # what the heartbeats at the end name, the last one first
        for frame in reversed(batch):
            if not isinstance(frame, Heartbeat):
                break
            beats.append(frame.position.sequence)
        named_sequence = None if len(beats) < len(batch) else self._named_sequence
        self._named_sequence = beats[0] if beats else None
        if not beats:
            return None
        named_sequence = beats[1] if len(beats) > 1 else named_sequence
        # A head that the next heartbeat takes back was a mistake: nothing beyond the lower one was ever there to send.
        return None if named_sequence is None else min(named_sequence, beats[0])
