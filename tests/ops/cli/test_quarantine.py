"""``replicator quarantine`` against a region that has set statements aside: what it prints, does and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.pipeline.replay.operated import Operated


@pytest.fixture
def operated(tmp_path: Path) -> Operated:
    return Operated(tmp_path)


async def test_the_list_says_what_why_and_what_to_do(operated: Operated) -> None:
    async with operated.running():
        output = await operated.run("list")
        assert "strand main: 3 statements are set aside, 2 keys wait" in output
        assert "  sequence 4, ordinal 0  update wallets 1  (transaction tx4)" in output
        assert '  sequence 4, ordinal 1  insert pairs ["de", "17"]  (transaction tx4)' in output
        assert "    SQLite refuses a row: refused by hand [replica_refused_row]" in output
        assert "    waits behind sequence 4, ordinal 0, which is set aside [held]" in output
        assert "What to do: cure what they were refused for, then replicator quarantine replay" in output
        assert json.loads(await operated.run("list", "--json"))["open"] == 3
        assert "nothing that was set aside has been closed" in await operated.run("list", "--closed")


async def test_a_statement_is_shown(operated: Operated) -> None:
    async with operated.running():
        output = await operated.run("show", "4", "1")
        assert "block 4, epoch 1, 2 statements" in output
        assert "transaction tx4, committed 1970-01-01T00:00:00.004Z" in output
        assert "    balance = -5" in output
        assert "never set aside" in await operated.run("show", "4", "9", code=1)


async def test_a_replay_is_dry_until_it_is_to_apply_and_its_exit_code_tells_of_refusals(operated: Operated) -> None:
    async with operated.running():
        operated.strand.allow()
        output = await operated.run("replay", code=1)
        assert "  would be replayed: wallets 1: 2 statements (4/0, 5/0)" in output
        assert '  refused: pairs ["de", "17"]: 1 statement (4/1): SQLite refuses a row: refused by hand' in output
        assert "dry run, nothing was changed: 2 statements would be replayed, with --apply" in output
        assert operated.strand.wallets()["1"] == "10"
        output = await operated.run("replay", "--key", '["de", "17"]', "--key", "1", "--apply", code=1)
        assert "replayed: 2 statements; 1 of 2 groups of keys stay set aside" in output
        assert "1" not in operated.strand.wallets()
        operated.strand.allow("pairs")
        answer = json.loads(await operated.run("replay", "--key", '["de", "17"]', "--apply", "--json", "--who", "ann"))
        assert answer["groups"][0]["outcome"] == "replayed"
        assert "nothing is set aside" in await operated.run("list")
        assert "nothing is set aside" in await operated.run("replay")
        assert "replayed by ann: replayed once cured" in await operated.run("list", "--closed")
        assert "[nothing_held]" in await operated.run("replay", "--table", "wallets", code=1)


async def test_a_drop_needs_a_reason_and_is_listed(operated: Operated) -> None:
    async with operated.running():
        await operated.run("drop", "4", "1", code=2)
        output = await operated.run("drop", "4", "1", "--reason", "wrong everywhere", "--who", "bob")
        assert "dropped: sequence 4, ordinal 1" in output
        output = await operated.run("list", "--closed")
        assert "dropped by bob: wrong everywhere" in output
        assert "[closed]" in await operated.run("drop", "4", "1", "--reason", "again", code=1)
