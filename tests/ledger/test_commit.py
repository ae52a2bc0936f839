"""The one writer: groups, repetitions, crashes between journal and state, and histories against a plain model."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicator.errors import Halted, Rejected, ReplicatorError, Unavailable
from replicator.format.block import BODY_LIMIT_BYTES
from replicator.ledger.commit import Committer
from replicator.ledger.planning import TransactionAnswer, TransactionRefusal
from replicator.ledger.request import RequestLimits
from replicator.pipeline.replicas.sqlite.reader import SqliteReader
from tests.ledger.region import WALLETS, Clock, change, insert, new_committer, new_journal, options, transaction


def one(committer: Committer, *statements: dict[str, Any], **fields: Any) -> TransactionAnswer:
    (outcome,) = committer.execute([transaction(*statements, **fields)])
    assert isinstance(outcome, TransactionAnswer), outcome
    return outcome


def refused(committer: Committer, *statements: dict[str, Any], **fields: Any) -> ReplicatorError:
    (outcome,) = committer.execute([transaction(*statements, **fields)])
    refusal = outcome.refusal if isinstance(outcome, TransactionRefusal) else outcome
    assert isinstance(refusal, ReplicatorError), outcome
    return refusal


def reopened(directory: Path, clock: Clock | None = None) -> Committer:
    committer = Committer(new_journal(directory), "main", 1, options(directory, clock))
    committer.open()
    return committer


def document(directory: Path, key: str) -> tuple[int, Any] | None:
    reader = SqliteReader(directory / "state.sqlite3")
    found = reader.document("wallets", [key])
    reader.close()
    return (found.row["version"], found.row["document"]) if found else None


def forget_files(directory: Path, *names: str) -> None:
    for name in names:
        for path in directory.glob(f"{name}.sqlite3*"):
            path.unlink()


def test_a_group_is_one_append_in_which_each_stands_for_itself(tmp_path: Path) -> None:
    committer = new_committer(tmp_path)
    outcomes = committer.execute(
        [
            transaction(insert(wallet_id="a", n=1)),
            transaction(change("add", "a", add={"n": 1}), insert(wallet_id="a2"), change("delete", "nobody")),
            b"{",
            transaction(change("add", "a", add={"n": 10}, expect={"version": 1})),
            transaction(change("delete", "a")),
            transaction(insert(wallet_id="a", n=7)),
        ]
    )
    kinds = [o.versions if isinstance(o, TransactionAnswer) else getattr(o, "reason", None) for o in outcomes]
    assert kinds == [[1], "no_document", "not_json", [2], [3], [4]]
    assert [o.position.sequence for o in outcomes if isinstance(o, TransactionAnswer)] == [2, 3, 4, 5]
    assert document(tmp_path, "a") == (4, {"wallet_id": "a", "n": 7})
    assert document(tmp_path, "a2") is None


def test_an_idempotency_key_holds_within_a_group_after_it_and_after_a_restart(tmp_path: Path) -> None:
    committer = new_committer(tmp_path)
    one(committer, insert(wallet_id="a", n=0), insert(wallet_id="b", n=0))
    body = transaction(change("add", "a", add={"n": 1}), change("delete", "b"), id="i")
    other = transaction(change("add", "a", add={"n": 2}), id="i")
    first, again, reused = committer.execute([body, body, other])
    assert isinstance(first, TransactionAnswer)
    assert again == first._replace(repeated=True)
    assert isinstance(reused, Rejected)
    assert (reused.reason, reused.status) == ("id_reused", 422)
    forget_files(tmp_path, "state", "requests")  # what a promoted region has: the journal only
    for each in (committer, reopened(tmp_path)):
        each.open()
        repeated, reused = each.execute([body, other])
        assert repeated == first._replace(repeated=True)
        assert isinstance(reused, Rejected)
    assert document(tmp_path, "a") == (2, {"wallet_id": "a", "n": 1})


def test_idempotency_keys_are_forgotten_after_the_retention(tmp_path: Path) -> None:
    clock = Clock()
    new_committer(tmp_path).close()
    committer = reopened(tmp_path, clock)
    one(committer, insert(wallet_id="a", n=0), id="i")
    clock.now += 6 * 86_400 * 1_000_000
    assert one(committer, insert(wallet_id="a", n=0), id="i").repeated
    clock.now += 2 * 86_400 * 1_000_000
    assert refused(committer, insert(wallet_id="a", n=0), id="i").reason == "document_exists"


def test_versions_go_on_behind_a_delete_wherever_the_ledger_is_opened(tmp_path: Path) -> None:
    committer = new_committer(tmp_path)
    one(committer, insert(wallet_id="a"), insert(wallet_id="b"))
    assert one(committer, change("delete", "b"), change("delete", "a", expect={"version": 1})).versions == [2, 2]
    forget_files(tmp_path, "state", "requests")
    committer = reopened(tmp_path)
    assert one(committer, {**insert(wallet_id="a"), "op": "put", "expect": {"version": 0}}).versions == [3]
    assert one(committer, change("delete", "a")).versions == [4]
    assert one(committer, insert(wallet_id="a")).versions == [5]


def test_the_state_catches_up_with_what_the_journal_had_beyond_it(tmp_path: Path) -> None:
    committer = new_committer(tmp_path)
    one(committer, insert(wallet_id="a", n=0))
    committer.close()
    shutil.copy(tmp_path / "state.sqlite3", tmp_path / "old")
    shutil.copy(tmp_path / "requests.sqlite3", tmp_path / "old_requests")
    committer = reopened(tmp_path)
    first = one(committer, change("add", "a", add={"n": 5}), id="i")
    committer.close()
    forget_files(tmp_path, "state", "requests")
    shutil.copy(tmp_path / "old", tmp_path / "state.sqlite3")
    shutil.copy(tmp_path / "old_requests", tmp_path / "requests.sqlite3")
    committer = reopened(tmp_path)
    assert committer.applied.position == first.position
    assert document(tmp_path, "a") == (2, {"wallet_id": "a", "n": 5})
    assert one(committer, change("add", "a", add={"n": 5}), id="i") == first._replace(repeated=True)


def test_what_is_in_the_journal_is_answered_as_committed_even_if_the_state_cannot_follow(tmp_path: Path) -> None:
    committer = new_committer(tmp_path)
    with sqlite3.connect(tmp_path / "state.sqlite3") as state:
        state.execute("CREATE TRIGGER stop BEFORE INSERT ON wallets BEGIN SELECT RAISE(ABORT, 'broken'); END")
    assert one(committer, insert(wallet_id="a")).versions == [1]
    with pytest.raises(Halted):
        committer.execute([transaction(insert(wallet_id="a"))])
    with sqlite3.connect(tmp_path / "state.sqlite3") as state:
        state.execute("DROP TRIGGER stop")
    assert refused(committer, insert(wallet_id="a")).reason == "document_exists"


def test_a_full_disk_refuses_the_group_and_leaves_nothing_of_it(tmp_path: Path) -> None:
    committer = new_committer(tmp_path)
    one(committer, insert(wallet_id="a", n=0))
    writer = committer._journal._writer
    assert writer is not None
    pages = writer.execute("PRAGMA page_count").fetchone()[0]
    writer.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(Unavailable, match="no room"):
        committer.execute([transaction(insert(wallet_id="b", text="x" * 900_000))])
    writer.execute("PRAGMA max_page_count = 1000000")
    assert document(tmp_path, "b") is None
    assert one(committer, insert(wallet_id="b")).versions == [1]


def test_a_bulk_transaction_of_many_parts_is_one_block(tmp_path: Path) -> None:
    committer = new_committer(tmp_path)
    wallets = [f"w{number:05}" for number in range(20_000)]
    one(committer, *(insert(wallet_id=wallet, user_id="u", balance=0, text="x" * 60) for wallet in wallets), id="make")
    top_up = [change("add", wallet, add={"balance": 500}) for wallet in wallets]
    answer = one(committer, *top_up, id="top-up")
    block = committer._journal.block("main", answer.position.sequence)
    assert block is not None
    assert block.body is None
    assert block.header.body_bytes > BODY_LIMIT_BYTES
    assert answer.versions == [2] * 20_000
    assert one(committer, *top_up, id="top-up") == answer._replace(repeated=True)
    assert refused(committer, *top_up, change("add", "nobody", add={"balance": 500})).reason == "no_document"
    reader = SqliteReader(tmp_path / "state.sqlite3")
    assert {row[-1] for row in reader.rows("wallets")} == {"2"}
    reader.close()


def test_a_transaction_that_comes_to_too_much_is_refused(tmp_path: Path) -> None:
    committer = new_committer(tmp_path, RequestLimits(transaction_bytes=100_000))
    error = refused(committer, *(insert(wallet_id=str(number), text="x" * 50_000) for number in range(3)))
    assert (error.reason, committer.applied.position.sequence) == ("transaction_too_large", 1)


def test_a_state_of_another_chain_is_refused(tmp_path: Path) -> None:
    one(new_committer(tmp_path), insert(wallet_id="a"))
    forget_files(tmp_path, "journal")
    with pytest.raises(Halted) as caught:
        reopened(tmp_path)
    assert caught.value.reason == "replica_not_in_journal"


def test_an_index_of_another_chain_is_built_anew(tmp_path: Path) -> None:
    one(new_committer(tmp_path), insert(wallet_id="a"), id="i")
    forget_files(tmp_path, "journal", "state")
    committer = new_committer(tmp_path)
    assert not one(committer, insert(wallet_id="b"), id="i").repeated


CHILD = """
import sys
from pathlib import Path
from tests.ledger.region import change, transaction
from tests.ledger.test_commit import reopened
committer = reopened(Path(sys.argv[1]))
for number in range(int(sys.argv[2]), 10**6, 3):
    committer.execute([transaction(change("add", "a", add={"n": 1}), id=str(number + n)) for n in range(3)])
    print(number + 3, flush=True)
"""


def test_kill_9_at_any_moment_loses_and_doubles_nothing(tmp_path: Path) -> None:
    committer = new_committer(tmp_path)
    one(committer, insert(wallet_id="a", n=0))
    committer.close()
    done = 0
    for lines in (5, 17, 40):
        command = [sys.executable, "-c", CHILD, str(tmp_path), str(done)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        for _ in range(lines):
            done = int(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        child.wait()
        done = int(([str(done), *child.stdout.read().split()])[-1])
        child.stdout.close()
        committer = reopened(tmp_path)
        sent = committer.execute([transaction(change("add", "a", add={"n": 1}), id=str(n)) for n in range(done + 6)])
        assert all(
            isinstance(answer, TransactionAnswer) and answer.repeated for answer in sent[:done]
        )  # acknowledged, so kept
        done += 6
        committer.close()
        assert document(tmp_path, "a") == (done + 1, {"wallet_id": "a", "n": done})


keys = st.sampled_from(["a", "b", "c"])
amounts = st.sampled_from([1, -1, 5])
statements = st.one_of(
    st.builds(lambda key, n: insert(wallet_id=key, n=n), keys, amounts),
    st.builds(lambda key, n: {**insert(wallet_id=key, n=n), "op": "put"}, keys, amounts),
    st.builds(lambda key, n: change("add", key, add={"n": n}, require=[["n", ">=", 0]]), keys, amounts),
    st.builds(lambda key, v: change("update", key, set={"m": v}, expect={"version": v}), keys, st.integers(0, 4)),
    st.builds(lambda key: change("delete", key), keys),
)
transactions = st.lists(
    statements, min_size=1, max_size=3, unique_by=lambda s: s.get("key") or s["document"]["wallet_id"]
)
groups = st.lists(st.lists(transactions, min_size=1, max_size=4), min_size=1, max_size=6)


class Model:
    """The ledger as a dict, one transaction after another."""

    def __init__(self) -> None:
        self.held: dict[str, tuple[int, dict[str, Any] | None]] = {}

    def transact(self, changes: list[dict[str, Any]]) -> list[int] | None:
        after = dict(self.held)
        for each in changes:
            key = each.get("key") or each["document"]["wallet_id"]
            version, before = after.get(key, (0, None))
            changed = self._changed(each, version, before)
            if changed is False:
                return None
            after[key] = (version + 1, changed)
        self.held = after
        return [after[each.get("key") or each["document"]["wallet_id"]][0] for each in changes]

    def _changed(self, each: dict[str, Any], version: int, before: dict[str, Any] | None) -> Any:
        match each["op"]:
            case "insert":
                return False if before is not None else each["document"]
            case "put":
                return each["document"]
            case _ if before is None:
                return False
            case "delete":
                return None
            case "add":
                total = before["n"] + each["add"]["n"]
                return {**before, "n": total} if total >= 0 else False
            case _:
                return {**before, **each["set"]} if each["expect"]["version"] == version else False


@settings(max_examples=25, deadline=None)
@given(groups, st.randoms(use_true_random=False))
def test_any_history_in_any_grouping_is_as_one_transaction_after_another(
    history: list[list[list[dict[str, Any]]]], random: Any
) -> None:
    model = Model()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        committer = new_committer(directory)
        for group in history:
            outcomes = committer.execute([transaction(*changes) for changes in group])
            expected = [model.transact(json.loads(json.dumps(changes))) for changes in group]
            assert [list(o.versions) if isinstance(o, TransactionAnswer) else None for o in outcomes] == expected
            if random.random() < 0.2:
                committer.close()
                committer._journal.close()
                forget_files(directory, *random.sample(["state", "requests"], random.randint(0, 2)))
                committer = reopened(directory)
        committer.close()
        for key in "abc":
            version, content = model.held.get(key, (0, None))
            assert document(directory, key) == (None if content is None else (version, content))
        committer._journal.close()


def test_tables_are_numbered_on_and_stay(tmp_path: Path) -> None:
    committer = new_committer(tmp_path)
    assert committer.declare(WALLETS).created is False
    assert committer.declare(dataclasses.replace(WALLETS, name="second")).created
    assert reopened(tmp_path).tables["second"].relation == 2
