"""Whose data directory it is: noted in it once, and compared at every start.

A directory that belongs to another region, is started in another role, or leaves its cluster, looks like any other;
what follows from it does not: two primaries, one region's place counted for another's, epochs that begin again. So a
change is refused by name, before anything is opened, unless a person says that it is meant (``replicator run CONFIG
--new-identity``).

Outside a cluster the role is part of it; within one it changes by itself. The id is drawn once for the directory: a
feed tells by it two regions that go by one name. A copy of a directory has the same id, and is not told apart.
"""

from __future__ import annotations

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
    """What a directory is noted as. ``cluster`` is where its lease is kept; None outside a cluster."""

    id: str
    name: str
    role: str
    strand: str
    cluster: str | None


def identity_of(config: Config, id_: str) -> DirectoryIdentity:
    """What the configuration says."""
    cluster = None
    if config.cluster is not None:
        cluster = config.lease.prefix if isinstance(config.lease, EtcdLeaseSettings) else ""
    return DirectoryIdentity(id_, config.region.name, config.region.role, config.region.strand, cluster)


def read_identity(files: DataDir) -> DirectoryIdentity | None:
    """What the directory is noted as; None if it is not. Raises Halted."""
    try:
        fields = json.loads(files.identity.read_text(encoding="utf-8"))
        identity = DirectoryIdentity(**{name: fields[name] for name in DirectoryIdentity._fields})
        if not all(isinstance(value, str) for value in identity[:4]) or not isinstance(identity.cluster, str | None):
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
        return _removed_cluster(config)
    said = identity_of(config, noted.id)
    if noted.name != said.name or noted.strand != said.strand:
        return _refusal(config, f"it is the directory of region {noted.name}, strand {noted.strand}, not {said.name}'s")
    if noted.cluster is None and said.cluster is None and noted.role != said.role:
        return _refusal(config, f"the region was a {noted.role}, and is configured as a {said.role}")
    if noted.cluster is not None and said.cluster is not None and noted.cluster != said.cluster:
        return _refusal(config, f"the cluster's lease was kept under {noted.cluster!r}, not {said.cluster!r}")
    return _removed_cluster(config, noted)


def claim(config: Config, *, new: bool = False) -> DirectoryIdentity:
    """Note the directory as this region's, and give that. Raises ConfigError where it is not, unless it is to be new;
    the caller has locked it."""
    if not new and (error := difference(config)) is not None:
        raise error
    noted = None if new and not _is_readable(config) else read_identity(config.region.files)
    identity = identity_of(config, uuid.uuid4().hex if noted is None else noted.id)
    if identity != noted:
        replace_file(config.region.files.identity, [json.dumps(identity._asdict(), indent=1), "\n"])
    return identity


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


def _is_readable(config: Config) -> bool:
    try:
        read_identity(config.region.files)
    except Halted:
        return False
    return True


def _removed_cluster(config: Config, noted: DirectoryIdentity | None = None) -> ConfigError | None:
    """A region of a cluster that is configured as none would lead by itself, whoever leads in the cluster, and know
    nothing of what it has promised."""
    was_in = config.region.files.role.exists() if noted is None else noted.cluster is not None
    if config.cluster is not None or not was_in:
        return None
    return ConfigError(
        "cluster_removed",
        "this region took part in a cluster, and its configuration has no [cluster] any more",
        place=f"[region] data_dir = {config.region.data_dir}",
        cure=f"put [cluster] and [lease] back; to take the region out of it for good: {FLAG}",
    )


def _refusal(config: Config, message: str) -> ConfigError:
    place = f"[region] data_dir = {config.region.data_dir}"
    return ConfigError("another_identity", message, place=place, cure=MEANT)
