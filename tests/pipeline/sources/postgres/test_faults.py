"""Which of PostgreSQL's errors can get better, which need a person."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import errors

from replicator.errors import Halted, ReplicatorError, Unavailable
from replicator.pipeline.sources.postgres.connection import connect
from replicator.pipeline.sources.postgres.faults import fault, translated
from replicator.pipeline.sources.postgres.options import PostgresOptions
from replicator.pipeline.sources.postgres.slot import check_timeline, parse_forks
from tests.servers import Postgres


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (errors.AdminShutdown("terminating"), Unavailable, "postgres_unavailable"),
        (errors.TooManyConnections("no"), Unavailable, "postgres_unavailable"),
        (errors.DeadlockDetected("no"), Unavailable, "postgres_unavailable"),
        (errors.LockNotAvailable("no"), Unavailable, "postgres_unavailable"),
        (errors.ObjectInUse("slot is active for PID 1"), Unavailable, "slot_active"),
        (errors.ConfigurationLimitExceeded("all replication slots are in use"), Halted, "no_free_slot"),
        (errors.InsufficientPrivilege("no"), Halted, "missing_privilege"),
        (errors.InvalidPassword("no"), Halted, "not_authorised"),
        (errors.ObjectNotInPrerequisiteState("logical decoding requires wal_level >= logical"), Halted, "wal_level"),
        (errors.ObjectNotInPrerequisiteState("can no longer get changes from replication slot"), Halted, "slot_lost"),
        (errors.UndefinedTable("no"), Halted, "no_such_table"),
        (errors.SyntaxError("no"), Halted, "postgres_error"),
        (psycopg.OperationalError("connection refused"), Unavailable, "postgres_unreachable"),
        (psycopg.OperationalError('FATAL:  password authentication failed for user "a"'), Halted, "wrong_password"),
        (psycopg.OperationalError("fe_sendauth: no password supplied"), Halted, "wrong_password"),
        (psycopg.OperationalError('FATAL:  database "x" does not exist'), Halted, "no_such_database"),
        (psycopg.OperationalError('FATAL:  role "x" does not exist'), Halted, "not_authorised"),
        (psycopg.OperationalError("FATAL:  the database system is starting up"), Unavailable, "postgres_unreachable"),
    ],
)  # fmt: skip
def test_each_error_is_what_it_means(error: psycopg.Error, kind: type[ReplicatorError], reason: str) -> None:
    translated_to = fault(error, "here")
    assert type(translated_to) is kind
    assert (translated_to.reason, translated_to.place) == (reason, "here")
    assert translated_to.cure


@pytest.mark.parametrize(
    ("change", "reason"), [("dbname=nowhere", "no_such_database"), ("user=nobody", "not_authorised")]
)
def test_a_real_server_says_it_so(postgres: Postgres, change: str, reason: str) -> None:
    with pytest.raises(Halted) as raised:
        connect(PostgresOptions(dsn=f"{postgres.dsn()} {change}"))
    assert raised.value.reason == reason


def test_settings_are_ours_whatever_the_role_has(postgres: Postgres) -> None:
    with postgres.connect() as connection:
        connection.execute("CREATE ROLE strange LOGIN")
        for setting in ("datestyle = 'German'", "timezone = 'Asia/Tokyo'", "statement_timeout = 1", "search_path = x"):
            connection.execute(f"ALTER ROLE strange SET {setting}".encode())
    dsn = f"{postgres.dsn(user='strange')} options='-c work_mem=1MB'"
    with translated("here"), connect(PostgresOptions(dsn=dsn)) as connection:
        row = connection.execute(
            "SELECT '2024-02-01 12:00+00'::timestamptz::text, current_setting('work_mem')"
        ).fetchone()
        names = connection.execute(
            "SELECT current_setting('search_path'), current_setting('client_encoding')"
        ).fetchone()
        default = connection.execute("SHOW default_transaction_isolation").fetchone()
    assert row == ("2024-02-01 12:00:00+00", "1MB")
    assert names == ("pg_catalog", "UTF8")
    assert default == ("read committed",)


def test_a_fork_before_our_position_halts() -> None:
    forks = parse_forks("1\t0/300\tno recovery target\n\n2\t0/500 \tbefore\n# comment\n")
    assert forks == {1: 0x300, 2: 0x500}
    check_timeline(forks, "1", 0x300)
    check_timeline(forks, "3", 0x900)
    check_timeline(forks, None, 0x900)
    with pytest.raises(Halted) as raised:
        check_timeline(forks, "2", 0x501)
    assert raised.value.reason == "timeline_forked"
