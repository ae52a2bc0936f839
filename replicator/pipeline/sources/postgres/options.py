"""What an operator can set for a PostgreSQL source."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from replicator.errors import ConfigError
from replicator.postgres.catalog import TableName

IGNORED_NAMESPACE = "replicator"  # a sidecar's own tables, where the ledger was a replica once
HEARTBEAT_PREFIX = "replicator.heartbeat"

_LABEL = re.compile(r'(?:("(?:[^"]|"")+"|[^".]+)\.)?("(?:[^"]|"")+"|[^".]+)')
_SLOT = re.compile(r"[a-z0-9_]{1,63}")


@dataclasses.dataclass(frozen=True, slots=True)
class PostgresOptions:
    """A ledger in PostgreSQL.

    ``dsn`` is a libpq connection string or URI (never printed). ``tables`` are ``name`` or ``schema.name``, quoted as
    in SQL where a name holds a dot; None is all of the database, now and later, which needs a superuser to create the
    publication. ``user_column`` names the column of the user's id in every table that has it, ``user_columns`` by table
    where it differs. A ``heartbeat_seconds`` or ``sequence_seconds`` of 0 switches that off. ``synchronous``: commits
    wait for what is acknowledged (this is a synchronous standby): nothing is confirmed before that, and then at once.
    ``failover``: physical standbys keep the slot, too.
    """

    dsn: str = dataclasses.field(repr=False)
    slot: str = "replicator"
    publication: str = "replicator"
    tables: tuple[str, ...] | None = None
    user_column: str | None = "user_id"
    user_columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    heartbeat_seconds: float = 5.0
    sequence_seconds: float = 10.0
    connect_seconds: float = 10.0
    lock_seconds: float = 30.0
    synchronous: bool = False
    failover: bool = False

    def __post_init__(self) -> None:
        if not _SLOT.fullmatch(self.slot):
            raise ConfigError(
                "bad_slot_name", f"{self.slot!r} is no slot name", cure="use 1 to 63 of a to z, digits and _"
            )
        if not self.publication or len(self.publication.encode()) > 63 or "\0" in self.publication:
            raise ConfigError("bad_publication_name", "a publication's name has 1 to 63 bytes", cure="shorten it")
        for label in (*(self.tables or ()), *self.user_columns):
            parse_table(label)

    @property
    def table_names(self) -> tuple[TableName, ...] | None:
        """The configured tables as (schema, name), each once; None for all."""
        return None if self.tables is None else tuple(dict.fromkeys(parse_table(label) for label in self.tables))

    def user_column_of(self, name: TableName) -> tuple[str | None, bool]:
        """The user column's name for a table, and whether it was named for this very table."""
        for label, column in self.user_columns.items():
            if parse_table(label) == name:
                return column, True
        return self.user_column, False


def parse_table(label: str) -> TableName:
    """``wallets`` or ``audit.events`` or ``"odd.schema"."odd.name"`` as (schema, name). Raises ConfigError."""
    match = _LABEL.fullmatch(label)
    if match is None or "\0" in label:
        raise ConfigError("bad_table_name", f"{label!r:.80} is no table name", cure="write name or schema.name")
    return (_unquoted(match[1]) if match[1] else "public", _unquoted(match[2]))


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name
