"""How far each stage of a strand is, how far behind, and whether it is idle or stuck.

Guarantee: marks only move forward and keep their order, received ≥ settled ≥ applied ≥ verified; going back is an
error that is counted, save through ``reset`` with a reason. Lag is never negative, is unknown (None) rather than
invented, and does not shrink because a clock jumped.

The idea. A mark lags behind what feeds it: *received* behind the head of the primary, *settled* behind received,
*applied* behind settled, and end to end applied behind the head. In time, a mark that equals what feeds it lags by
nothing, and otherwise by the age of the oldest block that it does not have. That block was committed after the mark's
own, and after the last moment at which the mark was known to miss nothing: the later of the two is taken, so an idle
hour is not shown as an hour of lag. A ``committed_at`` of another machine's clock is turned into this process'
monotonic clock once, when it arrives; from then on no wall clock matters, and a wall clock that jumps is bounded by the
last moment of equality.

Behind the head silence is no calm: what counts is the *word* of whoever reads the ledger, that everything which it
committed before a moment is in its journal up to a sequence. A mark that has that sequence lags by the age of that
moment, however quiet the ledger is. Where the newest word is old, how many blocks are missing is not known.

Pure: time comes in as ``Now``. It does not persist anything (the stores hold the positions) and sees blocks only by
sequence; two chains that part are found elsewhere.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from replicator.errors import Halted, ReplicatorError, Unavailable
from replicator.status.marks import (
    MARKS,
    STAGES,
    Lag,
    Mark,
    MarkName,
    Now,
    StageCondition,
    StageName,
    StageView,
    StrandView,
)

HEARTBEAT_LIMIT_SECONDS = 10.0
WORDS_LIMIT = (
    1_000  # that were heard and not reached; of a longer backlog the oldest go, and it seems longer than it is
)

# What lags behind what: (the mark, what feeds it).
_PAIRS: dict[str, tuple[str, str]] = {
    "feed": ("received", "head"),
    "settle": ("settled", "received"),
    "apply": ("applied", "settled"),
    "settled": ("settled", "head"),
    "applied": ("applied", "head"),
}


# The marks that are behind the head, by the pair that says so.
_MARK_OF_PAIR: dict[str, MarkName] = {"feed": "received", "settled": "settled", "applied": "applied"}


class _Word(NamedTuple):
    """Everything that the ledger committed before the monotonic time ``complete_at``, which by its own clock is
    ``clock_us``, is in a block up to ``sequence``."""

    sequence: int
    complete_at: float
    clock_us: int


class _Stage:
    """The mutable side of a stage."""

    def __init__(self, now: Now) -> None:
        self.progress_at = now.monotonic
        self.heard_at: float | None = None
        self.trouble: ReplicatorError | None = None
        self.trouble_at = 0.0
        self.met_at = 0.0  # when the trouble was met last; it was met first at trouble_at


class StrandProgress:
    """One strand's marks and stages.

    ``stages`` are those that run here: a primary has ``source`` (an embedded ledger none), a replica region ``feed``
    and ``settle``, both ``apply`` where there is a replica. Without source or feed the journal itself is the head.
    """

    def __init__(
        self,
        strand: str,
        stages: Sequence[StageName],
        now: Now,
        *,
        heartbeat_limit_seconds: float = HEARTBEAT_LIMIT_SECONDS,
    ) -> None:
        self.strand = strand
        self.regressions = 0
        self._limit = heartbeat_limit_seconds
        self._started_at = now.monotonic
        # Before any stage is known nothing is: a region that has just started does not know whether it is behind.
        self._is_own_head = bool(stages) and not {"source", "feed"} & set(stages)
        self._stages = {name: _Stage(now) for name in STAGES if name in stages}
        self._marks: dict[str, Mark] = {}  # by mark's name, and "head"
        if self._is_own_head:
            self._marks["head"] = Mark(0, 0, now.monotonic, now.monotonic)
        self._equal_at: dict[str, float] = {}  # by pair: when the mark was last known to miss nothing
        self._words: deque[_Word] = deque(maxlen=WORDS_LIMIT)  # both fields grow from one to the next
        self._reached: dict[MarkName, _Word] = {}  # the newest word whose blocks are all within the mark
        self._resets: list[str] = []

    # -- what happened ------------------------------------------------------------------------------------------

    def advance(self, mark: MarkName, sequence: int, committed_at: int, now: Now) -> None:
        """The mark reached ``sequence``; so have the marks before it, for what is applied was settled and received.
        A mark whose stage does not run here goes with the one before it: a primary's readers read the ledger itself.

        Raises Halted ``mark_backwards``, and counts it, if the mark is beyond that already.
        """
        before = self._marks.get(mark)
        if before is not None and sequence < before.sequence:
            self.regressions += 1
            raise Halted(
                "mark_backwards",
                f"{mark} would go back from sequence {before.sequence} to {sequence}",
                place=f"strand {self.strand}",
                cure="make the region anew (replicator bootstrap CONFIG --replace); if nobody restored or replaced a"
                " database, report it as a bug",
            )
        if before is not None and sequence == before.sequence:
            return
        # Before the marks move and after it: a mark that misses nothing until now is overtaken by what comes next, and
        # the age of what it then misses is counted from this moment.
        self._note_equality(now.monotonic)
        new = _mark(sequence, committed_at, now)
        for name in self._marks_at_least_at(mark):
            current = self._marks.get(name)
            if current is None or current.sequence < sequence:
                self._marks[name] = new
                for stage in self._stages.keys() & _STAGES_OF_MARK[name]:
                    self._stages[stage].progress_at = now.monotonic
        self._raise_head(new)
        self._note_equality(now.monotonic)

    def prove(self, sequence: int, now: Now) -> None:
        """What is applied up to ``sequence`` is proven equal; beyond what is applied nothing can be."""
        applied = self._marks.get("applied")
        if applied is not None:
            self._marks["verified"] = applied._replace(sequence=min(sequence, applied.sequence), moved_at=now.monotonic)

    def hear_head(self, sequence: int, committed_at: int, now: Now, complete_at: float | None) -> None:
        """The region that is followed says that its head is at ``sequence``: a heartbeat. Everything that was committed
        before the monotonic time ``complete_at`` is in a block up to there; None: it does not know."""
        self._note_equality(now.monotonic)
        current, received = self._marks.get("head"), self._marks.get("received")
        if current is None or sequence > current.sequence:
            self._marks["head"] = _mark(sequence, committed_at, now)
        elif received is not None and max(sequence, received.sequence) < current.sequence:
            # The newest word counts: a head that was a mistake must not stay. What came here was there, though.
            newest = _mark(sequence, committed_at, now) if sequence > received.sequence else received
            self._marks["head"] = newest._replace(moved_at=now.monotonic)
        else:
            self._marks["head"] = current._replace(moved_at=now.monotonic)
        self._note_equality(now.monotonic)
        if complete_at is not None:
            # By the sender's clock, which comes with ``now``: two regions' clocks are never compared.
            self._take_word(_Word(sequence, complete_at, now.wall_us - round((now.monotonic - complete_at) * 1e6)))
        if "feed" in self._stages:
            self.hear("feed", now.monotonic)

    def hear(self, stage: StageName, at: float, clock_us: int = 0) -> None:
        """A sign of life came the whole way to ``stage`` at the monotonic time ``at``. Of a source: everything that was
        committed before is in the journal; ``clock_us`` is that time by the wall clock."""
        state = self._stages[stage]
        state.heard_at = at if state.heard_at is None else max(at, state.heard_at)
        if stage == "source":  # no heartbeat overtakes a block: the journal's end is the head, as of then
            head = self._marks.get("head") or self._marks.get("received") or Mark(0, 0, at, at)
            self._marks["head"] = head._replace(moved_at=state.heard_at)
            self._note_equality(at)
            self._take_word(_Word(self.sequence("received"), at, clock_us))

    def work(self, stage: StageName, now: Now) -> None:
        """The stage got on with something that moves no mark yet, such as a part of a large block."""
        self._stages[stage].progress_at = now.monotonic

    def wait(self, stage: StageName, cause: Unavailable, now: Now) -> None:
        """The stage cannot go on now and tries again. The first of equal causes keeps its time."""
        self._meet(stage, cause, now)

    def halt(self, stage: StageName, cause: ReplicatorError, now: Now) -> None:
        """The stage cannot go on without a person."""
        self._meet(stage, cause, now)

    def met_trouble_at(self, stage: StageName) -> float:
        """When the stage last met a trouble, on the monotonic clock."""
        return self._stages[stage].met_at

    def trouble(self, stage: StageName) -> ReplicatorError | None:
        """What the stage waits for or is halted by."""
        return self._stages[stage].trouble

    def go_on(self, stage: StageName) -> None:
        """The stage does something: what it waited for is there. A halt stays."""
        if isinstance(self._stages[stage].trouble, Unavailable):
            self._stages[stage].trouble = None

    def resume(self, stage: StageName) -> None:
        """The stage runs again: it is neither waiting nor halted."""
        self._stages[stage].trouble = None

    def reset(self, mark: MarkName, sequence: int, committed_at: int, reason: str, now: Now) -> None:
        """Set a mark back on purpose (resync, rewind), and those behind it with it. ``reason`` is kept and shown."""
        if not reason.strip():
            raise ValueError("a reset has a reason")
        for name in MARKS[MARKS.index(mark) :]:
            current = self._marks.get(name)
            if name == mark or (current is not None and current.sequence > sequence):
                self._marks[name] = _mark(sequence, committed_at, now)
        # It missed nothing before, which says nothing of the blocks that it has to get again.
        self._equal_at.clear()
        for name in MARKS[MARKS.index(mark) :]:
            self._reached.pop(name, None)
        self._resets = [*self._resets[-9:], f"{mark} set to {sequence}: {reason}"]
        self._note_equality(now.monotonic)

    # -- what it means ------------------------------------------------------------------------------------------

    def sequence(self, mark: MarkName) -> int:
        """Where the mark is; 0 before its first block."""
        current = self._marks.get(mark)
        return 0 if current is None else current.sequence

    def complete_at(self, mark: MarkName) -> float | None:
        """The latest monotonic time of which it is known that everything committed before it is within the mark."""
        reached = self._reached.get(mark)
        return None if reached is None else reached.complete_at

    def complete_clock_us(self, mark: MarkName) -> int | None:
        """The same time by the ledger's own clock."""
        reached = self._reached.get(mark)
        return None if reached is None else reached.clock_us

    def view(self, now: Now) -> StrandView:
        """Everything, as of now."""
        head = self._marks.get("head")
        return StrandView(
            strand=self.strand,
            head=head,
            head_age_seconds=None if head is None else self._head_age(now),
            marks={name: self._marks.get(name) for name in MARKS},
            stages=tuple(self._stage_view(name, state, now) for name, state in self._stages.items()),
            settled_lag=self._lag("settled", now),
            applied_lag=self._lag("applied", now),
            regressions=self.regressions,
            resets=tuple(self._resets),
        )

    def _stage_view(self, name: StageName, state: _Stage, now: Now) -> StageView:
        lag = self._source_lag(now) if name == "source" else self._lag(name, now)
        age = None
        if name in ("source", "feed"):
            since = self._started_at if state.heard_at is None else state.heard_at
            age = max(0.0, now.monotonic - since)
        return StageView(
            name=name,
            condition=self._condition(name, state, lag, age, now),
            lag=lag,
            progress_age_seconds=max(0.0, now.monotonic - state.progress_at),
            heartbeat_age_seconds=age,
            trouble=state.trouble,
            trouble_age_seconds=None if state.trouble is None else max(0.0, now.monotonic - state.trouble_at),
        )

    def _condition(self, name: str, state: _Stage, lag: Lag, heartbeat_age: float | None, now: Now) -> StageCondition:
        if state.trouble is not None:
            return StageCondition.WAITING if isinstance(state.trouble, Unavailable) else StageCondition.HALTED
        moving = now.monotonic - max(state.progress_at, self._equal_at.get(name, 0.0)) <= self._limit
        if heartbeat_age is not None and heartbeat_age > self._limit:
            moving = now.monotonic - state.progress_at <= self._limit  # equality with an old head proves nothing
            return StageCondition.WORKING if moving else StageCondition.STUCK
        if lag.blocks:
            return StageCondition.WORKING if moving else StageCondition.STUCK
        return StageCondition.WORKING if lag.blocks is None and moving else StageCondition.IDLE

    def _source_lag(self, now: Now) -> Lag:
        """A heartbeat overtakes nothing, so what was committed before the last one is here. Blocks are not numbered yet
        on the other side: not known."""
        heard_at = self._stages["source"].heard_at
        if heard_at is None:
            return Lag(None, None)
        return Lag(None, max(0.0, now.monotonic - heard_at))

    def _lag(self, pair: str, now: Now) -> Lag:
        name, feeder_name = _PAIRS[pair]
        feeder = self._marks.get(feeder_name)
        if feeder is None:
            return Lag(None, None) if feeder_name == "head" else Lag(0, 0.0)
        current = self._marks.get(name)
        blocks = max(0, feeder.sequence - (0 if current is None else current.sequence))
        if feeder_name == "head" and not self._is_own_head:
            return self._lag_behind_head(pair, blocks, current, feeder, now)
        committed = self._oldest_missing(pair, current, feeder) if blocks else now.monotonic
        return Lag(blocks, None if committed is None else max(0.0, now.monotonic - committed))

    def _lag_behind_head(self, pair: str, blocks: int, current: Mark | None, head: Mark, now: Now) -> Lag:
        since = self.complete_at(_MARK_OF_PAIR[pair])
        if since is None and blocks:  # no word was reached yet: the blocks' own times have to do
            since = self._oldest_missing(pair, current, head)
        is_known = bool(self._words) and now.monotonic - self._words[-1].complete_at <= self._limit
        return Lag(blocks if is_known else None, None if since is None else max(0.0, now.monotonic - since))

    def _oldest_missing(self, pair: str, current: Mark | None, feeder: Mark) -> float | None:
        """When the oldest block that the mark misses was committed, on the monotonic clock; rather too early than late.
        None where nothing is known of it."""
        bounds = [self._equal_at[pair]] if pair in self._equal_at else []
        if feeder.sequence == (1 if current is None else current.sequence + 1):
            bounds.append(feeder.committed_monotonic)
        elif current is not None and current.sequence:  # before the first block there is no time to go by
            bounds.append(current.committed_monotonic)
        return max(bounds, default=None)

    def _head_age(self, now: Now) -> float | None:
        """How old the newest word is; None if there was none."""
        if self._is_own_head:
            return 0.0
        return max(0.0, now.monotonic - self._words[-1].complete_at) if self._words else None

    # -- keeping the books --------------------------------------------------------------------------------------

    def _marks_at_least_at(self, mark: MarkName) -> tuple[MarkName, ...]:
        """The marks that are where ``mark`` is: those before it, and those behind it whose stage does not run here."""
        end = MARKS.index(mark) + 1
        while end < len(MARKS) - 1 and not _STAGES_OF_MARK[MARKS[end]] & self._stages.keys():
            end += 1
        return MARKS[:end]

    def _raise_head(self, new: Mark) -> None:
        """A block beyond the last known head proves that the head is at least there, not that nothing follows: the time
        of the heartbeat stays. Before the first word of the primary there is no head."""
        current = self._marks.get("head")
        if current is not None and current.sequence < new.sequence:
            self._marks["head"] = new if self._is_own_head else new._replace(moved_at=current.moved_at)

    def _note_equality(self, monotonic: float) -> None:
        for pair, (name, feeder_name) in _PAIRS.items():
            feeder, current = self._marks.get(feeder_name), self._marks.get(name)
            if feeder is not None and (0 if current is None else current.sequence) >= feeder.sequence:
                known_at = feeder.moved_at if feeder_name == "head" and not self._is_own_head else monotonic
                self._equal_at[pair] = max(known_at, self._equal_at.get(pair, known_at))
        self._note_completeness()

    def _take_word(self, word: _Word) -> None:
        # The newest word counts: one that named a later block and an earlier time was a mistake, or says no more.
        while self._words and self._words[-1].sequence >= word.sequence:
            if self._words[-1].sequence == word.sequence and self._words[-1].complete_at >= word.complete_at:
                return
            self._words.pop()
        if self._words and self._words[-1].complete_at >= word.complete_at:
            return
        self._words.append(word)
        self._note_completeness()

    def _note_completeness(self) -> None:
        """Each mark has reached the words up to its sequence; those that all have reached are kept no longer."""
        for name in _MARK_OF_PAIR.values():
            sequence = self.sequence(name)
            reached = next((word for word in reversed(self._words) if word.sequence <= sequence), None)
            before = self._reached.get(name)
            if reached is not None and (before is None or reached.complete_at > before.complete_at):
                self._reached[name] = reached
        while len(self._words) > 1 and self._words[1].sequence <= self.sequence("applied"):
            self._words.popleft()

    def _meet(self, stage: StageName, cause: ReplicatorError, now: Now) -> None:
        state = self._stages[stage]
        if state.trouble is None or str(state.trouble) != str(cause) or type(state.trouble) is not type(cause):
            state.trouble_at = now.monotonic
        state.trouble, state.met_at = cause, now.monotonic


_STAGES_OF_MARK: dict[MarkName, set[StageName]] = {
    "received": {"source", "feed"},
    "settled": {"settle"},
    "applied": {"apply"},
    "verified": set(),
}


def _mark(sequence: int, committed_at: int, now: Now) -> Mark:
    age_seconds = max(0, now.wall_us - committed_at) / 1e6
    return Mark(sequence, committed_at, now.monotonic, now.monotonic - age_seconds)
