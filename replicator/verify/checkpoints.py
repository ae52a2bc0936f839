"""Checkpoints: at the latest every second or every so many blocks, what a replica stores is compared with the journal.

Guarantee: the comparison is of one exact sequence: the position and the rows come from one snapshot of the replica's
own database, after its commit, and the journal says, through the chain that every region shares, what must stand there.
So a statement that was skipped, done twice or in the wrong order is found at the next checkpoint, and the first block
whose change is missing is named. Replay does not wait for it; it takes at most ``share`` of the time, so in a catch-up
checkpoints lie further apart. Not seen here: what somebody changes in a key that no block touches; that is the scrub's.

Memory: a window with more than ``WINDOW_STATEMENTS`` statements is not looked at by itself; the scrub answers for it.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
from collections.abc import Awaitable, Callable, Iterator
from typing import NamedTuple, Protocol

import trio

from replicator.format.block import Block, BlockPart
from replicator.format.canonical import RowLines, texts_of
from replicator.format.definition import Definition
from replicator.format.statement import statement_runs
from replicator.pipeline.replicas.base import KeyedLine, Reader
from replicator.storage.journal.head import JournalHead
from replicator.verify.diagnosis import Diagnosis, diagnose
from replicator.verify.evidence import KeyQuestion, Witness
from replicator.verify.findings import DivergenceFindings, DivergentKey
from replicator.verify.side import held_keys
from replicator.verify.window import ExpectedLine, StatementWindow

log = logging.getLogger("replicator")

WINDOW_STATEMENTS = 300_000
READ_BYTES = 1 << 20
REST_LIMIT_SECONDS = 60.0
RECHECK_SECONDS = 5.0  # a key that is wrong is looked at again this often, also while nothing is written
EXPLAINED_KEYS = 100  # of a checkpoint
LOGGED_KEYS = 20  # of a checkpoint, in the log


class CheckpointJournal(Protocol):
    """The region's journal."""

    def blocks(self, strand: str, after: int, limit_bytes: int) -> list[Block]: ...
    def parts(self, strand: str, sequence: int) -> Iterator[BlockPart]: ...
    def definitions(self, strand: str, at: int | None = None) -> dict[int, Definition]: ...


@dataclasses.dataclass(frozen=True, slots=True)
class Cadence:
    """When checkpoints are made: after so many ``seconds`` or ``blocks``, whichever comes first, and in no more than a
    ``share`` of the time (0 to 1)."""

    seconds: float
    blocks: int
    share: float


def rest_seconds(took_seconds: float, share: float) -> float:
    """How long to rest behind a checkpoint, so that it takes no more than its share of the time."""
    return min(took_seconds * (1 / share - 1), REST_LIMIT_SECONDS)


class KeyMismatch(NamedTuple):
    """A key line of a table under which the replica stores another line than is expected; None: no row."""

    definition: Definition
    key: bytes
    expected: ExpectedLine
    line: bytes | None


class CheckpointLook(NamedTuple):
    """What a look at the replica found, of the blocks behind ``after`` up to ``until``: which keys are wrong, and which
    of the known ones are right. ``wrong`` is None if the window was too large; ``held`` are key lines, by table, that
    quarantine holds."""

    after: int
    until: int
    wrong: list[KeyMismatch] | None
    right: list[tuple[str, bytes]]
    held: dict[str, set[bytes]]


class Checkpoints:
    """Compares one replica with the journal, for ever. ``on_checked`` hears of each checkpoint: when its look began."""

    def __init__(
        self,
        name: str,
        journal: CheckpointJournal,
        strand: str,
        open_reader: Callable[[], Reader],
        applied: JournalHead,
        witness: Witness,
        cadence: Cadence,
        findings: DivergenceFindings,
        on_checked: Callable[[float], Awaitable[None]],
        window_statements: int = WINDOW_STATEMENTS,
    ) -> None:
        self._name = name
        self._journal = journal
        self._strand = strand
        self._open_reader = open_reader
        self._applied = applied
        self._witness = witness
        self._cadence = cadence
        self._findings = findings
        self._on_checked = on_checked
        self._window_statements = window_statements
        self._reader: Reader | None = None
        self._waiting = trio.CancelScope()

    async def run(self) -> None:
        """Check whenever it is time. Raises what the replica or the journal raises."""
        rest = 0.0
        try:
            while True:
                with trio.CancelScope() as self._waiting:
                    await trio.sleep(rest)
                    await self._due()
                began = trio.current_time()
                await self.check()
                rest = rest_seconds(trio.current_time() - began, self._cadence.share)
        finally:
            self.close()

    def hurry(self) -> None:
        """Check now, whatever the cadence says."""
        self._waiting.cancel()

    async def _due(self) -> None:
        """Return when there is something to check, and it is time."""
        cadence, findings = self._cadence, self._findings
        with trio.move_on_after(RECHECK_SECONDS if findings.wrong else math.inf):
            await self._applied.beyond(findings.checked)
        with trio.move_on_after(cadence.seconds):
            await self._applied.beyond(findings.checked + cadence.blocks - 1)

    def close(self) -> None:
        """Let the replica go."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    async def check(self) -> None:
        """Compare what was touched since the last checkpoint, and the keys that were wrong."""
        began = trio.current_time()
        look = await trio.to_thread.run_sync(self._look)
        findings = self._findings
        if findings.checked < look.after:
            return  # the replica went back meanwhile: what was seen is not what will stand there
        if look.wrong is None:
            log.info("blocks up to %d are too many for a checkpoint, or gone: a scrub proves them", look.until)
            findings.too_large(look.until)
        else:
            wrong = await self._explained(look.wrong, look)
            self._log_new([key for key in wrong if (key.table, key.key_line) not in findings.wrong], look.until)
            findings.window(look.until, wrong, look.right)
        await self._on_checked(began)

    def _look(self) -> CheckpointLook:
        # The connection is kept from look to look; the snapshot is not: an old one keeps a database from cleaning up.
        try:
            if self._reader is None:
                self._reader = self._open_reader()
            self._reader.snapshot()
            look = self._look_at(self._reader)
            self._reader.release()
            return look
        except BaseException:
            self.close()
            raise

    def _look_at(self, reader: Reader) -> CheckpointLook:
        applied = reader.applied(self._strand)
        after, until = self._findings.checked, applied.position.sequence if applied else 0
        window = self._window(after, until)
        if window is None:
            return CheckpointLook(after, until, None, [], {})
        return self._compare(reader, window, after, until)

    def _window(self, after: int, until: int) -> StatementWindow | None:
        """What the blocks behind ``after`` leave; None if that is too much, or not here any more."""
        # All definitions up to its end, by relation: those that were in force at its beginning are among them.
        window = StatementWindow(self._journal.definitions(self._strand, until))
        parts = functools.partial(self._journal.parts, self._strand)
        while after < until:
            blocks = [b for b in self._journal.blocks(self._strand, after, READ_BYTES) if b.header.sequence <= until]
            if not blocks or blocks[0].header.sequence != after + 1:
                return None  # the journal has let blocks go that were not compared yet
            if window.statements + sum(block.header.statements for block in blocks) > self._window_statements:
                return None
            for sequence, ordinal, statements in statement_runs(blocks, parts):
                window.add(sequence, statements, ordinal)
            after = blocks[-1].header.sequence
        return window

    def _compare(self, reader: Reader, window: StatementWindow, after: int, until: int) -> CheckpointLook:
        wrong: list[KeyMismatch] = []
        right: list[tuple[str, bytes]] = []
        labels = window.labels() | {label for label, _ in self._findings.wrong}
        for definition in reader.tables():
            if definition.label in labels:
                # What was wrong is looked at again, until it is right; the window's word counts, for it is younger.
                expected = self._known_wrong(definition) | window.expected(definition)
                stored = dict(
                    _stored(reader, definition, list(expected), window.is_truncated(definition), after, until)
                )
                names = RowLines(definition).names
                for key in expected.keys() | stored.keys():
                    rightful, line = expected.get(key, ExpectedLine(until, None)), stored.get(key)
                    if not rightful.is_met_by(line, names):
                        wrong.append(KeyMismatch(definition, key, rightful, line))
                    elif (definition.label, key) in self._findings.wrong:
                        right.append((definition.label, key))
        return CheckpointLook(after, until, wrong, right, held_keys(reader, self._strand) if wrong else {})

    def _known_wrong(self, definition: Definition) -> dict[bytes, ExpectedLine]:
        """The keys of this table that were wrong, and what must stand there."""
        return {
            key.key_line: ExpectedLine(key.found_at, key.right)
            for key in self._findings.wrong.values()
            if key.table == definition.label and key.is_right_known and definition.key
        }

    async def _explained(self, mismatches: list[KeyMismatch], look: CheckpointLook) -> list[DivergentKey]:
        """The mismatches as findings, the first of them with a diagnosis."""
        wrong: list[DivergentKey] = []
        for number, mismatch in enumerate(mismatches):
            diagnosis = await self._diagnosis(mismatch, look) if number < EXPLAINED_KEYS else None
            label, key, expected = mismatch.definition.label, mismatch.key, mismatch.expected
            shown, is_known = key_for_people(mismatch), expected.known is None
            wrong.append(DivergentKey(label, key, shown, is_known, expected.line, look.until, diagnosis))
        return wrong

    async def _diagnosis(self, mismatch: KeyMismatch, look: CheckpointLook) -> Diagnosis:
        label, line, expected = mismatch.definition.label, mismatch.line, mismatch.expected
        (evidence,) = await self._witness.evidence(label, [KeyQuestion(mismatch.key, (line,))], look.until)
        if evidence.known:
            held = mismatch.key in look.held.get(label, set())
            return diagnose({self._name: line}, evidence._replace(held=held))
        # Without an index of the past the window itself still says what should stand there.
        what = "is missing" if line is None else "should not be there" if expected.line is None else "is another one"
        return Diagnosis((self._name,), None, None, f"the row that block {expected.sequence} left {what}")

    def _log_new(self, wrong: list[DivergentKey], until: int) -> None:
        """Log keys that were right, or not looked at, until now; those that stay wrong are logged once."""
        for key in wrong[:LOGGED_KEYS]:
            diagnosis = key.diagnosis
            since = f", first block {diagnosis.first.sequence}" if diagnosis and diagnosis.first else ""
            cause = f": {diagnosis.cause}" if diagnosis else ""
            log.error("divergent at sequence %d: table %s, key %s%s%s", until, key.table, key.key, since, cause)
        if len(wrong) > LOGGED_KEYS:
            log.error("divergent at sequence %d: %d keys more", until, len(wrong) - LOGGED_KEYS)


def key_for_people(mismatch: KeyMismatch) -> str:
    """A key as text: its values; of a row without a key its place."""
    names, line = mismatch.definition.key, mismatch.key
    if not names:
        return line.decode(errors="replace")
    return ", ".join(f"{name}={text}" for name, text in zip(names, texts_of(line), strict=True))


def _stored(
    reader: Reader, definition: Definition, keys: list[bytes], truncated: bool, after: int, until: int
) -> list[KeyedLine]:
    """What the replica stores under these keys; of a truncated table all that it stores."""
    if not definition.key:
        chunks = reader.lines_placed(definition.label, 0 if truncated else after, until)
        return [row for chunk in chunks for row in chunk]
    if truncated:
        return [row for chunk in reader.lines(definition.label) for row in chunk]
    return reader.lines_of(definition.label, [[text or "" for text in texts_of(key)] for key in keys])
