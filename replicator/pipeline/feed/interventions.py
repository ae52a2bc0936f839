"""What a person may decide about gaps, conflicts and late blocks of a strand.

Guarantee: nothing here lets a region go on without a block that the primary has. The blocks of a strand form a hash
chain; a position commits to all history before it, so a region that skipped a block could never again be called equal.
A waiver therefore ends a chained strand: it must be asked for as such (``halt_strand``), is durable, certified and
shown, and the strand stays halted before the gap until the region is made anew.

Every method raises Rejected (it cannot be done as asked) or Unavailable (the settle buffer does not run now).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import trio

from replicator.errors import Halted, Rejected, Unavailable
from replicator.pipeline.feed.notices import span
from settle_buffer.entry import Entry
from settle_buffer.errors import Misuse, SettleError
from settle_buffer.events import Certificate
from settle_buffer.loop import Settler

PATIENCE_SECONDS = 10.0  # for a settle buffer that is reading what an earlier life left


class Interventions:
    """A strand's settle buffer, as far as people may reach into it. ``settler`` gives the one that runs now;
    ``resumed`` is told that it goes on, and says what halts the strand yet."""

    def __init__(self, strand: str, settler: Callable[[], Settler], resumed: Callable[[], Halted | None]) -> None:
        self._strand = strand
        self._settler = settler
        self._resumed = resumed

    async def waive(self, first: int, last: int, who: str, why: str, *, halt_strand: bool) -> None:
        """Give up what is missing of ``first`` to ``last``: durable when this returns, and not to be taken back.
        ``who`` and ``why`` go into its certificate."""
        if not halt_strand:
            raise Rejected(
                "chained",
                f"{span(first, last)} is part of a hash chain: without it nothing that follows can be proven, so the "
                "region would not go on but stay before it for good",
                status=409,
                place=self._place,
                cure="let [follow] primary name a region that has the blocks; or waive with --halt-strand, and make "
                "this region anew",
            )
        with self._running():
            await self._settler().waive(self._strand, first, last, who, why)

    async def discard(self, first: int, last: int) -> None:
        """Forget what waits of ``first`` to ``last``, every copy of it, have it fetched again, and go on."""
        with self._running():
            await self._settler().discard(self._strand, first, last)
        await self.resume()

    async def resume(self) -> None:
        """Let a strand that a conflict or a late block has stopped go on."""
        with self._running():
            await self._settler().resume(self._strand)
        # A strand that stands before a waived gap is not let go by this: say so, instead of a success that is none.
        if (halted := self._resumed()) is not None:
            raise Rejected(halted.reason, halted.message, status=409, place=self._place, cure=halted.cure)

    async def certificates(self) -> list[Certificate]:
        """How gaps were closed, oldest first."""
        with self._running():
            return await self._settler().certificates()

    async def late(self) -> list[tuple[int, Entry]]:
        """Late blocks that nobody has settled, each with its number."""
        with self._running():
            return await self._settler().late()

    async def settle_late(self, number: int) -> None:
        """The late block with this number has been dealt with."""
        if number not in (known for known, _ in await self.late()):
            cure = "see replicator gaps late CONFIG"
            raise Rejected("no_such_late", f"there is no late block {number}", status=404, place=self._place, cure=cure)
        with self._running():
            await self._settler().settle_late(number)

    @property
    def _place(self) -> str:
        return f"strand {self._strand}"

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        """Bound the wait for the settle buffer, and say its refusals as ours."""
        try:
            with trio.fail_after(PATIENCE_SECONDS):
                yield
        except trio.TooSlowError as error:
            raise self._unavailable("it is not ready yet") from error
        except Misuse as error:
            if error.reason == "not_running":
                raise self._unavailable("it does not run now") from error
            cure = error.cure or "see replicator gaps CONFIG"
            raise Rejected(error.reason, error.message, status=409, place=self._place, cure=cure) from error
        except SettleError as error:
            raise Unavailable(error.reason, error.message, place=error.place, cure=error.cure) from error

    def _unavailable(self, message: str) -> Unavailable:
        cure = "replicator status CONFIG says why; try again"
        return Unavailable("settle_buffer_down", f"the settle buffer: {message}", place=self._place, cure=cure)
