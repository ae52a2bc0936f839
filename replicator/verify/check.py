"""Verification: two regions at one position, compared completely.

Guarantee: *equal* is said of one position that both regions had, with the same hash, and of every row of it. Writes go
on meanwhile: the replica is paused first, so it is behind; then the primary's moment is fixed; then the replica is let
run to exactly that moment. What could not be compared is never called equal or different.
"""

from __future__ import annotations

import contextlib
import dataclasses

import trio

from replicator.errors import ReplicatorError, Unavailable
from replicator.format.position import Position, PositionOrder, compare
from replicator.transport.endpoint import Endpoint
from replicator.verify.compare import TableResult, compare_sides
from replicator.verify.remote import remote_side
from replicator.verify.side import Side

ATTEMPTS = 5
LISTED = 100


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of a comparison: the names of both regions, the position of both, and each table's result."""

    primary: str
    replica: str
    position: Position
    tables: list[TableResult]

    @property
    def is_equal(self) -> bool:
        """Whether every table is equal."""
        return all(table.is_equal for table in self.tables)

    @property
    def result(self) -> str:
        """In a word; *not checked*: nothing is known to differ, but some table could not be read."""
        if self.is_equal:
            return "equal"
        return "divergent" if any(table.differs for table in self.tables) else "not checked"


class Divergence(ReplicatorError):
    """The chains themselves differ: there is no common position to compare rows at."""


async def verify(primary: Endpoint, replica: Endpoint, listed: int = LISTED) -> Verdict:
    """Compare two regions. Raises Divergence, or Unavailable or Corrupt if it could not be done."""
    async with remote_side(primary) as there, remote_side(replica) as here:
        position = await meet(there, here)
        verdict = Verdict(primary.name, replica.name, position, await compare_sides(there, here, listed))
        if not verdict.is_equal:
            # So that the difference shows where alerts look, too; whoever asked hears of it in any case.
            with contextlib.suppress(ReplicatorError):
                await here.ask_for_scrub()
    return verdict


async def meet(primary: Side, replica: Side) -> Position:
    """Fix both at the position that the primary shows now. Raises ReplicatorError, or Divergence."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return await _meet_once(primary, replica)
        except ReplicatorError as error:  # somebody else who compares may have let replay go on
            if error.reason not in ("moment_passed", "replica_ahead") or attempt == ATTEMPTS:
                raise
        await trio.sleep(0.2 * attempt)
    raise AssertionError("the last attempt returns or raises")


async def _meet_once(primary: Side, replica: Side) -> Position:
    try:
        # In this order: a replica that is held is behind the moment that the primary fixes after that, and is then let
        # run to it. The other way round it might have passed it, and no database shows its past.
        paused = await replica.pause()
        await primary.fix(None)
        if primary.position.sequence < paused.sequence:
            message = f"the replica is at sequence {paused.sequence}, the primary shows {primary.position.sequence}"
            raise Unavailable("replica_ahead", message, place=replica.name, cure="verify again in a moment")
        await replica.fix(primary.position.sequence)
    finally:  # also when cancelled; a hold ends by itself, but not at once
        with trio.CancelScope(shield=True), trio.move_on_after(2), contextlib.suppress(ReplicatorError):
            await replica.go_on()
    if compare(replica.position, primary.position) is not PositionOrder.EQUAL:
        message = f"diverged: the regions hold different blocks at sequence {primary.position.sequence}"
        cure = "find out which history is right, then make the other region anew: replicator bootstrap CONFIG --replace"
        raise Divergence("diverged", message, place=f"{primary.name} and {replica.name}", cure=cure)
    return primary.position
