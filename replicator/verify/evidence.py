"""What the journal says of a key: its right row at a position, the block that wrote it, and older rows.

Guarantee: the right row is the one that the last statement up to the position left, read by the definition that is in
force there; a row that cannot be completed from the journal (its unchanged columns are older than the journal) is
*unknown*, never guessed. The journal is proven by its chain, so it is the third voice when two regions disagree, also
where there are no more than two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import trio

from replicator.format.canonical import line_of, texts_of
from replicator.format.definition import Column, Definition
from replicator.format.row import UNCHANGED, Cell, unpack_row
from replicator.format.values import text_of
from replicator.storage.journal.history import HistoryEntry

VERSIONS_LIMIT = 500  # of a key that are looked at
INDEX_SECONDS = 10.0
LOOK_SECONDS = 0.05


class KeyQuestion(NamedTuple):
    """A key line, and the lines that regions show for it; None: no such row."""

    key: bytes
    lines: tuple[bytes | None, ...]


class BlockRef(NamedTuple):
    """A block that touched a key; ``committed_at`` in µs since 1970."""

    sequence: int
    txid: str
    committed_at: int


class Evidence(NamedTuple):
    """The journal's word on a key.

    ``known``: whether it can tell. ``right`` is the line that should stand there, None: no row. ``last`` is the block
    that touched the key last, None if none ever did. ``met`` is, for each line that was asked about, the block whose
    state it is, None if no block left the key so. ``next`` is for each of these the block that changed it after that.
    ``held``: a statement of the key is in quarantine here.
    """

    known: bool
    right: bytes | None = None
    last: BlockRef | None = None
    met: tuple[BlockRef | None, ...] = ()
    next: tuple[BlockRef | None, ...] = ()
    held: bool = False


class Witness(Protocol):
    """Knows what the journal says of keys."""

    async def evidence(self, label: str, questions: Sequence[KeyQuestion], until: int) -> list[Evidence]:
        """What the journal says, up to the sequence ``until``, of each key."""


class EvidenceIndex(Protocol):
    """The index over the journal; see ``storage/journal/history.py``."""

    def entries(
        self, strand: str, table: str, key: Sequence[str], before: tuple[int, int] | None, limit: int
    ) -> list[HistoryEntry]: ...
    def indexed(self, strand: str) -> int: ...


class Definitions(Protocol):
    """The journal's definitions, by relation, as of a sequence."""

    def definitions(self, strand: str, at: int | None = None) -> dict[int, Definition]: ...


class JournalWitness:
    """Asks this region's journal through its history index; without an index nothing is known."""

    def __init__(self, journal: Definitions, history: EvidenceIndex | None, strand: str) -> None:
        self._journal = journal
        self._history = history
        self._strand = strand

    async def evidence(self, label: str, questions: Sequence[KeyQuestion], until: int) -> list[Evidence]:
        if self._history is None or not await self._is_indexed(self._history, until):
            return [Evidence(known=False)] * len(questions)
        return await trio.to_thread.run_sync(self._ask_all, self._history, label, questions, until)

    async def _is_indexed(self, history: EvidenceIndex, until: int) -> bool:
        """The index follows a little behind: wait for it, within reason."""
        with trio.move_on_after(INDEX_SECONDS):
            while await trio.to_thread.run_sync(history.indexed, self._strand) < until:  # noqa: ASYNC110  # a file's word
                await trio.sleep(LOOK_SECONDS)
            return True
        return False

    def _ask_all(
        self, history: EvidenceIndex, label: str, questions: Sequence[KeyQuestion], until: int
    ) -> list[Evidence]:
        definition = None
        for _, candidate in sorted(self._journal.definitions(self._strand, until).items()):
            definition = candidate if candidate.label == label else definition  # the last one is in force
        if definition is None or not definition.key:
            return [Evidence(known=False)] * len(questions)
        return [self._ask(history, definition, question, until) for question in questions]

    def _ask(self, history: EvidenceIndex, definition: Definition, question: KeyQuestion, until: int) -> Evidence:
        key = [text or "" for text in texts_of(question.key)]
        entries = history.entries(self._strand, definition.label, key, (until + 1, 0), VERSIONS_LIMIT)
        return judge(entries, definition, question.lines)


def judge(entries: Sequence[HistoryEntry], definition: Definition, lines: Iterable[bytes | None]) -> Evidence:
    """The evidence of a key whose changes are ``entries``, newest first. Pure."""
    states = states_of(entries, definition)
    known = bool(states) and states[0] is not UNKNOWN
    met: list[BlockRef | None] = []
    following: list[BlockRef | None] = []
    for line in lines:
        places = [place for place, state in enumerate(states) if state is not UNKNOWN and state == line]
        met.append(_ref(entries[places[0]]) if places else None)
        born = entries[0] if line is None and len(entries) == 1 else None  # no row: as before its only block
        following.append(_ref(entries[places[0] - 1]) if places and places[0] else _ref(born) if born else None)
    if not entries:
        return Evidence(True, None, None, tuple(met), tuple(following))
    right = states[0]
    return Evidence(known, right if isinstance(right, bytes) else None, _ref(entries[0]), tuple(met), tuple(following))


class _UnknownRow:
    """Stands for a row that the journal cannot complete: neither a line nor its absence."""


UNKNOWN = _UnknownRow()
State = bytes | None | _UnknownRow


def states_of(entries: Sequence[HistoryEntry], definition: Definition) -> list[State]:
    """The line after each of a key's changes (newest first, as given), by ``definition``. Pure."""
    states: list[State] = []
    before: dict[str, str | None] | None = None
    names = [*definition.key, *sorted({column.name for column in definition.columns} - set(definition.key))]
    for entry in reversed(entries):  # from the oldest on: a change may leave columns as the one before it left them
        before = _texts_after(entry, definition, before)
        if entry.row is None:
            states.append(None)
        elif before is None or len(before) < len(names):
            states.append(UNKNOWN)
        else:
            states.append(line_of([before[name] for name in names]))
    return states[::-1]


def _texts_after(
    entry: HistoryEntry, definition: Definition, before: dict[str, str | None] | None
) -> dict[str, str | None] | None:
    """The row's texts after a change; columns that are not known are left out."""
    return None if entry.row is None else texts_under(unpack_row(entry.row), entry.definition, definition, before)


def texts_under(
    row: Sequence[Cell], old: Definition, now: Definition, before: Mapping[str, str | None] | None
) -> dict[str, str | None]:
    """A row of the definition ``old``, as texts by the columns of ``now``.

    Unchanged columns are taken from ``before``; those that are not in it are left out. Columns are the same if they
    have the same number, or, without numbers, the same name; one that the row does not have reads as it is *missing*.
    """
    cells = dict(zip((column.name for column in old.columns), row, strict=True))
    texts: dict[str, str | None] = {}
    for column in now.columns:
        same = _same_column(column, old)
        if same is None:
            texts[column.name] = column.missing
        elif (cell := cells[same.name]) is not UNCHANGED:
            texts[column.name] = None if cell is None else text_of(same)(cell)
        elif before is not None and column.name in before:
            texts[column.name] = before[column.name]
    return texts


def _same_column(column: Column, old: Definition) -> Column | None:
    if column.number:
        return next((other for other in old.columns if other.number == column.number), None)
    return next((other for other in old.columns if other.name == column.name), None)


def _ref(entry: HistoryEntry) -> BlockRef:
    return BlockRef(entry.sequence, entry.txid, entry.committed_at)
