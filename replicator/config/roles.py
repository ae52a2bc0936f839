"""A region's configuration in each role. Pure.

A region of a cluster keeps one ledger, whatever its role: the embedded ledger's state is a SQLite replica, and a
PostgreSQL replica is a database like the primary's. So either of ``[source]`` and ``[replica]`` says what the other is.
What is derived was validated where it comes from.
"""

from __future__ import annotations

from typing import Literal

from replicator.config.models import (
    Config,
    EmbeddedSourceSettings,
    PostgresReplicaSettings,
    PostgresSourceSettings,
    RegionSettings,
    Replica,
    Source,
    SqliteReplicaSettings,
)

Role = Literal["primary", "replica"]


def in_role(config: Config, role: Role, epoch: int) -> Config:
    """The configuration of this region as primary of ``epoch``, or as replica."""
    # Copies are not validated again: what both forms share was, and a derived section has defaults for the rest.
    region: RegionSettings = config.region.model_copy(update={"role": role, "epoch": max(epoch, 1)})
    if role == "primary":
        return config.model_copy(update={"region": region, "source": source_of(config), "replica": None})
    return config.model_copy(update={"region": region, "source": None, "replica": replica_of(config)})


def source_of(config: Config) -> Source | None:
    """The ledger as a primary reads it."""
    if config.source is not None:
        return config.source
    match config.replica:
        case SqliteReplicaSettings(path=path):
            return EmbeddedSourceSettings.model_construct(kind="embedded", state=path)
        case PostgresReplicaSettings() as replica:
            return PostgresSourceSettings.model_construct(kind="postgres", dsn=replica.dsn, password=replica.password)
        case None:
            return None


def replica_of(config: Config) -> Replica | None:
    """The ledger as a replica writes it; None for one that can only be a primary's."""
    if config.replica is not None:
        return config.replica
    match config.source:
        case EmbeddedSourceSettings():
            assert config.state_path is not None
            return SqliteReplicaSettings.model_construct(kind="sqlite", path=config.state_path)
        case PostgresSourceSettings() as source:
            return PostgresReplicaSettings.model_construct(kind="postgres", dsn=source.dsn, password=source.password)
        case _:
            return None
