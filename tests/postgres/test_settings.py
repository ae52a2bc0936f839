"""Every session has the one list of settings, whatever server, database and role are set to, and prints alike."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from replicator.postgres.settings import CANONICAL, PREDICTABLE, as_options, later_settings, session_settings
from tests.postgres.users import WITH_OUR_SETTINGS, Texts, User
from tests.servers import Postgres

# What a role may be set to: each setting of the list to something else.
STRANGE = {
    "DateStyle": "German",
    "IntervalStyle": "iso_8601",
    "TimeZone": "Asia/Tokyo",
    "extra_float_digits": "0",
    "bytea_output": "escape",
    "lc_monetary": "C.UTF-8",
    "search_path": "public, pg_catalog",
    "quote_all_identifiers": "on",
    "xmloption": "document",
    "array_nulls": "off",
    "standard_conforming_strings": "off",
    "row_security": "on",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "statement_timeout": "1ms",
    "lock_timeout": "1ms",
    "idle_in_transaction_session_timeout": "1ms",
    "idle_session_timeout": "1ms",
    "synchronous_commit": "remote_apply",
    "jit": "on",
}
# Settings that a purpose may set otherwise.
OWN = {"statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "synchronous_commit"}

PRINTED = r"""
SELECT '2024-02-01 12:00+00'::timestamptz, '2024-02-01'::date, '1 year -2 mons 3 days 04:05'::interval,
       0.1::float8 + 0.2, 1e-45::float4, '\x00ff5c'::bytea, '-1234.5'::numeric::money,
       'public.wallets'::regclass, 'pg_class'::regclass, 'public.mood'::regtype, '{NULL,"NULL"}'::text[],
       format_type('public.mood'::regtype, NULL), '\'::text
"""
PRINTS = [
    "2024-02-01 12:00:00+00", "2024-02-01", "10 mons 3 days 04:05:00", "0.30000000000000004", "1e-45", "\\x00ff5c",
    "-$1,234.50", "public.wallets", "pg_class", "public.mood", '{NULL,"NULL"}', "public.mood", "\\",
]  # fmt: skip


@pytest.fixture(scope="module")
def strange(postgres: Postgres) -> Iterator[str]:
    """The dsn of a role whose settings are strange, in a database that is set to other things."""
    dsn = postgres.create_database("strange_settings")
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("CREATE ROLE strange LOGIN SUPERUSER")
        db.execute("CREATE TABLE public.wallets (id int PRIMARY KEY); CREATE TYPE public.mood AS ENUM ('good')")
        later = {name: LATER[name] for name in later_settings(db.info.server_version)}
        for name, value in {**STRANGE, **later}.items():
            setting = value if name == "search_path" else f"'{value}'"
            db.execute(f"ALTER ROLE strange SET {name} = {setting}".encode())
        db.execute("ALTER DATABASE strange_settings SET timezone = 'America/New_York'")
    yield dsn.replace("user=postgres", "user=strange")
    with postgres.connect() as db:
        db.execute("DROP DATABASE strange_settings WITH (FORCE)")
        db.execute("DROP ROLE strange")


LATER = {"transaction_timeout": "1s"}  # of servers that have them


def one(rows: Texts) -> list[str | None]:
    (row,) = rows
    return row


def test_the_role_of_these_tests_is_strange_in_every_setting() -> None:
    assert STRANGE.keys() == {**CANONICAL, **PREDICTABLE}.keys()


@pytest.mark.parametrize("user", WITH_OUR_SETTINGS, ids=lambda user: user.name)
def test_every_session_has_the_list(user: User, strange: str) -> None:
    for name, value in {**CANONICAL, **PREDICTABLE}.items():
        if name not in OWN:
            assert one(user.run(strange, f"SHOW {name}")) == [value], name
    for name, value in later_settings(int(one(user.run(strange, "SHOW server_version_num"))[0] or 0)).items():
        assert one(user.run(strange, f"SHOW {name}")) == [value], name
    for name in OWN:
        assert one(user.run(strange, f"SHOW {name}")) != [STRANGE[name]], name


@pytest.mark.parametrize("user", WITH_OUR_SETTINGS, ids=lambda user: user.name)
def test_every_session_prints_alike(user: User, strange: str) -> None:
    assert one(user.run(strange, PRINTED)) == PRINTS


@pytest.mark.parametrize("user", WITH_OUR_SETTINGS, ids=lambda user: user.name)
def test_a_reset_brings_the_list_back(user: User, strange: str) -> None:
    found = user.run(strange, "SELECT name, reset_val FROM pg_settings WHERE name = 'search_path' OR name = 'TimeZone'")
    assert sorted(found, key=str) == [["TimeZone", "UTC"], ["search_path", "pg_catalog"]]


@pytest.mark.parametrize("user", WITH_OUR_SETTINGS, ids=lambda user: user.name)
def test_what_the_dsn_sets_besides_is_kept(user: User, strange: str) -> None:
    dsn = f"{strange} options='-c work_mem=1MB -c datestyle=German'"
    assert one(user.run(dsn, "SHOW work_mem")) == ["1MB"]
    assert one(user.run(dsn, "SHOW datestyle")) == ["ISO, MDY"]
    assert one(user.run(dsn, "SHOW client_encoding")) == ["UTF8"]


def test_a_purpose_cannot_make_text_another() -> None:
    assert session_settings({"lock_timeout": "5s"})["lock_timeout"] == "5s"
    with pytest.raises(AssertionError):
        session_settings({"search_path": "public"})


def test_options_keep_spaces_and_backslashes() -> None:
    assert as_options({"a": "b c\\d", "e": "f"}) == "-c a=b\\ c\\\\d -c e=f"
