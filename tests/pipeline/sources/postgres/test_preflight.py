"""Preflight names each problem and its cure, and changes nothing."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import pytest

from replicator.config.finding import Finding
from replicator.errors import ConfigError, Halted
from replicator.pipeline.replicas.postgres.check import preflight as replica_preflight
from replicator.pipeline.sources.postgres import PostgresOptions, preflight
from replicator.pipeline.sources.postgres.options import parse_table
from replicator.pipeline.sources.postgres.preflight import check_noted
from replicator.pipeline.sources.postgres.session import session
from replicator.pipeline.sources.postgres.slot import (
    FAILOVER_SINCE,
    Identity,
    check_resume,
    create_slot,
    loss_of,
    read_slot,
)
from tests.pipeline.sources.postgres.ledger import Collector, Ledger, failure, following
from tests.servers import Postgres, free_port

EVERYTHING = (
    "SELECT (SELECT count(*) FROM pg_publication), (SELECT count(*) FROM pg_replication_slots),"
    " (SELECT count(*) FROM pg_class), (SELECT md5(string_agg(c::text, '' ORDER BY oid)) FROM pg_class c"
    " WHERE relnamespace = 'public'::regnamespace)"
)


def look(ledger: Ledger, **options: Any) -> list[Finding]:
    """The findings; and nothing was changed."""
    before = ledger.sql.execute(EVERYTHING.encode()).fetchone()
    findings = preflight(dataclasses.replace(ledger.options, **options))
    assert ledger.sql.execute(EVERYTHING.encode()).fetchone() == before
    assert all(finding.cure or finding.level == "ok" for finding in findings)
    return findings


def about(findings: list[Finding], text: str) -> list[str]:
    return [finding.level for finding in findings if text in finding.what]


def test_a_good_ledger_fails_in_nothing(ledger: Ledger) -> None:
    findings = look(ledger)
    assert [f for f in findings if f.level == "fail"] == []
    for text in (
        "reachable",
        "version",
        "wal_level",
        "slots are free",
        "senders are free",
        "may replicate",
        "keyed on id",
    ):
        assert about(findings, text) == ["ok"], text
    assert about(findings, "max_slot_wal_keep_size") == ["warn"]


def test_tables_and_what_their_updates_need(ledger: Ledger) -> None:
    ledger.do(
        "CREATE TABLE log (a int)",
        "CREATE TABLE whole (a int)",
        "ALTER TABLE whole REPLICA IDENTITY FULL",
        "CREATE TABLE late (id int PRIMARY KEY DEFERRABLE)",
        "CREATE TABLE silent (id int PRIMARY KEY)",
        "ALTER TABLE silent REPLICA IDENTITY NOTHING",
        "CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id)",
        "CREATE TABLE part PARTITION OF parts DEFAULT",
        "CREATE UNLOGGED TABLE scratch (id int)",
    )
    findings = look(ledger)
    assert about(findings, "public.log: no primary key") == ["warn"]
    assert about(findings, "public.whole: no key, append-only") == ["warn"]
    assert about(findings, "deferrable") == ["warn"]
    assert about(findings, "REPLICA IDENTITY NOTHING") == ["warn"]
    assert about(findings, "single partition") == ["warn"]
    assert about(findings, "public.part:") == []
    assert about(findings, "public.scratch") == []
    cures = [f.cure for f in findings if "public.log" in f.what]
    assert "REPLICA IDENTITY USING INDEX" in cures[0]
    assert about(look(ledger, tables=("nowhere",)), "does not exist") == ["fail"]
    assert about(look(ledger, tables=("scratch",)), "unlogged") == ["fail"]
    assert about(look(ledger, tables=("part",)), "root") == ["fail"]
    assert about(look(ledger, user_columns={"wallets": "owner"}), "no column owner") == ["fail"]


def test_generated_columns_that_are_not_carried(ledger: Ledger) -> None:
    if ledger.sql.info.server_version < 180000:
        pytest.skip("virtual columns came with PostgreSQL 18")
    ledger.do("ALTER TABLE wallets ADD twice numeric GENERATED ALWAYS AS (balance * 2) VIRTUAL")
    assert about(look(ledger), "generated column twice") == ["warn"]


def test_a_role_that_lacks_everything(ledger: Ledger) -> None:
    role = f"none_{ledger.name}"
    ledger.do(f"CREATE ROLE {role} LOGIN", "CREATE SEQUENCE hidden")
    findings = look(ledger, dsn=ledger.dsn.replace("user=postgres", f"user={role}"), tables=("wallets",))
    assert about(findings, "may not replicate") == ["fail"]
    assert about(findings, "may not create a publication") == ["fail"]
    assert about(findings, "table public.wallets: the role may not read") == ["fail"]
    assert about(findings, "sequence public.hidden") == ["fail"]
    assert about(findings, "only its owner") == ["fail"]
    assert about(findings, "missing_privilege") == ["fail"]


def test_a_server_that_is_not_there() -> None:
    findings = preflight(PostgresOptions(dsn=f"host=127.0.0.1 port={free_port()} password=secret", connect_seconds=2))
    assert [finding.level for finding in findings] == ["fail"]
    assert "secret" not in str(findings)


async def test_a_slot_in_use_is_seen_and_left_alone(ledger: Ledger) -> None:
    sink = Collector()
    async with following(ledger, sink):
        findings = look(ledger)
        assert about(findings, f"slot {ledger.options.slot} exists") == ["ok"]
        assert about(findings, "publishes what is configured") == ["ok"]
    ledger.do("ALTER PUBLICATION replicator SET (publish = 'insert')")
    assert about(look(ledger), "publication_differs") == ["fail"]
    assert (await failure(ledger, sink)).reason in ("publication_changed", "slot_active")


def test_options_are_checked_and_keep_the_dsn_to_themselves() -> None:
    assert "secret" not in repr(PostgresOptions(dsn="password=secret"))
    assert parse_table("wallets") == ("public", "wallets")
    assert parse_table("audit.events") == ("audit", "events")
    assert parse_table('"a.b"."c""d"') == ("a.b", 'c"d')
    options = PostgresOptions(dsn="")
    for wrong in ({"slot": "Not Valid"}, {"tables": ("a.b.c",)}, {"tables": ("",)}, {"publication": ""}):
        with pytest.raises(ConfigError):
            dataclasses.replace(options, **wrong)
    (finding,) = preflight(PostgresOptions(dsn="password = 'secret"))
    assert finding.level == "fail"
    assert "bad_dsn" in finding.what
    assert "secret" not in str(finding)


def test_what_a_database_has_that_will_bite(ledger: Ledger) -> None:
    """Large objects, xml, an idle slot's end, REPLICA IDENTITY FULL without a key: each is told before the start."""
    ledger.do("SELECT lo_create(0)", "CREATE TABLE loose (what text)", "ALTER TABLE loose REPLICA IDENTITY FULL")
    ledger.do("ALTER TABLE wallets ADD doc xml")
    findings = look(ledger)
    assert about(findings, "large objects") == ["warn"]
    assert about(findings, "column doc is xml") == ["warn"]
    assert about(findings, "table public.loose: no key, append-only, and REPLICA IDENTITY FULL") == ["warn"]


def test_an_encoding_that_knows_no_text(postgres: Postgres) -> None:
    with postgres.connect() as db:
        db.execute("CREATE DATABASE ascii_ledger ENCODING 'SQL_ASCII' TEMPLATE template0")
        db.execute("CREATE DATABASE latin_copy ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    findings = preflight(PostgresOptions(postgres.dsn("ascii_ledger")))
    assert about(findings, "SQL_ASCII") == ["warn"]
    assert about(replica_preflight(postgres.dsn("latin_copy")), "encoding LATIN1") == ["warn"]


def test_a_slot_that_the_server_gave_up_tells_why(tmp_path: Path) -> None:
    """Nobody read it for too long; and a slot that standbys keep is one from the server's 17th version on."""
    server = Postgres(tmp_path / "idle", {"max_wal_senders": "5"})
    server.create()
    server.start()
    try:
        dsn = server.create_database("ledger")
        with server.connect("ledger") as db:
            options = PostgresOptions(dsn, failover=True)
            if db.info.server_version < FAILOVER_SINCE:
                assert about(preflight(options), "no_failover_slots") == ["fail"]
                return
            with session(options, replication=True) as replication:
                create_slot(replication, "replicator")
            (found,) = (one for one in preflight(options) if "is not kept by physical standbys" in one.what)
            with session(options, replication=True) as replication:
                replication.execute(found.cure.partition("session: ")[2].encode())
                create_slot(replication, "another", failover=True)
            slot = read_slot(db, "replicator")
            assert slot is not None
            assert slot.failover
            assert about(preflight(options), "is not kept") == []
            if db.info.server_version < 180000:
                return
            db.execute("ALTER SYSTEM SET idle_replication_slot_timeout = '1s'")
            db.execute("SELECT pg_reload_conf()")
            assert about(preflight(options), "idle_replication_slot_timeout is 1s") == ["warn"]
            deadline = time.monotonic() + 30
            while loss_of(slot) is None and time.monotonic() < deadline:
                db.execute("CHECKPOINT")  # which looks for idle slots
                slot = read_slot(db, "replicator")
                assert slot is not None
            assert about(preflight(options), "is lost: nobody read it for longer") == ["fail"]
            with pytest.raises(Halted, match="idle_replication_slot_timeout") as caught:
                check_resume(slot, "replicator", 1 << 60, 1 << 60, Identity("", 1, "ledger"))
            assert caught.value.reason == "slot_lost"
            assert "max_slot_wal_keep_size" not in caught.value.cure
    finally:
        server.stop()


def test_another_server_than_the_journals_is_told_before_the_start(ledger: Ledger) -> None:
    (finding,) = check_noted(ledger.options, {"postgres.system": "1"})
    assert finding.level == "fail"
    assert "pg_upgrade" in finding.cure
    assert list(check_noted(ledger.options, {})) == []


def test_a_slot_that_another_sidecar_made_is_told_before_the_start(ledger: Ledger) -> None:
    """It may be of this very database: dropping it would be the other one's end."""
    ledger.do(f"SELECT pg_create_logical_replication_slot('{ledger.options.slot}', 'pgoutput')")
    (finding,) = check_noted(ledger.options, {})
    assert finding.level == "fail"
    assert finding.cure.startswith("name another [source] slot")
    assert list(check_noted(ledger.options, {"postgres.slot": ledger.options.slot})) == []
