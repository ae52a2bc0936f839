"""One TOML file per region becomes one frozen object.

Guarantee: ``load`` returns a configuration that is whole and consistent, or raises ConfigError with the file, the line
and the cure; nothing is started or created by reading it. Unknown keys are refused with the nearest known one. Secrets
come from the environment or from files; they are never part of a message or a repr.
"""

from replicator.config.load import load, parse
from replicator.config.models import (
    ClusterSettings,
    Config,
    EmbeddedSourceSettings,
    EtcdLeaseSettings,
    FeedSettings,
    FollowSettings,
    HttpSettings,
    LimitsSettings,
    PostgresReplicaSettings,
    PostgresSourceSettings,
    RegionSettings,
    ReplaySettings,
    SettleSettings,
    SqliteReplicaSettings,
    StaticLeaseSettings,
    StopSettings,
    TableSettings,
)
from replicator.config.units import Secret

__all__ = [
    "ClusterSettings",
    "Config",
    "EmbeddedSourceSettings",
    "EtcdLeaseSettings",
    "FeedSettings",
    "FollowSettings",
    "HttpSettings",
    "LimitsSettings",
    "PostgresReplicaSettings",
    "PostgresSourceSettings",
    "RegionSettings",
    "ReplaySettings",
    "Secret",
    "SettleSettings",
    "SqliteReplicaSettings",
    "StaticLeaseSettings",
    "StopSettings",
    "TableSettings",
    "load",
    "parse",
]
