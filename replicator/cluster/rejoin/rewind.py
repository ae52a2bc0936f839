"""Going back to the fork: everything that this region made of its orphans, undone in order.

Guarantee: nothing is undone without a seal that proves itself and is of exactly the blocks that go; what is touched is
what the orphans touched. Each step is durable before the next begins and finds by itself whether it is done, and the
intent is written before the first and removed after the last: killed at any instant, ``run`` ends at the same place.
As long as there is an intent, nothing else may open the region's files.

    intent ─▶ tables (one transaction of the replica, with its position) ─▶ the ledger's index of requests
           ─▶ index of the past ─▶ journal ─▶ spool (kept beside the seal) ─▶ checked ─▶ intent removed

The tables come before the journal: a journal must never be shorter than what stands on it claims.

All calls block; the caller has opened journal and history, and nobody else uses them. Non-goal: deciding when.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from replicator.cluster.rejoin.deleted_versions import undone_deletes
from replicator.cluster.rejoin.durable_files import write_file
from replicator.cluster.rejoin.fork import Fork
from replicator.cluster.rejoin.orphan_keys import OrphanKeys
from replicator.cluster.rejoin.table_rewind import Tables
from replicator.errors import Halted, Unavailable
from replicator.format.position import parse_position
from replicator.ledger import index as requests
from replicator.pipeline.replicas.base import Replica
from replicator.storage.atomic_file import sync_directory
from replicator.storage.data_dir import DataDir
from replicator.storage.journal.history import HistoryIndex
from replicator.storage.journal.sealed import Seal, SealedBlocks, verified
from replicator.storage.journal.store import Journal
from replicator.storage.journal.truncate import check_truncated, truncate
from replicator.verify.repair.resync_job import ResyncJob
from replicator.verify.repair.worklist import Worklist

log = logging.getLogger("replicator")

Probe = Callable[[str], None]  # called at each named step: tests die there


class Rewind:
    """Takes one region back."""

    def __init__(
        self,
        data_dir: DataDir,
        journal: Journal,
        history: HistoryIndex,
        replica: Replica,
        strand: str,
        probe: Probe = lambda step: None,
    ) -> None:
        self._data_dir = data_dir
        self._journal = journal
        self._history = history
        self._replica = replica
        self._strand = strand
        self._probe = probe

    def pending(self) -> Fork | None:
        """The fork that the region is on its way to; None if it is not going back. Raises Halted."""
        return going_back(self._data_dir)

    def run(self, seal: Seal | None, fork: Fork) -> None:
        """Go back to the fork, or go on with it. ``seal`` may be None for what was begun: it is read again.

        Raises Unavailable (a disk or database: run it again) or Halted. What halts before anything was undone takes the
        intent back.
        """
        begun = _read_intent(self._data_dir)
        if begun is not None:
            fork, seal = begun[0], verified(begun[1])
        if not fork.orphans:
            return
        _check_seal(seal, fork)
        assert seal is not None
        if begun is None:
            # From here on nothing else opens these files: a start looks for the intent first and goes on with it.
            self._probe("before intent")
            _write_intent(self._data_dir, fork, seal)
            self._probe("after intent")
        with contextlib.closing(OrphanKeys(SealedBlocks(seal))) as touches, self._opened():
            log.warning("going back to %s: %d orphans, %d keys", fork.position, fork.orphans, len(touches))
            tables = Tables(self._journal, self._history, self._replica, fork.position)
            self._undo(seal, fork, touches, tables)
            # Read back while the intent is there: what is wrong keeps the region from following on top of it.
            tables.check(touches)
            check_truncated(self._journal, fork.position)
        self._probe("checked")
        _remove_intent(self._data_dir)
        self._probe("end")
        log.warning("the region is back at %s; what only it had is sealed in %s", fork.position, seal.directory)

    def _undo(self, seal: Seal, fork: Fork, touches: OrphanKeys, tables: Tables) -> None:
        self._probe("before tables")
        try:
            tables.rewind(touches, fork.head)
        except Halted:
            if self._journal.head(self._strand) == fork.head:
                _remove_intent(self._data_dir)  # its transaction was undone, and nothing else has begun
            raise
        self._probe("after tables")
        requests.cut_back(self._data_dir.requests, fork.position, undone_deletes(SealedBlocks(seal)))
        self._end_resync(fork)
        self._probe("after requests")
        named = ((label, key) for chunk in touches.chunks() for label, key, _ in chunk)
        self._history.cut_back(self._strand, fork.position.sequence, named)
        self._probe("after history")
        truncate(self._journal, seal, self._probe)
        self._probe("after journal")
        self._keep_spool(seal)
        self._probe("after spool")

    def _end_resync(self, fork: Fork) -> None:
        """A resync that is under way knows places on the chain that is undone."""
        if not self._data_dir.resync.exists():
            return
        work = Worklist(self._data_dir.resync)
        try:
            with contextlib.closing(work):
                job = ResyncJob.stored(work.open())
                if job is not None and job.is_active and max(job.last, job.scanned) > fork.position.sequence:
                    work.end(dataclasses.asdict(dataclasses.replace(job, state="cancelled")))
        except Halted as error:
            log.error("the worklist of the last resync is set aside as %s: %s", work.set_aside(), error)

    def _keep_spool(self, seal: Seal) -> None:
        """What waits in the spool may be of the chain that is undone. It is moved out of the way, not thrown away."""
        try:
            for suffix in ("-shm", "-wal", ""):
                path = Path(f"{self._data_dir.spool}{suffix}")
                with contextlib.suppress(FileNotFoundError):
                    os.replace(path, seal.directory / path.name)
                self._probe(f"moved spool{suffix}")
            sync_directory(self._data_dir.path)
            sync_directory(seal.directory)
        except OSError as error:
            cure = "mend the disk or the directory's rights; it goes on by itself"
            place = str(self._data_dir.spool)
            raise Unavailable("cannot_write", f"{error.strerror}", place=place, cure=cure) from error

    @contextlib.contextmanager
    def _opened(self) -> Iterator[None]:
        self._replica.open()
        try:
            yield
        finally:
            self._replica.close()


def _check_seal(seal: Seal | None, fork: Fork) -> None:
    if not isinstance(seal, Seal) or (seal.fork, seal.last) != (fork.position, fork.head):
        raise Halted(
            "not_sealed",
            "nothing is undone without a seal of exactly the orphans",
            place=f"strand {fork.strand}, {fork}",
            cure="start the sidecar again: it seals them first",
        )
    if verified(seal.directory) != seal:
        raise Halted("seal_broken", "the seal has changed since it was proven", place=str(seal.directory))


# -- the intent


def going_back(data_dir: DataDir) -> Fork | None:
    """The fork that a region is on its way to, for who may open its files only if it is not. Raises Halted."""
    intent = _read_intent(data_dir)
    return None if intent is None else intent[0]


def _write_intent(data_dir: DataDir, fork: Fork, seal: Seal) -> None:
    fields = {"fork": str(fork.position), "head": str(fork.head), "theirs": str(fork.theirs), "seal": seal.id}
    write_file(data_dir.rewind, [json.dumps(fields)])


def _read_intent(data_dir: DataDir) -> tuple[Fork, Path] | None:
    path = data_dir.rewind
    try:
        fields: dict[str, Any] = json.loads(path.read_text())
        positions = (parse_position(fields[name]) for name in ("fork", "head", "theirs"))
        return Fork(*positions), data_dir.seal(Path(fields["seal"]).name).path
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        cure = "put it back from a copy; without it: replicator bootstrap CONFIG --replace"
        raise Halted("intent_unreadable", f"the file cannot be read: {error!r}", place=str(path), cure=cure) from error


def _remove_intent(data_dir: DataDir) -> None:
    data_dir.rewind.unlink(missing_ok=True)
    sync_directory(data_dir.path)
