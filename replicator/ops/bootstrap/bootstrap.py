"""Making this region anew: READ FIRST on the asking side.

    look ─▶ decide ─▶ secure what only this region has ─▶ have a moment held ─▶ ``copy.json`` ─▶ close the database
         ─▶ give up slot and publication ─▶ empty the tables ─▶ put the old files away
         ─▶ chunk, commit, chunk, commit, … ─▶ position ─▶ journal ─▶ ``copy.json`` goes

Guarantee: see the package. From ``copy.json`` on nothing starts the region, so that no part of its former life is met
by a new one; whatever is left of that life by then is put away, however often this is called. A call that is refused
before the tables are empty leaves the region as it was, save that a former primary's slot is given up.
 What can get better is tried again for ``PATIENCE_SECONDS`` since the copy last got on; then
it ends with the reason, and another call goes on. A moment that is gone is not patched up: another copy is begun. The
region that will be followed has to hold the copy's position on its chain, or nothing is begun.
"""

from __future__ import annotations

import dataclasses
import logging
import random
from typing import Any

import trio

from replicator.config import Config
from replicator.config.models import Source
from replicator.errors import ConfigError, Corrupt, Halted, Rejected, ReplicatorError, Unavailable
from replicator.format.definition import Definition
from replicator.format.position import Position
from replicator.ops.bootstrap import target
from replicator.ops.bootstrap.decide import CopyDecision, RegionContents, decide
from replicator.ops.bootstrap.former_life import FormerLife
from replicator.ops.bootstrap.target import CopyTarget
from replicator.pipeline.copies.client import CopyClient
from replicator.pipeline.copies.partial_copy import PartialCopy, remove_half, write_half
from replicator.pipeline.copies.wire import Chunk, CopyEnd, CopyStart
from replicator.pipeline.feed.client import FeedClient, Upstream
from replicator.runtime import wiring
from replicator.runtime.identity import note_made_anew
from replicator.storage.data_dir import locked
from replicator.supervise import Backoff, first_cause

CHUNK_ROWS = 5_000
PATIENCE_SECONDS = 300.0
COPIES = 5  # begun in one call: more would only hide what is wrong

log = logging.getLogger("replicator")


@dataclasses.dataclass(slots=True)
class CopyProgress:
    """How the copy gets on, for whoever shows it. ``rows`` are those that are committed here."""

    phase: str = "looking"
    position: Position | None = None
    rows: int = 0
    rows_estimate: int | None = None
    waits: str = ""
    set_aside: list[str] = dataclasses.field(default_factory=list)


async def plan(config: Config, source: Upstream, *, replace: bool, named: bool = False) -> dict[str, Any]:
    """What ``bootstrap`` would do. Changes nothing, here or there. Raises what it would meet at once."""
    contents = await trio.to_thread.run_sync(target.look, config)
    try:
        what = decide(contents, replace=replace, source=source.url if named else None).value
        refused = None
    except Halted as refusal:
        what, refused = "nothing: it is refused", refusal.as_json()
    would_replace = contents.half is None and (
        contents.journal is not None or contents.replica is not None or bool(contents.damaged)
    )
    async with CopyClient(source) as client:
        answer = await client.plan()
    return {
        "from": source.url,
        "way": what,
        "refused": refused,
        "position": str(answer["position"]),
        "rows": answer["rows"],
        "tables": answer["tables"],
        "journal": None if contents.journal is None else str(contents.journal),
        "replica": None if contents.replica is None else str(contents.replica),
        "set_aside": [str(file) for file in target.old_files(config)] if would_replace else [],
        "emptied": await trio.to_thread.run_sync(target.old_tables, config) if would_replace else [],
    }


class Bootstrap:
    """One call of the verb. ``_moved_at`` is when the copy last got on, on trio's clock."""

    def __init__(
        self,
        config: Config,
        source: Upstream,
        *,
        replace: bool,
        rate: int | None,
        report: CopyProgress,
        named: bool = False,
        ledger: Source | None = None,
        allow_data_loss: bool = False,
    ) -> None:
        """``named``: the source was asked for by name; a copy of another region is then not gone on with. ``ledger`` is
        the region's as the primary, which it was or will be."""
        self._config = config
        self._former = FormerLife(config, ledger, allow_data_loss=allow_data_loss)
        self._allow_data_loss = allow_data_loss
        self._named = source.url if named else None
        self._source = source
        self._replace = replace
        self._rate = rate
        self._report = report
        self._moved_at = 0.0

    async def run(self) -> Position:
        """Make the region anew; gives its position then. Raises ReplicatorError."""
        with locked(self._config.region.files):
            self._moved_at = trio.current_time()
            backoff, copies = Backoff(0.2, 5.0, random.Random()), 0
            done: Position | None = None
            while done is None:
                cause: ReplicatorError | None = None
                # Looked at anew each time: what an interrupted step has left behind decides, not what it had in mind.
                contents = await trio.to_thread.run_sync(target.look, self._config)
                what = decide(contents, replace=self._replace, source=self._named)
                try:
                    if what in (CopyDecision.RESUME, CopyDecision.FINISH):
                        assert contents.half is not None
                        await self._go_on(contents.half, is_whole=what is CopyDecision.FINISH)
                        done = contents.half.begun.position
                    elif copies == COPIES:
                        message = f"{COPIES} copies were begun and none came to its end"
                        raise Halted("no_copy", message, place=self._source.url, cure="see the other region's log")
                    else:
                        copies += 1
                        await self._begin(what, contents)
                except* ReplicatorError as group:
                    cause = first_cause(group)
                if cause is not None:
                    await self._survive(cause, backoff)
            return done

    async def _survive(self, cause: ReplicatorError, backoff: Backoff) -> None:
        """Wait for what can get better; give up a copy whose moment is gone. Raises everything else."""
        if isinstance(cause, Rejected) and cause.reason == "no_such_copy":
            log.warning("%s; the half copy is removed and another one begun", cause)
            await trio.to_thread.run_sync(remove_half, self._config.region.files)
            return  # the mark alone tells that there is half a copy to remove
        if not isinstance(cause, Unavailable):
            raise cause
        if trio.current_time() - self._moved_at > PATIENCE_SECONDS:
            raise cause
        if self._report.waits != str(cause):
            self._report.waits = str(cause)
            log.warning("the copy waits: %s", cause)
        await trio.sleep(backoff.next())

    # -- begin

    async def _begin(self, what: CopyDecision, contents: RegionContents) -> None:
        """Have a moment held and empty the replica; the rows come next."""
        chunk_rows = min(CHUNK_ROWS, self._rate) if self._rate else CHUNK_ROWS
        files = self._config.region.files
        if what is CopyDecision.REPLACE:
            await self._former.secure(self._source)
        async with CopyClient(self._source) as client:
            begun = await client.begin(chunk_rows)
            self._check_strand(begun)
            await self._check_followed(begun.position)
        strangers = await trio.to_thread.run_sync(target.strangers, self._config, begun)
        if strangers and not self._allow_data_loss:
            raise _rows_of_others(strangers)
        # Before anything is changed: killed behind it, the region is one that is being made anew.
        half = PartialCopy(self._source.url, begun, chunk_rows)
        await trio.to_thread.run_sync(write_half, files, half)
        await self._former.close()
        changed = await trio.to_thread.run_sync(self._former.give_up_role)
        if what is CopyDecision.REPLACE or (what is CopyDecision.ANEW and contents.mark is None):
            aside = await trio.to_thread.run_sync(self._former.put_replica_away)
            self._report.set_aside += map(str, aside)
            changed = changed or bool(aside)
        if strangers:
            await trio.to_thread.run_sync(target.empty, self._config, strangers)
        filling = CopyTarget(wiring.replica(self._config), begun)
        try:
            await trio.to_thread.run_sync(filling.open)
            await trio.to_thread.run_sync(filling.begin)
        except Halted:
            if not (changed or strangers or contents.half):
                await trio.to_thread.run_sync(remove_half, files)  # its transaction was undone: all is as it was
            raise
        finally:
            filling.close()
        await self._clear(half)
        self._moved_at = trio.current_time()

    async def _clear(self, half: PartialCopy) -> None:
        """Put away the files of what the region was."""
        files = self._config.region.files
        aside = await trio.to_thread.run_sync(self._former.put_away, half.begun.position, self._source)
        self._report.set_aside += map(str, aside)
        await trio.to_thread.run_sync(write_half, files, half._replace(cleared=True))

    def _check_strand(self, begun: CopyStart) -> None:
        strand = self._config.region.strand
        if begun.position.strand != strand:
            message = f"the other region keeps strand {begun.position.strand!r}, this one {strand!r}"
            cure = "check [region] strand on both sides"
            raise Halted("other_strand", message, place=self._source.url, cure=cure)

    async def _check_followed(self, position: Position) -> None:
        """Have the region that will be followed keep its journal for us from here on. Raises Halted if it cannot."""
        followed = self._source if self._config.cluster else source_of(self._config, None)
        place = f"[follow] primary = {followed.url}"
        async with FeedClient(followed) as client:
            try:
                await client.report(position)
            except Unavailable as error:
                log.warning("whether this region can follow from there is not known: %s", error)
            except Rejected as refusal:
                if refusal.reason != "not_found":
                    message = f"this region could not follow from the copy's position {position}: {refusal.message}"
                    cure = "take the copy from the region that [follow] names, or one that is not behind its journal"
                    raise Halted(refusal.reason, message, place=place, cure=cure) from refusal

    # -- rows

    async def _go_on(self, half: PartialCopy, *, is_whole: bool) -> None:
        if not half.cleared:
            await self._clear(half)
        begun, report = half.begun, self._report
        report.position, report.rows_estimate = begun.position, begun.rows
        source = dataclasses.replace(self._source, url=half.url)
        filling = CopyTarget(wiring.replica(self._config), begun)
        try:
            await trio.to_thread.run_sync(filling.open)
            report.rows = filling.rows
            if not is_whole:
                report.phase = "copying"
                async with CopyClient(source) as client:
                    await self._fill(client, filling, begun)
            report.phase = "finishing"
            # In this order: until the journal begins at the copy, the mark keeps run from starting the region.
            await trio.to_thread.run_sync(target.begin_journal, self._config, begun)
            await trio.to_thread.run_sync(filling.clear)
        finally:
            filling.close()
        await trio.to_thread.run_sync(note_made_anew, self._config)
        await trio.to_thread.run_sync(remove_half, self._config.region.files)
        await _let_go(source, begun.copy)
        report.phase = "done"

    async def _fill(self, client: CopyClient, filling: CopyTarget, begun: CopyStart) -> None:
        began, before = trio.current_time(), filling.rows
        send, receive = trio.open_memory_channel[Chunk | CopyEnd](0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_ask, client, begun.copy, filling.chunks + 1, send)
            async with receive:
                async for chunk in receive:
                    if isinstance(chunk, CopyEnd):
                        await trio.to_thread.run_sync(filling.finish, chunk)
                        return
                    await trio.to_thread.run_sync(filling.add, chunk)
                    self._moved_at = trio.current_time()
                    self._report.rows, self._report.waits = filling.rows, ""
                    if self._rate:
                        await trio.sleep_until(began + (filling.rows - before) / self._rate)
        raise Corrupt("bad_copy", "the chunks ended before the copy did", place="copy")


async def _ask(client: CopyClient, copy: str, number: int, send: trio.MemorySendChannel[Chunk | CopyEnd]) -> None:
    """Ask for chunks, one ahead of the replica."""
    async with send:
        while True:
            chunk = await client.chunk(copy, number)
            await send.send(chunk)
            if isinstance(chunk, CopyEnd):
                return
            number += 1


async def _let_go(source: Upstream, copy: str) -> None:
    """Have the other region let the moment go now; it would do so by itself."""
    async with CopyClient(source) as client:
        try:
            await client.end(copy)
        except (Unavailable, Rejected, Halted) as error:
            log.info("the other region was not told that the copy is whole: %s", error)


def _rows_of_others(tables: list[Definition]) -> Halted:
    names = ", ".join(definition.label for definition in tables)
    return Halted(
        "rows_of_others",
        f"tables of the copy are here, with rows, and nothing says whose they are: {names}",
        place="the database to fill",
        cure="drop or empty them, name another database, or empty them by --allow-data-loss",
    )


def source_of(config: Config, url: str | None) -> Upstream:
    """The region to copy: the one that is followed, unless another is named. The token is [follow]'s."""
    source = wiring.upstream(config, None if url is None else url.rstrip("/"))
    if source is None:
        cure = "name it: --from URL; in a cluster any region that has everything will do"
        raise ConfigError("nobody_to_copy", "no region to copy is named", place=config.region.name, cure=cure)
    return source
