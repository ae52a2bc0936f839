"""What the region was before it is made anew: secured, closed, and put away.

    secure       nothing is changed but that more is kept: what the log holds comes into the journal, orphans are sealed
    close        the database takes no application's writes, from before its first new row on
    give_up_role slot and publication go; the tables are known as the ledger's
    put_away     every file that speaks of the former life is renamed; a promise that was given is kept

Guarantee: what only this region has is in a seal, or in the journal that is set aside, before anything else goes; where
that is not certain the region is refused, unless a person allows data to be lost. Each step may be interrupted and done
again.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import trio

from replicator.cluster.decisions.model import DurableState
from replicator.cluster.decisions.states import RoleState
from replicator.cluster.failover.durable_state import DurableStateFile, RoleTransition, StoredState
from replicator.cluster.fencing.postgres import PostgresFence
from replicator.cluster.promotion.postgres import PostgresRole
from replicator.cluster.rejoin.fork import Fork, find_fork
from replicator.cluster.rejoin.seal import OrphanSealer
from replicator.config import Config, PostgresReplicaSettings, PostgresSourceSettings, SqliteReplicaSettings
from replicator.config.models import Source
from replicator.errors import Corrupt, Halted, Rejected, ReplicatorError
from replicator.format.position import Position
from replicator.pipeline.feed.client import FeedClient, Upstream
from replicator.pipeline.replicas.postgres.replica import read_applied
from replicator.pipeline.sources.postgres.options import PostgresOptions
from replicator.pipeline.sources.postgres.session import session
from replicator.pipeline.sources.postgres.slot import PLUGIN, read_slot
from replicator.postgres.catalog import exists
from replicator.postgres.session import Connection
from replicator.runtime import wiring
from replicator.storage import sqlite
from replicator.storage.data_dir import DataDir
from replicator.storage.journal.head import JournalHead
from replicator.storage.journal.history import HistoryIndex
from replicator.storage.journal.store import Journal

REST_SECONDS = 300.0  # for what the slot of a former primary holds
LOSS = "--allow-data-loss gives up what only this region has"

log = logging.getLogger("replicator")


class FormerLife:
    """Of the region with this configuration, as a replica. ``ledger`` is what it has, or would have, as the primary."""

    def __init__(self, config: Config, ledger: Source | None, *, allow_data_loss: bool) -> None:
        self._config = config
        self._strand = config.region.strand
        self._files = config.region.files
        self._allow_data_loss = allow_data_loss
        self._options: PostgresOptions | None = None
        self._fenced: list[tuple[str, str]] | None = None
        if config.cluster is not None and isinstance(ledger, PostgresSourceSettings):
            self._options, self._fenced = wiring.postgres_options(ledger), wiring.fenced_tables(ledger)

    # -- secured

    async def secure(self, source: Upstream) -> None:
        """Keep what only this region has. Raises Halted if that cannot be done, or if the region leads; Unavailable."""
        await self._check_lease()
        if self._files.rewind.exists():
            return  # what is being undone is sealed
        try:
            with self._journal() as journal:
                led = await trio.to_thread.run_sync(self._has_led, journal)
                if led:
                    await self._capture_rest(journal)
                await self._seal_orphans(journal, source, led=led)
        except Corrupt as error:  # it is set aside as it is
            if await trio.to_thread.run_sync(self._led_by_other_signs):
                self._refuse("this region has led, and its journal cannot be read", error)

    def _led_by_other_signs(self) -> bool:
        """Whether the role, or the database, says that this region led beyond the place where replay left it."""
        stored = self._stored_role()
        if stored is not None and stored.memory.half == "primary":
            return True
        if self._options is None:
            return False
        with session(self._options) as connection:
            if not exists(connection, "replicator.fencing"):
                return False
            row = connection.execute("SELECT epoch FROM replicator.fencing").fetchone()
            applied = read_applied(connection, self._strand) if exists(connection, "replicator.position") else None
            return row is not None and row[0] > (applied.position.epoch if applied else 0)

    async def _check_lease(self) -> None:
        """A region that leads is not made anew: its writers are answered on the strength of what it has."""
        cluster = self._config.cluster
        if cluster is None or not wiring.rules(self._config).exclusive:
            return
        holder = (await wiring.lease(self._config, self._strand).look()).holder
        if holder is not None and holder.region == self._config.region.name:
            raise Halted(
                "leads",
                f"this region holds the lease, in epoch {holder.epoch}",
                place=f"region {holder.region}",
                cure="have another one take over first: replicator switchover CONFIG --to REGION, or"
                " replicator failover CONFIG",
            )

    def _has_led(self, journal: Journal) -> bool:
        """Whether this region may hold commits of its own that no other one has received."""
        role = self._role(journal)
        if role is None or not journal.head(self._strand).sequence:
            return self._led_by_other_signs()
        return role.has_led()

    async def _capture_rest(self, journal: Journal) -> None:
        role = self._role(journal)
        if role is None:
            return  # the embedded ledger's commits are the journal's
        if not journal.head(self._strand).sequence:
            self._refuse("this region has led, and its journal is gone", None)
            return
        await self.close()  # what is committed from now on would not be captured
        try:
            await role.capture_rest(JournalHead(journal.head(self._strand)), REST_SECONDS)
        except Halted as error:
            self._refuse("what this region committed last cannot be read from its log", error)

    async def _seal_orphans(self, journal: Journal, source: Upstream, *, led: bool) -> None:
        """Seal what the other region has not. Raises Halted if that may be ahead of everybody."""
        if not journal.head(self._strand).sequence:
            return
        async with FeedClient(source) as client:
            try:
                fork = await find_fork(client, journal, self._strand)
            except (Halted, Rejected) as error:
                ends = await client.ends(self._strand)
                if led and ends[1].epoch <= journal.head(self._strand).epoch:
                    self._refuse("this region led last, and what the other one has of that cannot be told", error)
                log.warning("%s; what only this region has stays in the journal that is set aside", error)
                return
            if not fork.orphans:
                return
            if fork.theirs.epoch <= fork.head.epoch:
                self._refuse_loss(fork, source)
            with contextlib.closing(HistoryIndex(self._files.history, journal)) as history:
                await trio.to_thread.run_sync(history.open)
                sealer = OrphanSealer(self._files, journal, history, self._config.region.name)
                seal = await sealer.seal(fork, client)
                log.warning("%d blocks that only this region has are sealed in %s", fork.orphans, seal.directory)

    def _refuse_loss(self, fork: Fork, source: Upstream) -> None:
        message = f"this region has {fork.orphans} blocks that the other one lacks, and nobody has led since"
        self._refuse(message, None, place=source.url, cure="copy a region that has everything, or start this one")

    def _refuse(self, message: str, error: Halted | Rejected | None, *, place: str = "", cure: str = "") -> None:
        if self._allow_data_loss:
            log.warning("%s; data may be lost, as was allowed", message if error is None else f"{message}: {error}")
            return
        cure = f"{cure or 'start this region: replicator run CONFIG seals what only it has'}; {LOSS}"
        what = message if error is None else f"{message}: {error.message}"
        raise Halted("only_copy", what, place=place or str(self._files.path), cure=cure) from error

    # -- closed

    async def close(self) -> None:
        """The database takes no application's writes until its sidecar opens it."""
        if self._options is None:
            return
        fence = PostgresFence(self._options.dsn, self._fenced)
        try:
            await fence.install()
            await fence.close(None)
        finally:
            fence.release()

    # -- put away

    def give_up_role(self) -> bool:
        """Slot and publication go, as far as they are ours; whether anything did. Blocks."""
        if self._options is None:
            return False
        noted = False
        if self._files.journal.exists():
            with contextlib.suppress(Corrupt), self._journal() as journal:  # one that cannot be read names no slot
                role = self._role(journal)
                assert role is not None
                noted = role.abandon()
        with session(self._options) as connection:
            return self._drop_slot(connection, self._options) or noted

    def _drop_slot(self, connection: Connection, options: PostgresOptions) -> bool:
        """A slot of the configured name, in this very database, that nobody reads: its journal is gone, or was another
        one's. One that is of another database, or kind, is somebody else's."""
        slot = read_slot(connection, options.slot)
        here = connection.execute("SELECT current_database()").fetchone()
        if slot is None or slot.plugin != PLUGIN or slot.active or (slot.database,) != here:
            return False
        log.warning("slot %s is dropped: it holds the log for a journal that is put away", options.slot)
        connection.execute("SELECT pg_drop_replication_slot(%s)", [options.slot])
        return True

    def put_away(self, position: Position, source: Upstream) -> list[Path]:
        """Rename the files of the former life; their new names. The role begins anew at this position. Blocks."""
        stored = self._stored_role()
        aside = [sqlite.set_aside(file, "replaced") for file in former_files(self._files)]
        if self._config.cluster is not None:
            DurableStateFile(self._files.role).keep(_new_role(stored, position, source.url))
        return aside

    def put_replica_away(self) -> list[Path]:
        """Rename a replica that is a file. Blocks."""
        replica = self._config.replica
        if not isinstance(replica, SqliteReplicaSettings) or not replica.path.exists():
            return []
        return [sqlite.set_aside(replica.path, "replaced")]

    # -- what is here

    @contextlib.contextmanager
    def _journal(self) -> Iterator[Journal]:
        """The region's journal; one that is not there is made, and is empty. Raises Corrupt if it cannot be read."""
        journal = Journal(self._files.journal)
        try:
            journal.open()
        except Halted as error:
            raise Corrupt(error.reason, error.message, place=error.place, cure=error.cure) from error
        try:
            yield journal
        finally:
            journal.close()

    def _role(self, journal: Journal) -> PostgresRole | None:
        replica = self._config.replica
        if self._options is None or not isinstance(replica, PostgresReplicaSettings):
            return None
        return PostgresRole(replica.conninfo(), journal, self._strand, self._options)

    def _stored_role(self) -> StoredState | None:
        with contextlib.suppress(ReplicatorError):  # one that cannot be read is put away like the others
            return DurableStateFile(self._files.role).read()
        return None


def former_files(files: DataDir) -> list[Path]:
    """The files that speak of what the region was, as far as they are there: all that was derived from its journal, its
    role, and the journal itself."""
    named = [files.role, files.rewind, files.spool, files.history, files.requests, files.resync]
    named += [files.damage, files.divergence, files.journal]
    return [file for file in named if file.exists()]


def _new_role(stored: StoredState | None, position: Position, url: str) -> StoredState:
    """A replica's role. What was promised to others stays promised; that this region has led counts no more, for what
    it has now is another region's."""
    promised = max(position.epoch, stored.memory.promised if stored else 0)
    memory = DurableState(RoleState.FOLLOWING, "replica", epoch=position.epoch, promised=promised)
    now_us = time.time_ns() // 1000
    made = RoleTransition(now_us, "bootstrap", memory.state.value, memory.epoch, f"made anew from {url} at {position}")
    return StoredState(memory, None, (*(stored.transitions if stored else ()), made))
