"""What each class of SQLSTATE means: written down here a second time, and asked of every user on a real server."""

from __future__ import annotations

import functools

import psycopg
import pytest
from psycopg import errors

from replicator.errors import Halted, Rejected, ReplicatorError, Unavailable
from replicator.ops.drills.canary_writers import CANARY
from replicator.ops.drills.rules.plan import CanaryPlan
from replicator.pipeline.replay.quarantine import is_curable
from replicator.postgres.errors import FENCE, MEANINGS, REPLICA, SOURCE, SessionReasons, meaning_of, translation
from tests.postgres.users import ALL, User
from tests.servers import Postgres

WAIT, HALT = Unavailable, Halted
# SQLSTATE: what it means, and the reasons of replica, source and fence.
EXPECTED = {
    "03000": (HALT, "replica_refused", "postgres_error", "fence_refused"),
    "08000": (WAIT, "replica_unreachable", "postgres_unavailable", "fence_unavailable"),
    "08006": (WAIT, "replica_unreachable", "postgres_unavailable", "fence_unavailable"),
    "08P01": (WAIT, "replica_unreachable", "postgres_unavailable", "fence_unavailable"),
    "09000": (HALT, "replica_refused", "postgres_error", "fence_refused"),
    "0A000": (HALT, "replica_refused", "postgres_error", "fence_refused"),
    "0B000": (HALT, "replica_refused", "postgres_error", "fence_refused"),
    "0F001": (HALT, "replica_refused", "postgres_error", "fence_refused"),
    "0L000": (HALT, "replica_refused", "postgres_error", "fence_refused"),
    "0P000": (HALT, "replica_refused", "postgres_error", "fence_refused"),
    "0Z002": (HALT, "replica_refused", "postgres_error", "fence_refused"),
    "20000": (HALT, "replica_refused", "postgres_error", "fence_refused"),
    "21000": (HALT, "replica_refused", "postgres_error", "fence_refused"),
    "22001": (HALT, "replica_refused_row", "postgres_error", "fence_refused"),
    "22P02": (HALT, "replica_refused_row", "postgres_error", "fence_refused"),
    "23505": (HALT, "replica_refused_row", "postgres_error", "fence_refused"),
    "23514": (HALT, "replica_refused_row", "postgres_error", "fence_refused"),
    "24000": (HALT, "replica_refused", "postgres_error", "fence_refused"),
    "25001": (HALT, "replica_refused", "postgres_error", "fence_refused"),
    "25006": (WAIT, "replica_read_only", "server_in_recovery", "fence_unavailable"),
    "25P02": (HALT, "replica_refused", "postgres_error", "fence_refused"),
    "25P03": (WAIT, "replica_slow", "postgres_unavailable", "fence_unavailable"),
    "26000": (HALT, "replica_refused", "postgres_error", "fence_refused"),
    "27000": (HALT, "replica_refused_row", "postgres_error", "fence_refused"),
    "28000": (HALT, "replica_login", "not_authorised", "fence_login"),
    "28P01": (HALT, "replica_login", "wrong_password", "fence_login"),
    "2B000": (HALT, "replica_refused", "postgres_error", "fence_refused"),
    "2D000": (HALT, "replica_refused", "postgres_error", "fence_refused"),
    "2F000": (HALT, "replica_refused", "postgres_error", "fence_refused"),
    "34000": (HALT, "replica_refused", "postgres_error", "fence_refused"),
    "38000": (HALT, "replica_refused_row", "postgres_error", "fence_refused"),
    "39000": (HALT, "replica_refused", "postgres_error", "fence_refused"),
    "3B000": (HALT, "replica_refused", "postgres_error", "fence_refused"),
    "3D000": (HALT, "replica_login", "no_such_database", "fence_login"),
    "3F000": (HALT, "replica_refused", "postgres_error", "fence_missing"),
    "40001": (WAIT, "replica_locked", "postgres_unavailable", "fence_unavailable"),
    "40P01": (WAIT, "replica_locked", "postgres_unavailable", "fence_unavailable"),
    "42501": (HALT, "replica_privilege", "missing_privilege", "fence_privilege"),
    "42601": (HALT, "replica_refused", "postgres_error", "fence_refused"),
    "42703": (HALT, "replica_table_differs", "postgres_error", "fence_refused"),
    "42704": (HALT, "replica_refused", "missing_object", "fence_refused"),
    "42883": (HALT, "replica_refused", "postgres_error", "fence_missing"),
    "42P01": (HALT, "replica_table_differs", "no_such_table", "fence_missing"),
    "42P10": (HALT, "replica_table_differs", "postgres_error", "fence_refused"),
    "44000": (HALT, "replica_refused", "postgres_error", "fence_refused"),
    "53000": (WAIT, "replica_overloaded", "postgres_unavailable", "fence_unavailable"),
    "53100": (WAIT, "disk_full", "postgres_unavailable", "fence_unavailable"),
    "53200": (WAIT, "replica_overloaded", "postgres_unavailable", "fence_unavailable"),
    "53300": (WAIT, "replica_overloaded", "postgres_unavailable", "fence_unavailable"),
    "53400": (HALT, "replica_overloaded", "postgres_error", "fence_refused"),
    "54000": (HALT, "replica_refused_row", "value_too_large", "fence_refused"),
    "55000": (HALT, "replica_refused", "postgres_error", "fence_refused"),
    "55006": (WAIT, "replica_locked", "slot_active", "fence_unavailable"),
    "55P02": (HALT, "replica_refused", "postgres_error", "fence_refused"),
    "55P03": (WAIT, "replica_locked", "postgres_unavailable", "fence_locked"),
    "57014": (WAIT, "replica_slow", "postgres_unavailable", "fence_unavailable"),
    "57P01": (WAIT, "replica_unreachable", "postgres_unavailable", "fence_unavailable"),
    "57P03": (WAIT, "replica_unreachable", "postgres_unavailable", "fence_unavailable"),
    "57P05": (WAIT, "replica_unreachable", "postgres_unavailable", "fence_unavailable"),
    "58000": (WAIT, "replica_io", "postgres_unavailable", "fence_unavailable"),
    "58030": (WAIT, "replica_io", "postgres_unavailable", "fence_unavailable"),
    "58P01": (WAIT, "replica_io", "postgres_unavailable", "fence_unavailable"),
    "72000": (WAIT, "replica_slow", "postgres_unavailable", "fence_unavailable"),
    "F0000": (HALT, "replica_refused", "postgres_error", "fence_refused"),
    "HV000": (HALT, "replica_refused", "postgres_error", "fence_refused"),
    "P0001": (HALT, "replica_refused_row", "postgres_error", "fence_refused"),
    "P0004": (HALT, "replica_refused_row", "postgres_error", "fence_refused"),
    "XX000": (HALT, "replica_damaged", "postgres_error", "fence_refused"),
    "XX001": (HALT, "replica_damaged", "postgres_error", "fence_refused"),
    "XX002": (HALT, "replica_damaged", "postgres_error", "fence_refused"),
}
PLACE_OF_REASON: dict[int, int] = {id(REPLICA): 1, id(SOURCE): 2, id(FENCE): 3}
RACES = ("tuple concurrently updated", "cache lookup failed for relation 7", "could not open relation with OID 7")


def caught(user: User, dsn: str, statement: str) -> ReplicatorError:
    with pytest.raises((Unavailable, Halted)) as raised:
        user.run(dsn, statement)
    assert isinstance(raised.value, ReplicatorError)
    return raised.value


def thrown(state: str, message: str = "thrown") -> str:
    return f"DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{state}', MESSAGE = '{message}'; END $$"


@pytest.fixture(scope="module")
def dsn(postgres: Postgres) -> str:
    return postgres.create_database("errors_of_all_users")


@pytest.mark.parametrize("state", EXPECTED)
def test_each_class_means_what_it_should(state: str) -> None:
    assert meaning_of(state).error is EXPECTED[state][0]
    assert meaning_of(state).cure


def test_every_class_and_code_of_the_table_is_looked_at() -> None:
    for key in MEANINGS:
        assert any(state.startswith(key) for state in EXPECTED) or key == "25P04", key
    for reasons in (REPLICA, SOURCE, FENCE):
        for key in reasons.named:
            assert any(state.startswith(key) for state in EXPECTED) or key in ("08001", "25P04"), key


@pytest.mark.parametrize("user", ALL, ids=lambda user: user.name)
def test_every_user_is_told_the_same(user: User, dsn: str) -> None:
    for state, (kind, *reasons) in EXPECTED.items():
        error = caught(user, dsn, thrown(state))
        assert type(error) is kind, (state, error)
        assert error.reason == reasons[PLACE_OF_REASON[id(user.reasons)] - 1], (state, error)
        assert f"(SQLSTATE {state})" in error.message
        assert error.place.startswith("PostgreSQL 127.0.0.1:")
        assert error.cure


@pytest.mark.parametrize("user", ALL, ids=lambda user: user.name)
def test_a_race_with_ddl_is_tried_again_and_another_internal_error_is_not(user: User, dsn: str) -> None:
    for message in RACES:
        assert type(caught(user, dsn, thrown("XX000", message))) is Unavailable
    assert type(caught(user, dsn, thrown("XX000", "unexpected chunk number"))) is Halted


def test_a_drill_is_told_so_too(dsn: str) -> None:
    """But that the region takes no writes is an answer to it, not a trouble."""
    from replicator.config import Secret
    from replicator.ops.drills.canary_writers import PostgresCanaryWriter

    plan = CanaryPlan(rate=1, dsn={"paris": Secret(dsn)})
    writing = PostgresCanaryWriter("drill", plan, {"paris": dsn})
    for state, (kind, *_) in EXPECTED.items():
        with pytest.raises(ReplicatorError) as raised:
            writing._in_session("paris", functools.partial(psycopg.Connection.execute, query=thrown(state)))
        if state in ("25006", "42501", "42P01"):
            assert (type(raised.value), raised.value.reason) == (Rejected, "not_primary")
            continue
        assert (type(raised.value), raised.value.reason) == (
            kind,
            CANARY.waits if kind is Unavailable else CANARY.halts,
        )


def test_what_is_refused_can_go_to_the_quarantine_and_nothing_else_can(dsn: str) -> None:
    for state, (_, reason, *_) in EXPECTED.items():
        error = caught(ALL[0], dsn, thrown(state))
        assert is_curable(error) == (reason == "replica_refused_row"), state


# -- words


@pytest.mark.parametrize(
    ("message", "kind", "replica", "source", "fence"),
    [
        ("connection refused", WAIT, "replica_unreachable", "postgres_unreachable", "fence_unreachable"),
        ("FATAL:  the database system is starting up", WAIT, "replica_unreachable", "postgres_unreachable",
         "fence_unreachable"),
        ('FATAL:  password authentication failed for user "a"', HALT, "replica_login", "wrong_password", "fence_login"),
        ("fe_sendauth: no password supplied", HALT, "replica_login", "wrong_password", "fence_login"),
        ('FATAL:  Peer authentication failed for user "a"', HALT, "replica_login", "not_authorised", "fence_login"),
        ('FATAL:  no pg_hba.conf entry for host "::1"', HALT, "replica_login", "not_authorised", "fence_login"),
        ('FATAL:  role "x" is not permitted to log in', HALT, "replica_login", "not_authorised", "fence_login"),
        ('FATAL:  role "x" does not exist', HALT, "replica_login", "not_authorised", "fence_login"),
        ('FATAL:  database "x" does not exist', HALT, "replica_login", "no_such_database", "fence_login"),
        ('FATAL:  permission denied for database "x"', HALT, "replica_privilege", "missing_privilege",
         "fence_privilege"),
        ('FATAL:  unrecognized configuration parameter "idle_session_timeout"', HALT, "replica_refused",
         "missing_object", "fence_refused"),
    ],
)  # fmt: skip
def test_a_connection_that_is_refused_has_words_only(
    message: str, kind: type[ReplicatorError], replica: str, source: str, fence: str
) -> None:
    for reasons, reason in ((REPLICA, replica), (SOURCE, source), (FENCE, fence)):
        error = translation(psycopg.OperationalError(message), "here", reasons)
        assert (type(error), error.reason, error.place) == (kind, reason, "here")


@pytest.mark.parametrize("reasons", [REPLICA, SOURCE, FENCE, CANARY])
def test_a_misuse_of_the_library_halts(reasons: SessionReasons) -> None:
    error = translation(psycopg.ProgrammingError("the query has 2 placeholders but 1 parameters"), "here", reasons)
    assert (type(error), error.reason) == (Halted, reasons.halts)


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (errors.ObjectNotInPrerequisiteState("logical decoding requires wal_level >= logical"), WAIT, "wal_level"),
        (errors.ObjectNotInPrerequisiteState("logical replication slot needs wal_level"), WAIT, "wal_level"),
        (errors.ObjectNotInPrerequisiteState("recovery is in progress"), WAIT, "server_in_recovery"),
        (errors.ObjectNotInPrerequisiteState('can no longer access replication slot "a"'), HALT, "slot_lost"),
        (errors.ObjectNotInPrerequisiteState("something else"), HALT, "postgres_error"),
        (errors.OutOfMemory("out of shared memory"), WAIT, "lock_table_full"),
        (errors.ConfigurationLimitExceeded("all replication slots are in use"), HALT, "no_free_slot"),
        (errors.InternalError_("invalid memory alloc request size 1200000003"), HALT, "value_too_large"),
    ],
)
def test_a_source_tells_what_a_server_lacks(error: psycopg.Error, kind: type[ReplicatorError], reason: str) -> None:
    told = translation(error, "here", SOURCE)
    assert (type(told), told.reason) == (kind, reason)
