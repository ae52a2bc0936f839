"""Sealed orphans for a person: what there is, how it stands to the history in charge by now, and re-applying it.

Guarantee: judged anew whenever it is asked for, by this region's own journal, which follows the region in charge; where
that cannot be (the blocks are not undone yet, or the journal does not reach back to the fork) the sealed judgement is
shown and nothing is re-applied. Only what is clean is ever sent, and the primary checks it once more. What was sent is
noted before and after, durably.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Any

import trio

from replicator.cluster.rejoin.conflict_check import CLEAN, NOTHING, ROW_OPS, THERE, ConflictVerdict, judge, reapply_id
from replicator.cluster.rejoin.orphan_keys import OrphanKey, ScratchKeys
from replicator.cluster.rejoin.outcomes import REAPPLIED, REFUSED, SENDING, SETTLED, OrphanOutcomes
from replicator.cluster.rejoin.primary_client import PrimaryClient
from replicator.cluster.rejoin.report import read_heading, read_transactions
from replicator.cluster.rejoin.winning_chain import ScratchKeyOutcomes, WinningChainJournal
from replicator.errors import Rejected, Unavailable
from replicator.ledger.presentation import show_time
from replicator.pipeline.feed.client import Upstream
from replicator.storage.data_dir import DataDir
from replicator.storage.journal.history import HistoryIndex
from replicator.storage.journal.sealed import Seal, read_seal, verified
from replicator.storage.journal.store import Journal
from replicator.verify.repair.images import pack_texts

PAGE_LIMIT = 1_000
PAGE_CHARACTERS = 4_000_000
CHAINS_LIMIT = 4  # of how many seals what was looked through is kept
REAPPLY_LIMIT = 10_000  # transactions in one go
REAPPLY_CHARACTERS = 64_000_000

Fields = dict[str, Any]


class Orphans:
    """The sealed orphans of one region. ``primary`` gives the region in charge, None if it is not known."""

    def __init__(
        self,
        data_dir: DataDir,
        journal: Journal,
        history: HistoryIndex,
        strand: str,
        primary: Callable[[], Upstream | None],
    ) -> None:
        self._data_dir = data_dir
        self._journal = journal
        self._history = history
        self._strand = strand
        self._primary = primary
        self._lock = trio.Lock()
        self._chains: dict[str, WinningChainJournal] = {}  # by seal, so that the chain is looked through once
        self.unhandled = 0  # sealed transactions that nobody has re-applied or settled and that are not there: a gauge

    def count(self) -> int:
        """Count anew what is not handled; kept in ``unhandled``. Blocks."""
        self.unhandled = sum(_unhandled(directory) for directory in self._directories())
        return self.unhandled

    async def listed(self) -> Fields:
        """What is sealed, the newest first."""
        return {"strand": self._strand, "orphans": await trio.to_thread.run_sync(self._listed)}

    async def show(self, seal_id: str, after: int, limit: int, verdict: str | None) -> Fields:
        """One seal with its transactions behind the sequence ``after``, judged by now."""
        async with self._lock:
            return await trio.to_thread.run_sync(self._show, self._directory(seal_id), after, limit, verdict)

    async def settle(self, seal_id: str, sequences: list[int], who: str, why: str) -> Fields:
        """Note that a person has dealt with these transactions (all that are open, if none is named)."""
        async with self._lock:
            return await trio.to_thread.run_sync(self._settle, self._directory(seal_id), sequences, who, why)

    async def reapply(self, seal_id: str, sequences: list[int], who: str, *, apply: bool) -> Fields:
        """Send those of these transactions (of all, if none is named) that are clean to the primary, one by one, in
        their order; without ``apply``, say what would be sent. Raises Rejected or Unavailable."""
        async with self._lock:
            directory = self._directory(seal_id)
            chosen, handled = await trio.to_thread.run_sync(self._chosen, directory, frozenset(sequences))
            content = {"orphans": seal_id, "applied": False, "transactions": _planned(chosen, handled)}
            upstream = self._primary()
            content["primary"] = None if upstream is None else upstream.url
            if not apply:
                return content
            if upstream is None:
                cure = "wait until there is a primary"
                raise Unavailable("no_primary", "the region in charge is not known", place="orphans", cure=cure)
            try:
                async with PrimaryClient(upstream) as primary:
                    outcomes = [await self._send(primary, handled, orphan, who) for orphan in chosen]
            finally:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(self.count)
            return {**content, "applied": True, "transactions": outcomes}

    async def _send(
        self, primary: PrimaryClient, handled: OrphanOutcomes, orphan: tuple[Fields, ConflictVerdict], who: str
    ) -> Fields:
        transaction, judgement = orphan
        sequence = transaction["sequence"]
        outcome = _outcome(orphan)
        # One whose answer was lost is sent whatever its verdict is by now: it is carried out once at most.
        if sequence not in handled.sending:
            if judgement.verdict != CLEAN:
                return outcome
            if missing := _missing(judgement, handled.reapplied):
                return {**outcome, "outcome": f"left alone: needs {missing[0]} first"}
        note = {"who": who, "at": show_time(time.time_ns() // 1000)}
        await trio.to_thread.run_sync(handled.note, SENDING, [sequence], note)
        try:
            outcome["position"] = await primary.send(transaction, who)
            outcome["outcome"], became = "re-applied", REAPPLIED
            note = {**note, "position": outcome["position"], "id": outcome["id"]}
        except Rejected as refusal:
            outcome["outcome"], became = "refused", REFUSED
            outcome["refusal"] = refusal.as_json()
            note = {**note, "reason": refusal.reason}
        with trio.CancelScope(shield=True):  # it is done: that whoever asked for it has gone must not keep it unknown
            await trio.to_thread.run_sync(handled.note, became, [sequence], note)
        return outcome

    # -- in a thread

    def _directories(self) -> list[Path]:
        return [seal.path for seal in self._data_dir.seals()]

    def _directory(self, seal_id: str) -> Path:
        for directory in self._directories():
            if directory.name == seal_id:
                return directory
        message = f"no orphans {seal_id[:80]!r} are sealed here"
        raise Rejected(
            "no_such_orphans", message, status=404, place="orphans", cure="see replicator orphans list CONFIG"
        )

    def _listed(self) -> list[Fields]:
        self.count()
        headings = [
            {
                **read_heading(directory),
                "unhandled": _unhandled(directory),
                "handled": len(OrphanOutcomes(directory)),
                "directory": str(directory),
            }
            for directory in self._directories()
        ]
        return sorted(headings, key=lambda heading: str(heading["sealed_at"]), reverse=True)

    def _show(self, directory: Path, after: int, limit: int, verdict: str | None) -> Fields:
        head, handled = read_heading(directory), OrphanOutcomes(directory)
        shown: list[Fields] = []
        more, size = False, 0
        with self._judgements(directory, handled) as (judged_at, judgements):
            for transaction, judgement in judgements:
                sequence = transaction["sequence"]
                if sequence <= after or (verdict is not None and judgement.verdict != verdict):
                    continue
                size += _size(transaction)
                if len(shown) == limit or (shown and size > PAGE_CHARACTERS):
                    more = True
                    break
                settled = handled.settled.get(sequence)
                shown.append({**transaction, "judged": judgement.as_json(), "settled": settled})
        next_ = shown[-1]["sequence"] if more else None
        return {**head, "judged_at": judged_at, "transactions": shown, "next": next_, "directory": str(directory)}

    @contextlib.contextmanager
    def _judgements(
        self, directory: Path, handled: OrphanOutcomes
    ) -> Iterator[tuple[str, Iterator[tuple[Fields, ConflictVerdict]]]]:
        """Every transaction with its verdict; as sealed, where it cannot be judged anew."""
        seal = read_seal(directory)
        if not self._is_undone(seal):
            yield str(seal.theirs), _as_sealed(directory)
            return
        chain = self._chains.pop(seal.id, None) or WinningChainJournal(self._journal, self._history, seal.fork)
        self._chains[seal.id] = chain
        while len(self._chains) > CHAINS_LIMIT:
            self._chains.pop(next(iter(self._chains))).close()
        with contextlib.closing(ScratchKeys()) as keys:
            ids = _take_keys(directory, keys)
            chain.refresh(ids)
            chain.look_at(keys)
        reapplied = handled.reapplied
        with contextlib.closing(ScratchKeyOutcomes()) as marks:
            yield (
                str(chain.head),
                (
                    (
                        transaction,
                        judge(transaction, chain, marks, chain.carried_out, reapplied.get(transaction["sequence"])),
                    )
                    for transaction in read_transactions(directory)
                ),
            )

    def _is_undone(self, seal: Seal) -> bool:
        """Whether this region's chain goes on from the fork without the orphans."""
        # A journal that begins behind the fork, after a new copy, does not show it: that the orphans are gone must do.
        base = self._journal.base(self._strand)
        if base.sequence > seal.fork.sequence:
            return self._journal.position_at(self._strand, seal.last.sequence) != seal.last
        at_fork = self._journal.position_at(self._strand, seal.fork.sequence)
        at_last = self._journal.position_at(self._strand, seal.last.sequence)
        return at_fork == seal.fork and at_last != seal.last

    def _chosen(
        self, directory: Path, sequences: frozenset[int]
    ) -> tuple[list[tuple[Fields, ConflictVerdict]], OrphanOutcomes]:
        if not self._is_undone(verified(directory)):
            message = "the blocks are not undone here, or this region's history has left their fork"
            raise Rejected(
                "not_undone", message, status=409, place="orphans", cure="see replicator orphans show CONFIG ID"
            )
        handled = OrphanOutcomes(directory)
        with self._judgements(directory, handled) as (_, judgements):
            chosen = _bounded(
                orphan
                for orphan in judgements
                if orphan[0]["sequence"] in sequences
                or (not sequences and (orphan[1].verdict == CLEAN or orphan[0]["sequence"] in handled.sending))
            )
        if unknown := sequences - {orphan[0]["sequence"] for orphan in chosen}:
            raise Rejected("no_such_orphan", f"{min(unknown)} is not among them", status=404, place="orphans")
        return chosen, handled

    def _settle(self, directory: Path, sequences: list[int], who: str, why: str) -> Fields:
        handled = OrphanOutcomes(directory)
        note = {"who": who, "why": why, "at": show_time(time.time_ns() // 1000)}
        with self._judgements(directory, handled) as (_, judgements):
            open_ = {
                fields["sequence"] for fields, judgement in judgements if judgement.verdict not in (THERE, NOTHING)
            }
        if unknown := set(sequences) - open_:
            message = f"{min(unknown)} is not among them, or needs no settling"
            raise Rejected(
                "no_such_orphan", message, status=404, place="orphans", cure="see replicator orphans show CONFIG ID"
            )
        wanted = sorted(set(sequences) or {sequence for sequence in open_ if sequence not in handled.settled})
        handled.note(SETTLED, wanted, note)
        self.count()
        return {"orphans": directory.name, "settled": wanted}


def _bounded(chosen: Iterator[tuple[Fields, ConflictVerdict]]) -> list[tuple[Fields, ConflictVerdict]]:
    """These, unless they are too many to be held at once."""
    orphans: list[tuple[Fields, ConflictVerdict]] = []
    size = 0
    for orphan in chosen:
        orphans.append(orphan)
        size += _size(orphan[0])
        if len(orphans) > REAPPLY_LIMIT or size > REAPPLY_CHARACTERS:
            message = "these are too many transactions, or too large ones, for one go"
            raise Rejected("too_many", message, status=422, place="orphans", cure="name some: --tx")
    return orphans


def _size(transaction: Fields) -> int:
    """About how many characters its rows have."""
    rows = (statement[name] for statement in transaction["statements"] for name in ("before", "after"))
    return sum(len(text or "") for row in rows for text in (row or {}).values())


def _take_keys(directory: Path, keys: ScratchKeys) -> set[str]:
    """Gather the keys that the transactions touch, and the ids under which they are, or would be, sent again."""
    ids = set()
    for transaction in read_transactions(directory):
        ids.add(reapply_id(transaction))
        touched = [
            statement
            for statement in transaction["statements"]
            if statement["op"] in ROW_OPS and not statement["keyless"]
        ]
        keys.add(
            OrphanKey(statement["table"], pack_texts(list(statement["key"].values())), False) for statement in touched
        )
    return ids


def _as_sealed(directory: Path) -> Iterator[tuple[Fields, ConflictVerdict]]:
    for transaction in read_transactions(directory):
        yield transaction, ConflictVerdict(transaction["judged"]["verdict"], transaction["judged"]["why"])


def _unhandled(directory: Path) -> int:
    """Transactions that were no nothing and not there when they were sealed, and that nobody has handled since."""
    counts = read_heading(directory)["counts"]
    open_ = sum(int(number) for verdict, number in counts.items() if verdict not in (NOTHING, THERE))
    return max(0, open_ - len(OrphanOutcomes(directory)))


def _outcome(orphan: tuple[Fields, ConflictVerdict]) -> Fields:
    transaction, judgement = orphan
    return {
        "sequence": transaction["sequence"],
        "transaction": transaction["transaction"],
        "id": reapply_id(transaction),
        "verdict": judgement.verdict,
        "why": judgement.why,
        "outcome": "left alone",
    }


def _missing(judgement: ConflictVerdict, there: Container[int]) -> list[int]:
    """The orphans that it builds on and that are not there. A version alone does not tell whose it is: the primary may
    have come to the same number on another way."""
    needed = [reason["builds_on"] for reason in judgement.why if "builds_on" in reason]
    return [sequence for sequence in needed if sequence not in there]


def _planned(chosen: list[tuple[Fields, ConflictVerdict]], handled: OrphanOutcomes) -> list[Fields]:
    """What would become of these."""
    sent = set(handled.reapplied)
    planned = []
    for orphan in chosen:
        outcome, judgement = _outcome(orphan), orphan[1]
        if judgement.verdict == CLEAN or outcome["sequence"] in handled.sending:
            missing = _missing(judgement, sent)
            outcome["outcome"] = f"left alone: needs {missing[0]} first" if missing else "to be sent"
            sent.update([] if missing else [outcome["sequence"]])
        planned.append(outcome)
    return planned
