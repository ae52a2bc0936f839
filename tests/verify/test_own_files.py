"""A region's own files against its journal: whatever was lost, added or changed in one of them is found."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from replicator.errors import Halted, Unavailable
from replicator.ledger.commit import Committer
from replicator.ledger.planning import TransactionAnswer
from replicator.storage.damage import FileDamage
from replicator.storage.journal.history import HistoryIndex
from replicator.storage.journal.pruning import remove_pages
from replicator.storage.journal.store import Journal
from replicator.verify.derived import DerivedPaths
from replicator.verify.own_files import OwnFiles
from tests.ledger.region import change, insert, new_committer, transaction

WALLETS = 120


class Home:
    """An embedded ledger that has been used for a while, and what looks after its files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.committer = new_committer(directory)
        write(self.committer)
        self.journal = Journal(directory / "journal.sqlite3")
        self.journal.open()
        self.head = self.journal.head("main").sequence
        self.history = HistoryIndex(directory / "history.sqlite3", self.journal)
        self.history.open()
        while self.history.step("main", self.head) < self.head:
            pass
        self.damage = FileDamage(directory / "damage.json")

    def path(self, name: str) -> Path:
        return self.directory / f"{name}.sqlite3"

    def own_files(self) -> OwnFiles:
        paths = DerivedPaths(self.path("history"), self.path("state"), self.path("requests"))
        scratch, kept_us = self.directory / "proof", 2**60
        return OwnFiles(
            *(self.journal, "main", self.history, paths, scratch, self.damage, 3600.0),
            lambda: self.head,
            self.path("state"),
            kept_us,
        )

    def close(self) -> None:
        self.committer.close()
        self.history.close()
        self.journal.close()


def write(committer: Committer) -> None:
    """Inserts, updates, deletes, a wallet that comes again, requests with keys, and one that is refused."""
    bodies = [
        transaction(insert(wallet_id=f"w{n}", user_id=f"u{n % 5}", balance=n), id=f"open-{n}") for n in range(WALLETS)
    ]
    assert all(isinstance(outcome, TransactionAnswer) for outcome in committer.execute(bodies))
    bodies = [transaction(change("add", f"w{n}", add={"balance": 1})) for n in range(0, WALLETS, 3)]
    bodies += [transaction(change("delete", f"w{n}"), id=f"close-{n}") for n in range(0, WALLETS, 7)]
    bodies.append(transaction(insert(wallet_id="w7", user_id="u1", balance=5)))
    assert all(isinstance(outcome, TransactionAnswer) for outcome in committer.execute(bodies))
    committer.execute([transaction(change("delete", "nobody"), id="refused")])


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path)
    yield made
    made.close()


def edit(path: Path, sql: str) -> None:
    with sqlite3.connect(path, timeout=20) as db:
        assert db.execute(sql).rowcount > 0
    db.close()


async def test_what_is_as_the_journal_says_is_found_to_be_so(home: Home) -> None:
    own = home.own_files()
    await own.prove()
    assert own.passes == 1
    assert not home.history.is_doubted
    assert not (home.directory / "damage.json").exists()
    assert not (home.directory / "proof").exists()


@pytest.mark.parametrize(
    ("name", "sql"),
    [
        ("state", """UPDATE wallets SET document = '{"wallet_id":"w1","balance":9}' WHERE wallet_id = 'w1'"""),
        ("state", "UPDATE wallets SET version = version + 1 WHERE wallet_id = 'w1'"),
        ("state", "UPDATE wallets SET user_id = 'u4' WHERE wallet_id = 'w1'"),
        ("state", "DELETE FROM wallets WHERE wallet_id = 'w1'"),
        ("state", "INSERT INTO wallets SELECT 'more', user_id, document, version FROM wallets LIMIT 1"),
        ("requests", "DELETE FROM request WHERE id = 'open-3'"),
        ("requests", "UPDATE request SET sequence = 1 WHERE id = 'open-3'"),
        ("requests", "DELETE FROM refusal"),
        ("requests", "DELETE FROM deleted"),
        ("requests", "UPDATE deleted SET version = version - 1"),
    ],
)
async def test_an_edit_of_the_ledgers_files_is_damage_that_stays_known(home: Home, name: str, sql: str) -> None:
    edit(home.path(name), sql)
    await home.own_files().prove()
    with pytest.raises(Halted, match="file_damaged") as caught:
        home.damage.check(home.path(name))
    assert "replicator rebuild CONFIG" in caught.value.cure
    later = FileDamage(home.directory / "damage.json")
    assert later.of(home.path(name)) is not None
    assert later.of(home.path("history")) is None


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM change WHERE sequence = (SELECT max(sequence) FROM change)",
        "DELETE FROM change WHERE sequence = 5",
        "INSERT INTO change SELECT known, key, sequence + 1, ordinal FROM change LIMIT 1",
        "INSERT INTO truncation SELECT known, 9, 0 FROM change LIMIT 1",
    ],
)
async def test_an_edit_of_the_index_of_the_past_is_answered_by_making_it_again(home: Home, sql: str) -> None:
    edit(home.path("history"), sql)
    await home.own_files().prove()
    assert home.history.is_doubted
    with pytest.raises(Halted, match="file_damaged"):
        home.history.places("main", "wallets", b"", None, 1)  # no answer from it, right or wrong
    home.history.begin_anew()
    while home.history.step("main", home.head) < home.head:
        pass
    await home.own_files().prove()
    assert not home.history.is_doubted


async def test_of_a_journal_that_begins_later_what_it_touches_is_compared(home: Home) -> None:
    assert remove_pages(home.journal, "main", WALLETS + 10).sequence > 0
    await home.own_files().prove()
    assert home.damage.of(home.path("state"), home.path("requests")) is None
    assert not home.history.is_doubted
    edit(home.path("state"), "UPDATE wallets SET version = 9 WHERE wallet_id = 'w117'")
    await home.own_files().prove()
    assert home.damage.of(home.path("state")) is not None


async def test_a_page_of_the_journal_that_does_not_prove_itself_is_damage(home: Home) -> None:
    home.journal.on_damage = home.damage.found
    with sqlite3.connect(home.path("journal")) as db:
        ((data, last),) = db.execute("SELECT data, last FROM page ORDER BY last LIMIT 1")
        spoiled = bytearray(data)
        spoiled[len(spoiled) // 2] ^= 1
        db.execute("UPDATE page SET data = ? WHERE last = ?", (bytes(spoiled), last))
    db.close()
    with pytest.raises(Halted):
        await home.own_files().prove()
    assert home.damage.of(home.path("journal")) is not None


async def test_without_room_for_the_copies_none_are_made(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(Unavailable, match="no_room"):
        await home.own_files().prove()
