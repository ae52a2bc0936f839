"""What a stream brings again at its start, compared with the journal: is the server's log the one that was read?

A server whose disk was set back to an older copy goes on in the same timeline, and once it has written beyond our place
nothing but the log's content tells. After a crash it has all that it ever sent, though the slot may have been set back
to where it stood at the last checkpoint. So the stream is asked for the log from before the journal's last transaction
on: that must come again as the journal has it (end, number and time of its commit), and nothing else up to our place.

Guarantee: pure. ``end`` returns only if the log, up to where we go on, is the one that the journal was made from, as
far back as the slot still has it. Two histories that differ before our place differ in what is compared: either the
last transaction is missing in the other one, or that was forked behind it, and brings what we do not have.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from replicator.errors import Halted
from replicator.format.block import Header
from replicator.pipeline.sources.postgres.chain_start import ChainStart
from replicator.pipeline.sources.postgres.sequences import EPOCH_PREFIX, SEQUENCES_TXID
from replicator.postgres.lsn import lsn_text, parse_lsn

MESSAGE_TXID = "message"
LOOK_BACK_BLOCKS = 1000  # messages behind the last transaction


class Sent(NamedTuple):
    """What a stream brings: the place behind it, the transaction's number, and when it was committed (µs)."""

    origin: int
    txid: str
    committed_at: int


class Reread:
    """The part of the log from ``since`` on that was read before, of which ``expected`` should come again."""

    def __init__(self, since: int, expected: Sequence[Sent] = (), cure: str = "") -> None:
        self.since = since
        self.is_proven = False
        self._expected = deque(expected)
        self._cure = cure

    def take(self, sent: Sent) -> None:
        """A transaction that changed something, or a message, came again. Raises Halted if the journal has another."""
        if sent.origin <= self.since:
            return
        if not self._expected or not _same(self._expected[0], sent):
            raise self._differs(f"transaction {sent.txid} at {lsn_text(sent.origin)} is not in the journal")
        self._expected.popleft()

    def end(self) -> None:
        """The stream has passed our place. Raises Halted if something of the journal did not come again."""
        if self._expected:
            missing = self._expected[0]
            raise self._differs(f"transaction {missing.txid} at {lsn_text(missing.origin)} is not in it")
        self.is_proven = True

    def _differs(self, what: str) -> Halted:
        return Halted(
            "server_rolled_back",
            f"the server's log is not the one that the journal was made from: {what}; the server was set back, and has"
            " written since",
            place=f"log from {lsn_text(self.since)} on",
            cure=self._cure,
        )


def reread(headers: Iterable[Header], begins: ChainStart | None, start: int, confirmed: int, cure: str) -> Reread:
    """What to read again before going on at ``start``: ``headers`` are the journal's, the last one first, and
    ``confirmed`` is where the slot stands, before which the server sends nothing."""
    expected: list[Sent] = []
    since = None
    for header in headers:
        if begins is not None and header.sequence <= begins.sequence:
            since = begins.lsn
            break
        if not header.origin or header.txid == SEQUENCES_TXID or header.txid.startswith(EPOCH_PREFIX):  # in no log
            continue
        origin = parse_lsn(header.origin)
        is_whole = bool(expected) and expected[-1].txid.isdecimal()
        is_change = header.txid.isdecimal() or header.txid == MESSAGE_TXID
        if origin <= confirmed or is_whole or not is_change or len(expected) == LOOK_BACK_BLOCKS:
            since = origin
            break
        expected.append(Sent(origin, header.txid, header.committed_at))
    if since is None:  # what was before is gone: it cannot be told from what was never there
        since = expected.pop().origin if expected else start
    return Reread(min(max(since, confirmed), start), expected[::-1], cure)


def _same(one: Sent, other: Sent) -> bool:
    """A message that comes again bears the time at which it was sent again."""
    return one[:2] == other[:2] and (one.txid == MESSAGE_TXID or one.committed_at == other.committed_at)
