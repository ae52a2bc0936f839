"""What is wrong with a region's own files: it is found, halts what rests on it, and is not forgotten."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.sidecars import sequence
from tests.faults.files import BLOCKS, edit, spoil
from tests.faults.regions import Region, assert_equal, run_verb

NO_SCRUBS = "\n[verify]\nscrubs = false\n"
SCRUBS = '\n[verify]\nscrub = "1s"\n'


@pytest.fixture
def sections(pair: tuple[Region, Region]) -> Iterator[Callable[..., None]]:
    """Adds sections to the regions' configurations, until the end of the test."""
    before = [region.config.read_text() for region in pair]

    def add(text: str, *regions: Region) -> None:
        for region in regions:
            region.config.write_text(before[pair.index(region)] + text)

    yield add
    for region, text in zip(pair, before, strict=True):
        region.end()
        region.config.write_text(text)


def start(*regions: Region) -> None:
    for region in regions:
        region.start()
    for region in regions:
        region.reach_sequence("applied", BLOCKS)


def divergent(region: Region) -> dict[str, int]:
    status = region.status() or {}
    return dict(status["strands"][0]["verify"]["divergent_keys"]) if status else {}


def put(region: Region, key: str, op: str, **more: Any) -> httpx.Response:
    body = {"statements": [{"table": "wallets", "op": op, **({"key": key} if op != "insert" else {}), **more}]}
    return httpx.post(f"{region.url}/v1/transactions", json=body, timeout=30, trust_env=False)


def versions(region: Region, key: str) -> list[int]:
    answer = region.ask(f"/v1/tables/wallets/history/{key}")
    return [change["version"] for change in answer.json().get("changes", ())]


def test_a_difference_that_was_found_outlives_the_sidecar(
    pair: tuple[Region, Region], sections: Callable[..., None]
) -> None:
    """A restart disproves nothing: the region says from its first word on that it differs, until it is put right."""
    paris, tokyo = pair
    sections(SCRUBS, tokyo)
    start(paris, tokyo)
    edit(tokyo.data / "ledger.db", "UPDATE wallets SET document = '{}' WHERE wallet_id = 'w0000003'")
    tokyo.reach(lambda _: divergent(tokyo) == {"wallets": 1}, "the scrub finds it", 60)
    tokyo.kill()
    sections(NO_SCRUBS, tokyo)
    start(tokyo)
    assert divergent(tokyo) == {"wallets": 1}
    repaired = run_verb("repair", str(tokyo.config), "--key", "wallets", "w0000003", "--apply")
    assert repaired.returncode == 0, repaired.stdout + repaired.stderr
    tokyo.reach(lambda _: not divergent(tokyo), "looked at again, and right", 60)
    tokyo.kill()
    start(tokyo)
    assert not divergent(tokyo)


def test_a_damaged_page_that_a_reader_meets_halts_the_region_and_stays_known(
    pair: tuple[Region, Region], sections: Callable[..., None]
) -> None:
    """Whoever meets it: a list, a document, a comparison. Nothing is served from the file any more."""
    paris, tokyo = pair
    sections(NO_SCRUBS, tokyo)
    path = tokyo.data / "ledger.db"
    spoil_table(path)
    start(paris, tokyo)
    answers = [tokyo.ask(f"/v1/tables/wallets/users/u{number}") for number in range(7)]
    assert any(answer.status_code == 503 for answer in answers), [answer.text[:100] for answer in answers]
    trouble = tokyo.trouble("file_damaged", condition="halted")
    assert trouble["place"] == str(path)
    assert "replicator rebuild CONFIG" in trouble["cure"]
    assert tokyo.ask("/v1/tables/wallets/documents/w0000001").status_code == 503
    assert tokyo.ask("/readiness").status_code == 503
    tokyo.kill()
    tokyo.start()
    tokyo.trouble("file_damaged", condition="halted")
    assert tokyo.stop() == 0
    rebuilt = run_verb("rebuild", str(tokyo.config))
    assert rebuilt.returncode == 0, rebuilt.stdout + rebuilt.stderr
    start(tokyo)
    tokyo.reach_calm()
    assert_equal(tokyo)


def spoil_table(path: Path) -> None:
    """Damage the page of the table that holds its last rows: nothing but a read of it meets that."""
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'wallets'").fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    connection.close()
    data = bytearray(path.read_bytes())
    # The root of a table of some pages names its children; the last one is named in the root's own header.
    last = int.from_bytes(data[(root - 1) * size + 8 : (root - 1) * size + 12], "big")
    data[(last - 1) * size] = 0xEE  # no kind of page
    path.write_bytes(data)


def test_a_document_that_vanished_is_not_begun_anew(pair: tuple[Region, Region], sections: Callable[..., None]) -> None:
    """The primary's state has lost a row: an insert would overwrite it, at version 1, in every region."""
    paris, tokyo = pair
    sections(NO_SCRUBS, paris, tokyo)
    start(paris, tokyo)
    for _ in range(2):
        assert put(paris, "w0000003", "update", set={"balance": 1002}).status_code == 200
    edit(paris.data / "ledger.sqlite3", "DELETE FROM wallets WHERE wallet_id = 'w0000003'")
    answer = put(paris, "w0000003", "insert", document={"wallet_id": "w0000003", "balance": 0})
    assert answer.status_code == 503, answer.text
    assert answer.json()["reason"] == "file_damaged"
    paris.trouble("file_damaged", condition="halted")
    assert paris.ask("/primary").status_code == 503
    assert paris.stop() == 0
    assert run_verb("rebuild", str(paris.config)).returncode == 0
    paris.start()
    paris.reach_sequence("applied", BLOCKS + 2)
    assert versions(paris, "w0000003") == [3, 2, 1]
    assert put(paris, "w0000003", "insert", document={"wallet_id": "w0000003"}).status_code == 409
    tokyo.reach_sequence("applied", BLOCKS + 2)
    tokyo.reach_calm()
    assert_equal(tokyo)


def test_a_deletion_that_was_forgotten_does_not_start_versions_again(
    pair: tuple[Region, Region], sections: Callable[..., None]
) -> None:
    paris, _ = pair
    sections(NO_SCRUBS, paris)
    start(paris)
    assert put(paris, "w0000003", "delete").status_code == 200
    edit(paris.data / "requests.sqlite3", "DELETE FROM deleted")
    answer = put(paris, "w0000003", "insert", document={"wallet_id": "w0000003"})
    assert answer.status_code == 503, answer.text
    assert paris.trouble("file_damaged", condition="halted")["place"] == str(paris.data / "requests.sqlite3")
    assert paris.stop() == 0
    assert run_verb("rebuild", str(paris.config)).returncode == 0
    paris.start()
    paris.reach_sequence("applied", BLOCKS + 1)
    answer = put(paris, "w0000003", "insert", document={"wallet_id": "w0000003"})
    assert answer.json()["versions"] == [3]


def test_replay_overwrites_no_newer_version(pair: tuple[Region, Region], sections: Callable[..., None]) -> None:
    """Where the primary was deceived all the same, no healthy replica takes its word over what it knows better."""
    paris, tokyo = pair
    sections(NO_SCRUBS + "\n[replay]\nhistory = false\n", paris)
    sections(NO_SCRUBS, tokyo)
    start(paris, tokyo)
    assert put(paris, "w0000003", "update", set={"balance": 1002}).status_code == 200
    tokyo.reach_sequence("applied", BLOCKS + 1)
    edit(paris.data / "ledger.sqlite3", "DELETE FROM wallets WHERE wallet_id = 'w0000003'")
    assert put(paris, "w0000003", "insert", document={"wallet_id": "w0000003", "balance": 0}).status_code == 200
    trouble = tokyo.trouble("version_falls", condition="halted")
    assert trouble["place"] == "table wallets, key w0000003"
    row = tokyo.ask("/v1/tables/wallets/documents/w0000003").json()
    assert row["document"]["balance"] == 1002
    assert sequence(tokyo.status() or {}, "applied") == BLOCKS + 1


def test_an_edited_balance_of_the_primary_is_found_before_it_is_built_on(
    pair: tuple[Region, Region], sections: Callable[..., None]
) -> None:
    """The primary compares its own files with its own journal; nobody else can."""
    paris, tokyo = pair
    sections(SCRUBS, paris)
    start(paris, tokyo)
    forged = """UPDATE wallets SET document = '{"balance":9546}' WHERE wallet_id = 'w0000003'"""
    edit(paris.data / "ledger.sqlite3", forged)
    trouble = paris.trouble("file_damaged", condition="halted", seconds=60)
    assert trouble["place"] == str(paris.data / "ledger.sqlite3")
    answer = put(paris, "w0000003", "add", add={"balance": 1})
    assert answer.status_code == 503, answer.text
    assert paris.stop() == 0
    assert run_verb("rebuild", str(paris.config)).returncode == 0
    paris.start()
    paris.reach_sequence("applied", BLOCKS)
    assert "balance" not in paris.ask("/v1/tables/wallets/documents/w0000003").json()["document"]
    tokyo.reach_calm()
    assert_equal(tokyo)


def test_an_entry_that_the_index_of_the_past_lost_is_found_and_brings_no_old_row_back(
    pair: tuple[Region, Region], sections: Callable[..., None]
) -> None:
    """The region that lost it says nothing of that past until the index is whole, and a repair does not use it."""
    paris, tokyo = pair
    sections(NO_SCRUBS, tokyo)
    start(paris, tokyo)
    assert put(paris, "w0000003", "update", set={"balance": 92}).status_code == 200
    tokyo.reach_sequence("applied", BLOCKS + 1)
    tokyo.reach(lambda _: versions(tokyo, "w0000003") == [2, 1], "indexed", 20)
    edit(tokyo.data / "history.sqlite3", f"DELETE FROM change WHERE sequence = {BLOCKS + 1}")
    edit(tokyo.data / "ledger.db", """UPDATE wallets SET document = '{"balance":5}' WHERE wallet_id = 'w0000003'""")
    repaired = run_verb("repair", str(tokyo.config), "--key", "wallets", "w0000003", "--apply")
    assert repaired.returncode == 0, repaired.stdout + repaired.stderr
    assert tokyo.ask("/v1/tables/wallets/documents/w0000003").json()["document"]["balance"] == 92
    assert tokyo.stop() == 0
    sections(SCRUBS, tokyo)
    start(tokyo)
    tokyo.reach(lambda _: versions(tokyo, "w0000003") == [2, 1], "indexed again", 60)


def test_a_primary_whose_journal_is_damaged_goes_on_with_a_copy_of_anothers(
    pair: tuple[Region, Region], sections: Callable[..., None]
) -> None:
    """The printed cure: stop a region that follows, take its journal. One that lacks blocks is refused."""
    paris, tokyo = pair
    start(paris, tokyo)
    assert put(paris, "w0000003", "update", set={"balance": 92}).status_code == 200
    tokyo.reach_sequence("applied", BLOCKS + 1)
    behind = tokyo.directory / "whole" / "journal.sqlite3"
    assert tokyo.stop() == 0
    assert paris.stop() == 0
    spoil(paris.data / "journal.sqlite3")
    refused = run_verb("rebuild", str(paris.config))
    assert refused.returncode == 1
    assert "replicator rebuild CONFIG --journal FILE" in refused.stderr
    short = run_verb("rebuild", str(paris.config), "--journal", str(behind))
    assert short.returncode == 1
    assert "[journal_behind]" in short.stderr
    done = run_verb("rebuild", str(paris.config), "--journal", str(tokyo.data / "journal.sqlite3"))
    assert done.returncode == 0, done.stdout + done.stderr
    start(paris, tokyo)
    assert put(paris, "w0000003", "add", add={"balance": 1}).status_code == 200
    tokyo.reach_sequence("applied", BLOCKS + 2)
    tokyo.reach_calm()
    assert_equal(tokyo)


def test_a_row_that_replay_finds_otherwise_has_the_whole_region_looked_at(
    pair: tuple[Region, Region], sections: Callable[..., None]
) -> None:
    """Somebody wrote here: what replay met is right again, and what else he did is found long before the next scrub."""
    paris, tokyo = pair
    sections('\n[verify]\nscrub = "2h"\n', tokyo)
    start(paris, tokyo)
    edit(tokyo.data / "ledger.db", "DELETE FROM wallets WHERE wallet_id IN ('w0000003', 'w0000004')")
    assert put(paris, "w0000003", "update", set={"balance": 1}).status_code == 200
    tokyo.reach(lambda _: divergent(tokyo) == {"wallets": 1}, "the other one is found", 40)


def test_a_version_that_a_person_wrote_halts_by_name_and_goes_on_after_the_printed_repair(
    pair: tuple[Region, Region], sections: Callable[..., None]
) -> None:
    paris, tokyo = pair
    sections(NO_SCRUBS, tokyo)
    start(paris, tokyo)
    edit(tokyo.data / "ledger.db", "UPDATE wallets SET version = 9 WHERE wallet_id = 'w0000003'")
    assert put(paris, "w0000003", "update", set={"balance": 1}).status_code == 200
    trouble = tokyo.trouble("version_falls", condition="halted")
    assert "replicator repair CONFIG --key TABLE KEY --apply" in trouble["cure"]
    _, table, _, key = trouble["place"].replace(",", "").split()
    run_verb("repair", str(tokyo.config), "--key", table, key, "--apply")
    tokyo.kill()
    start(tokyo)
    tokyo.reach_sequence("applied", BLOCKS + 1)
    assert_equal(tokyo)
