"""What a region derives from its journal, made again from it: the way out wherever a derived file is not to be trusted.

Guarantee: nothing is made of a journal that does not prove itself, from its beginning to its end, before the first file
is touched. What is there is set aside under another name, never removed. Killed at any instruction, the region's next
start goes on from what is there: a derived file that is missing is made of the journal anyway. The sidecar must be
stopped; the caller holds the directory's lock.

A journal that begins behind the ledger's first block has nothing to make the rows of before from: the index of the past
is made again, and the tables are refused (``journal_begins_later``).

An embedded ledger's journal that is damaged or gone can be taken from another region (``take_journal``), if that one
has everything that is known to have been here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sqlite3
from pathlib import Path

from replicator.config import Config
from replicator.config.models import EmbeddedSourceSettings, SqliteReplicaSettings
from replicator.config.roles import in_role, source_of
from replicator.errors import ConfigError, Halted, ReplicatorError
from replicator.format.position import Position
from replicator.pipeline.replicas.sqlite.replica import read_applied
from replicator.runtime import wiring
from replicator.runtime.journal_cure import NEW_REGION, journal_cure
from replicator.storage import sqlite
from replicator.storage.atomic_file import sync_directory
from replicator.storage.damage import FileDamage
from replicator.storage.journal.reading import BASE_NOTE, HIGH_NOTE
from replicator.storage.journal.store import Journal
from replicator.storage.journal.walk import Walk, walk
from replicator.verify.derived import DerivedFiles, DerivedPaths, Show


@dataclasses.dataclass(frozen=True, slots=True)
class Rebuilt:
    """What was made again up to ``position``: the files, and where what was there is now."""

    position: Position
    made: list[Path]
    set_aside: list[Path]


def rebuild(config: Config, show: Show = lambda done, of, what: None) -> Rebuilt:
    """Make again what this region derives from its journal. Raises Halted or Unavailable."""
    files, strand = config.region.files, config.region.strand
    with contextlib.closing(Journal(files.journal)) as journal:
        walked = _proven(journal, config)
        tables = _tables_file(config)
        if tables is not None and walked.begins_behind and tables.exists():
            raise Halted(
                "journal_begins_later",
                f"the journal begins behind sequence {walked.begins_behind}: what was written before cannot be made"
                " again from it",
                place=str(files.journal),
                cure=f"make this region anew from another one: {NEW_REGION}",
            )
        derived = [files.history]
        if tables is not None:
            derived += [tables, files.requests]
        aside = [sqlite.set_aside(file, "replaced") for file in derived if file.exists()]
        damage = FileDamage(files.damage)
        for file in derived:
            damage.forget(file)
        end = walked.position
        made_here = DerivedPaths(
            files.history if config.replay.history else None, tables, None if tables is None else files.requests
        )
        if made_here.files and end.sequence:
            settings = in_role(config, "replica", 1) if config.replica is None else config
            with contextlib.closing(DerivedFiles(journal, strand, made_here, wiring.replay_policy(settings))) as coming:
                coming.open()
                coming.make(end.sequence, show)
        made = [file for file in derived if file.exists()]
    return Rebuilt(end, made, aside)


def take_journal(config: Config, other: Path) -> tuple[Position, Path | None]:
    """Put a copy of another region's journal in the place of this embedded ledger's. Raises ConfigError or Halted; the
    position up to which it reaches, and where what was there is now."""
    files, strand = config.region.files, config.region.strand
    if not isinstance(source_of(config), EmbeddedSourceSettings):
        raise ConfigError(
            "not_embedded",
            "a captured database's journal also says where its log was read to, which no other region knows",
            place=str(files.journal),
            cure=f"let another region lead, then make this one anew: {NEW_REGION}",
        )
    if not other.is_file():
        raise ConfigError("no_such_file", "there is no such file", place=str(other), cure="name a region's journal")
    with contextlib.closing(Journal(other, traceless=True)) as journal:
        theirs = _walked(journal, strand, other)
        known = _known_here(config)
        held = journal.position_at(strand, known.sequence) if known is not None else None
        if known is not None and held != known:
            raise Halted(
                "journal_behind",
                f"this region has had blocks up to {known}, which the other journal does not hold: they would be lost",
                place=str(other),
                cure="take the journal of a region that has followed further; its head is in: replicator status CONFIG",
            )
    coming = files.journal.with_name(f"{files.journal.name}.new")
    _copy(other, coming)
    aside = sqlite.set_aside(files.journal, "damaged") if files.journal.exists() else None
    coming.replace(files.journal)
    sync_directory(files.journal.parent)
    FileDamage(files.damage).forget(files.journal)
    return theirs.position, aside


def _proven(journal: Journal, config: Config) -> Walk:
    path = config.region.files.journal
    if not path.exists():
        raise Halted(
            "journal_missing",
            "there is no journal, and nothing else to make the files from",
            place=str(path),
            cure=journal_cure(config),
        )
    try:
        return _walked(journal, config.region.strand, path)
    except Halted as error:
        raise Halted(error.reason, error.message, place=error.place, cure=journal_cure(config)) from error


def _walked(journal: Journal, strand: str, path: Path) -> Walk:
    walked = walk(journal, strand)
    if walked.broken is not None:
        raise Halted("journal_damaged", str(walked), place=str(path))
    return walked


def _tables_file(config: Config) -> Path | None:
    """The file of the region's tables, whatever its role; None if they are in a database."""
    if config.state_path is not None:
        return config.state_path
    return config.replica.path if isinstance(config.replica, SqliteReplicaSettings) else None


def _known_here(config: Config) -> Position | None:
    """The last block that this region is known to have had: the state's, or what the journal still proves."""
    known: list[Position] = []
    strand, tables = config.region.strand, _tables_file(config)
    with contextlib.suppress(ReplicatorError, sqlite3.Error):
        if tables is not None and tables.exists():
            with sqlite.translated(tables), contextlib.closing(sqlite.look(tables)) as connection:
                applied = read_applied(connection, strand)
                known += [applied.position] if applied is not None else []
    with contextlib.suppress(ReplicatorError, sqlite3.Error):
        if config.region.files.journal.exists():
            with contextlib.closing(Journal(config.region.files.journal, traceless=True)) as journal:
                known.append(walk(journal, strand).position)
    known = [position for position in known if position.sequence]
    return max(known, key=lambda position: position.sequence) if known else None


def _copy(other: Path, coming: Path) -> None:
    """A copy of a journal without what it says of its own region: only blocks and where they begin."""
    coming.unlink(missing_ok=True)
    with contextlib.ExitStack() as stack:
        stack.enter_context(sqlite.translated(other))
        source = stack.enter_context(contextlib.closing(sqlite.look(other)))
        stack.enter_context(sqlite.translated(coming))
        target = stack.enter_context(contextlib.closing(sqlite3.connect(coming, isolation_level=None)))
        source.backup(target)
        target.execute("PRAGMA journal_mode = DELETE")
        target.execute("PRAGMA synchronous = FULL")
        kept = " AND ".join("substr(key, 1, ?) != ?" for _ in range(2))
        names = [part for prefix in (BASE_NOTE, HIGH_NOTE) for part in (len(prefix), prefix)]
        target.execute(f"DELETE FROM note WHERE {kept}", names)
