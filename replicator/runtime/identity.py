"""Whose data directory it is: noted in it once, and compared at every start.

A directory that belongs to another region, is started in another role, or leaves its cluster, looks like any other;
what follows from it does not: two primaries, one region's place counted for another's, epochs that begin again. So a
change is refused by name, before anything is opened, unless a person says that it is meant (``replicator run CONFIG
--new-identity``).

Outside a cluster the role is part of it; within one it changes by itself. The id is drawn once for the directory: a
feed tells by it two regions that go by one name. A copy of a directory has the same id, and is not told apart until it
is given a new identity. A directory from before the note is taken for what it is configured as, unless what lies in it
speaks against that.

The database that a replica's rows go to is noted when it is first reached, which may be long after the start, and
compared before anything is written there.
"""

from __future__ import annotations

import dataclasses
import json
import uuid
from typing import NamedTuple

from replicator.config import Config, EtcdLeaseSettings
from replicator.errors import ConfigError, Halted
from replicator.storage.atomic_file import replace_file
from replicator.storage.data_dir import DataDir
from replicator.storage.journal.store import Journal

FLAG = "replicator run CONFIG --new-identity"
MEANT = f"name the directory that is this region's; if the change is meant: {FLAG}"


class DirectoryIdentity(NamedTuple):
    """What a directory is noted as. ``cluster`` is where its lease is kept; None outside a cluster. ``database`` is the
    replica's, as ``PostgresReplica`` names it; None until it was reached."""

    id: str
    name: str
    role: str
    strand: str
    cluster: str | None
    database: str | None = None


def identity_of(config: Config, id_: str, database: str | None = None) -> DirectoryIdentity:
    """What the configuration says; id and database are noted, not configured."""
    cluster = None
    if config.cluster is not None:
        cluster = config.lease.prefix if isinstance(config.lease, EtcdLeaseSettings) else ""
    return DirectoryIdentity(id_, config.region.name, config.region.role, config.region.strand, cluster, database)


def read_identity(files: DataDir) -> DirectoryIdentity | None:
    """What the directory is noted as; None if it is not. Raises Halted."""
    try:
        fields = json.loads(files.identity.read_text(encoding="utf-8"))
        named = {name: fields[name] for name in DirectoryIdentity._fields if name != "database"}
        identity = DirectoryIdentity(**named, database=fields.get("database"))
        texts, rest = identity[:4], identity[4:]
        if not all(isinstance(value, str) for value in texts) or not all(isinstance(it, str | None) for it in rest):
            raise ValueError("a field is no text")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        cure = f"move it away; if the directory is this region's: {FLAG}"
        raise Halted("bad_identity", f"it cannot be read: {error!r}", place=str(files.identity), cure=cure) from error
    return identity


def difference(config: Config) -> ConfigError | None:
    """Why the configuration is not that of the region whose directory this is; None if it is."""
    noted = read_identity(config.region.files)
    if noted is None:
        return _removed_cluster(config) or _was_a_replica(config)
    said = identity_of(config, noted.id)
    if noted.name != said.name or noted.strand != said.strand:
        return _refusal(config, f"it is the directory of region {noted.name}, strand {noted.strand}, not {said.name}'s")
    if noted.cluster is None and said.cluster is None and noted.role != said.role:
        return _refusal(config, f"the region was a {noted.role}, and is configured as a {said.role}")
    if noted.cluster is not None and said.cluster is not None and noted.cluster != said.cluster:
        return _refusal(config, f"the cluster's lease was kept under {noted.cluster!r}, not {said.cluster!r}")
    return _removed_cluster(config, noted)


def recognise(config: Config, *, new: bool = False) -> DirectoryIdentity:
    """Whose the directory is, still to be noted. Raises ConfigError where it is not this region's, unless it is to be
    new; the caller has locked it. Nothing is changed."""
    if not new and (error := difference(config)) is not None:
        raise error
    # A new identity has a new id, too: it may be given to a copy of a directory that another sidecar runs on.
    noted = None if new else read_identity(config.region.files)
    return identity_of(config, uuid.uuid4().hex) if noted is None else identity_of(config, noted.id, noted.database)


def note(files: DataDir, identity: DirectoryIdentity) -> None:
    """Durable on return."""
    if read_identity_or_none(files) != identity:
        replace_file(files.identity, [json.dumps(identity._asdict(), indent=1), "\n"])


def note_made_anew(config: Config) -> None:
    """The region was made anew as configured: it is the same one, whatever it was, and whatever database it had."""
    noted = read_identity_or_none(config.region.files)
    note(config.region.files, identity_of(config, uuid.uuid4().hex if noted is None else noted.id))


@dataclasses.dataclass(frozen=True, slots=True)
class DatabaseNote:
    """Which database is this region's replica: the first one that it reaches, until a person says otherwise."""

    files: DataDir

    def __call__(self, database: str, place: str) -> None:
        """Raise Halted if another one was noted. Blocks."""
        noted = read_identity(self.files)
        if noted is None or noted.database == database:
            return
        if noted.database is None:
            note(self.files, noted._replace(database=database))
            return
        raise Halted(
            "another_database",
            f"this region's rows are in {noted.database}, and this is {database}",
            place=place,
            cure="correct [replica] dsn; if the database was moved there, or its server upgraded with pg_upgrade: stop"
            f" the sidecar; {FLAG}",
        )


def check_name(config: Config) -> None:
    """Raise ConfigError if the directory is another region's: it is not made anew as this one."""
    noted = read_identity(config.region.files)
    if noted is not None and noted.name != config.region.name:
        raise _refusal(config, f"it is the directory of region {noted.name}, not {config.region.name}'s")


def check_epoch(config: Config, journal: Journal) -> None:
    """Raise ConfigError if a primary without a cluster would write behind blocks of a later epoch."""
    if config.cluster is not None or config.region.role != "primary":
        return
    head = journal.head(config.region.strand)
    if head.epoch > config.region.epoch:
        raise ConfigError(
            "epoch_past",
            f"the journal holds blocks of epoch {head.epoch}; this region would write in epoch {config.region.epoch}",
            place="[region] epoch",
            cure=f"if no other region leads: [region] epoch = {head.epoch + 1}",
        )


def read_identity_or_none(files: DataDir) -> DirectoryIdentity | None:
    """What the directory is noted as; None, too, if that cannot be read."""
    try:
        return read_identity(files)
    except Halted:
        return None


def _removed_cluster(config: Config, noted: DirectoryIdentity | None = None) -> ConfigError | None:
    """A region of a cluster that is configured as none would lead by itself, whoever leads in the cluster, and know
    nothing of what it has promised."""
    files = config.region.files
    # Only in a cluster a region has a role of its own, and only there blocks are sealed as orphans.
    was_in = files.role.exists() or bool(files.seals()) if noted is None else noted.cluster is not None
    if config.cluster is not None or not was_in:
        return None
    return ConfigError(
        "cluster_removed",
        "this region took part in a cluster, and its configuration has no [cluster] any more",
        place=f"[region] data_dir = {config.region.data_dir}",
        cure=f"put [cluster] and [lease] back; to take the region out of it for good: {FLAG}",
    )


def _was_a_replica(config: Config) -> ConfigError | None:
    """Only a region that follows has a spool; in a cluster every region may have followed."""
    spool = config.region.files.spool
    if config.cluster is not None or config.region.role == "replica" or not spool.exists():
        return None
    return _refusal(config, f"the region was a replica, for {spool.name} is there, and is configured as a primary")


def _refusal(config: Config, message: str) -> ConfigError:
    place = f"[region] data_dir = {config.region.data_dir}"
    return ConfigError("another_identity", message, place=place, cure=MEANT)
