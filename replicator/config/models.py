"""The sections of a configuration and how they belong together. ``config/reference.toml`` explains each key.

Durations are seconds and sizes bytes in here; a field's alias is its key in the file.
"""

from __future__ import annotations

import urllib.parse
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

import psycopg
from psycopg import conninfo
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from replicator.config.units import Address, Duration, DurationOrAuto, FilePath, Listen, Secret, Size
from replicator.storage.data_dir import DataDir

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
SlotName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]{1,63}$")]
Identifier = Annotated[str, StringConstraints(pattern=r"^[^\x00]{1,63}$")]
Count = Annotated[int, Field(gt=0, lt=2**53, strict=True)]
CountOrZero = Annotated[int, Field(ge=0, lt=2**53, strict=True)]
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A section: frozen, and without keys that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, hide_input_in_errors=True)


class RegionSettings(Section):
    name: Name
    role: Literal["primary", "replica"]
    data_dir: FilePath
    strand: Name = "main"
    epoch: Count = 1

    @property
    def files(self) -> DataDir:
        """The paths in the data directory."""
        return DataDir(self.data_dir)


class HttpSettings(Section):
    listen: Listen = Address("127.0.0.1", 7400)
    certificate: FilePath | None = None
    key: FilePath | None = None
    token: Secret | None = None
    public_status: bool = True


def _one_or_more(value: object) -> object:
    return (value,) if isinstance(value, str) else value


class TableSettings(Section):
    """A table that the embedded ledger declares. ``key`` and ``key_type`` name one field or several."""

    name: Identifier
    key: Annotated[tuple[Identifier, ...], BeforeValidator(_one_or_more), Field(min_length=1, max_length=32)]
    key_type: Annotated[tuple[Literal["string", "integer"], ...], BeforeValidator(_one_or_more)] = ("string",)
    user: Identifier | None = None

    @property
    def key_types(self) -> tuple[Literal["string", "integer"], ...]:
        """The type of each field of the key."""
        return self.key_type * len(self.key) if len(self.key_type) == 1 else self.key_type


class LimitsSettings(Section):
    """What a client may send to the embedded ledger."""

    document_bytes: Size = Field(default=1_000_000, alias="document")
    request_bytes: Size = Field(default=64_000_000, alias="request")
    statements: Count = 1_000_000


class EmbeddedSourceSettings(Section):
    kind: Literal["embedded"]
    state: FilePath | None = None
    idempotency_retention_seconds: Duration = Field(default=7 * 86_400.0, alias="idempotency_retention")
    tables: tuple[TableSettings, ...] = ()
    limits: LimitsSettings = LimitsSettings()


def _check_dsn(value: Secret) -> Secret:
    try:
        conninfo.conninfo_to_dict(value.reveal())
    except psycopg.ProgrammingError:  # its message may quote the password
        raise ValueError("this is no connection string that libpq understands") from None
    return value


Dsn = Annotated[Secret, AfterValidator(_check_dsn)]


class ConnectionSettings(Section):
    """How to reach a PostgreSQL database."""

    dsn: Dsn
    password: Secret | None = None

    def conninfo(self) -> str:
        """The connection string with its password; not for messages or logs."""
        if self.password is None:
            return self.dsn.reveal()
        return conninfo.make_conninfo(self.dsn.reveal(), password=self.password.reveal())


class PostgresSourceSettings(ConnectionSettings):
    kind: Literal["postgres"]
    slot: SlotName = "replicator"
    slot_failover: bool = False
    publication: Identifier = "replicator"
    tables: Annotated[tuple[Identifier, ...], Field(min_length=1)] | None = None
    user_column: Identifier = "user_id"
    user_columns: dict[Identifier, Identifier] = {}
    heartbeat_seconds: Duration = Field(default=1.0, alias="heartbeat")
    sequences_seconds: Duration = Field(default=5.0, alias="sequences")


class SqliteReplicaSettings(Section):
    kind: Literal["sqlite"]
    path: FilePath


class PostgresReplicaSettings(ConnectionSettings):
    kind: Literal["postgres"]


Source = Annotated[EmbeddedSourceSettings | PostgresSourceSettings, Field(discriminator="kind")]
Replica = Annotated[SqliteReplicaSettings | PostgresReplicaSettings, Field(discriminator="kind")]


def _check_url(value: str) -> str:
    parts = urllib.parse.urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError('the primary\'s address is a URL, such as "https://host:7400"')
    if parts.username or parts.password:
        raise ValueError("credentials do not belong into the URL; set [follow] token")
    assert parts.port is None or parts.port >= 0  # .port raises ValueError for what is no port
    return value.rstrip("/")


class FeedSettings(Section):
    heartbeat_seconds: Duration = Field(default=1.0, alias="heartbeat")


class FollowSettings(Section):
    primary: Annotated[str, AfterValidator(_check_url)] | None = None
    token: Secret | None = None
    ca: FilePath | None = None
    reconnect_min_seconds: Duration = Field(default=0.2, alias="reconnect_min")
    reconnect_max_seconds: Duration = Field(default=15.0, alias="reconnect_max")
    idle_timeout_seconds: Duration = Field(default=10.0, alias="idle_timeout")


class ClusterSettings(Section):
    """The regions that may take over from each other, by name, with the address of each one's sidecar."""

    regions: Annotated[dict[Name, Annotated[str, AfterValidator(_check_url)]], Field(min_length=2, max_length=64)]
    token: Secret | None = None
    ca: FilePath | None = None


class SettleSettings(Section):
    window_seconds: DurationOrAuto = Field(default=2.0, alias="window")
    window_miss: Annotated[float, Field(gt=0, lt=1)] = 0.001
    window_min_seconds: Duration = Field(default=0.05, alias="window_min")
    window_max_seconds: Duration = Field(default=60.0, alias="window_max")
    gap_repeat_seconds: Duration = Field(default=5.0, alias="gap_repeat")
    gap_expires_seconds: Duration = Field(default=300.0, alias="gap_expires")
    late: Literal["halt", "quarantine"] = "halt"
    remembered: Count = 65_536
    max_entries: Count = 1_000_000
    max_bytes: Size = 4_000_000_000
    max_gaps: Count = 20_000
    max_age_seconds: Duration = Field(default=86_400.0, alias="max_age")
    memory_entries: Count = 100_000
    memory_bytes: Size = Field(default=64_000_000, alias="memory")


class ReplaySettings(Section):
    batch_blocks: Count = 5_000
    batch_bytes: Size = 8_000_000
    history: bool = True
    on_error: Literal["halt", "quarantine"] = "halt"
    quarantine_limit: Count = 10_000


class VerifySettings(Section):
    checkpoints: bool = True
    checkpoint_seconds: Duration = Field(default=1.0, alias="checkpoint")
    checkpoint_blocks: Count = 10_000
    share: Annotated[float, Field(gt=0, le=1)] = 0.15
    scrubs: bool = True
    scrub_seconds: Duration = Field(default=3600.0, alias="scrub")
    scrub_rows: Count = 20_000


class JournalSettings(Section):
    keep_age_seconds: Duration | None = Field(default=None, alias="keep_age")
    keep_bytes: Size | None = None
    budget_bytes: Size | None = None


class LeaseTimesSettings(Section):
    """What every kind of lease counts by."""

    ttl_seconds: Duration = Field(default=10.0, alias="ttl")
    clock_error: Annotated[float, Field(ge=0, lt=0.5)] = 0.01
    margin_seconds: Duration = Field(default=0.5, alias="margin")


class StaticLeaseSettings(LeaseTimesSettings):
    kind: Literal["static"]
    path: FilePath | None = None


def _check_endpoint(value: str) -> str:
    parts = urllib.parse.urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.query:
        raise ValueError('an endpoint is a URL of etcd, such as "https://etcd-1:2379"')
    if parts.username or parts.password or parts.fragment:
        raise ValueError("credentials do not belong into the URL; set [lease] user and password")
    assert parts.port is None or parts.port >= 0  # .port raises ValueError for what is no port
    return value.rstrip("/")


class EtcdLeaseSettings(LeaseTimesSettings):
    kind: Literal["etcd"]
    endpoints: Annotated[
        tuple[Annotated[str, AfterValidator(_check_endpoint)], ...], Field(min_length=1, max_length=16)
    ]
    prefix: Annotated[str, StringConstraints(pattern=r"^/?[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*$", max_length=200)] = (
        "/replicator"
    )
    user: Annotated[str, StringConstraints(pattern=r"^[^\x00]{1,200}$")] | None = None
    password: Secret | None = None
    ca: FilePath | None = None
    certificate: FilePath | None = None
    key: FilePath | None = None


Lease = Annotated[StaticLeaseSettings | EtcdLeaseSettings, Field(discriminator="kind")]


class CopySettings(Section):
    hold_seconds: Duration = Field(default=300.0, alias="hold")


class AmountSettings(Section):
    """A column, or a field of the embedded ledger's documents, whose changes are summed up while they are at risk."""

    table: Identifier
    column: Identifier
    currency: Annotated[str, StringConstraints(max_length=64)] = ""
    currency_column: Identifier | None = None
    limit: Annotated[Decimal, Field(ge=0)] | None = None


class FailoverSettings(Section):
    mode: Literal["manual", "automatic", "shadow"] = "manual"
    priority: CountOrZero = 0
    suspect_seconds: Duration = Field(default=2.0, alias="suspect")
    quiet_seconds: Duration = Field(default=30.0, alias="quiet")
    stand_seconds: Duration = Field(default=1.0, alias="stand")
    promise_seconds: Duration = Field(default=1.0, alias="promise")
    verify_seconds: Duration = Field(default=2.0, alias="verify")
    step_seconds: Duration = Field(default=30.0, alias="step")
    switchover_seconds: Duration = Field(default=10.0, alias="switchover")
    max_lost_blocks: CountOrZero = 0
    rejoin: Literal["automatic", "manual"] = "automatic"
    undo_rows: CountOrZero = 1_000
    undo_share: Share = 0.1
    acknowledge: CountOrZero = 0
    acknowledge_timeout_seconds: Duration = Field(default=10.0, alias="acknowledge_timeout")
    missing: Literal["wait", "degrade"] = "wait"
    degrade_after_seconds: Duration = Field(default=10.0, alias="degrade_after")
    amounts: tuple[AmountSettings, ...] = ()


class StopSettings(Section):
    deadline_seconds: Duration = Field(default=10.0, alias="deadline")


class Config(Section):
    """One region. ``path`` is the file that it was read from."""

    region: RegionSettings
    http: HttpSettings = HttpSettings()
    source: Source | None = None
    feed: FeedSettings = FeedSettings()
    follow: FollowSettings | None = None
    cluster: ClusterSettings | None = None
    settle: SettleSettings = SettleSettings()
    replica: Replica | None = None
    replay: ReplaySettings = ReplaySettings()
    journal: JournalSettings = JournalSettings()
    copying: CopySettings = Field(default=CopySettings(), alias="copy")
    verify: VerifySettings = VerifySettings()
    failover: FailoverSettings = FailoverSettings()
    stop: StopSettings = StopSettings()
    lease: Lease | None = None

    @property
    def url(self) -> str:
        """Where this machine reaches the region's sidecar."""
        host = {"0.0.0.0": "127.0.0.1", "*": "127.0.0.1", "::": "::1"}.get(self.http.listen.host, self.http.listen.host)
        scheme = "http" if self.http.certificate is None else "https"
        return f"{scheme}://{Address(host, self.http.listen.port)}"

    @property
    def state_path(self) -> Path | None:
        """Where an embedded ledger keeps its state; None for another source."""
        if not isinstance(self.source, EmbeddedSourceSettings):
            return None
        return self.source.state or self.region.files.ledger_state
