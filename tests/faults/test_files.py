"""Files that were damaged, deleted or swapped: named, set aside and made again, or halted, as each module promises."""

from __future__ import annotations

import shutil

from tests.faults.files import BLOCKS, spoil
from tests.faults.regions import Region, assert_equal, run_verb


def test_what_is_derived_is_set_aside_and_made_again(pair: tuple[Region, Region]) -> None:
    """The spool and the history index: read again from the feed and the journal, the damaged files are kept."""
    paris, tokyo = pair
    spoil(tokyo.data / "spool.sqlite3", whole=True)
    spoil(tokyo.data / "history.sqlite3", whole=True)
    spoil(paris.data / "history.sqlite3")
    for region in pair:
        region.start()
    tokyo.reach(lambda status: status["ready"], "ready")
    assert paris.write(BLOCKS, 1).status_code == 200
    tokyo.reach_sequence("applied", BLOCKS + 1)
    assert_equal(tokyo)
    for region in pair:
        answer = region.ask(f"/v1/tables/wallets/history/w0000005?after={_head(paris)}&timeout=10s")
        assert answer.status_code == 200, answer.text
        assert [change["op"] for change in answer.json()["changes"]] == ["insert"]
    assert len(list(tokyo.data.glob("spool.sqlite3.damaged-*"))) >= 1
    assert len(list(tokyo.data.glob("history.sqlite3.damaged-*"))) >= 1
    assert len(list(paris.data.glob("history.sqlite3.damaged-*"))) >= 1


def test_the_ledgers_own_files_halt_by_name_and_are_made_again_from_the_journal(pair: tuple[Region, Region]) -> None:
    paris, _ = pair
    for name in ("requests.sqlite3", "ledger.sqlite3"):
        path = paris.data / name
        spoil(path, whole=True)
        paris.start()
        trouble = paris.trouble("file_damaged", condition="halted")
        assert trouble["place"] == str(path)
        assert trouble["cure"]
        assert paris.ask("/primary").status_code == 503
        assert paris.write(500, 1).status_code == 503
        assert paris.stop() == 0
        path.rename(path.with_suffix(".aside"))
    paris.start()
    paris.reach_sequence("applied", BLOCKS)
    assert paris.wallets() == BLOCKS - 1
    answer = paris.write(3, 1)
    assert answer.status_code == 409, "the key is known again"


def test_a_damaged_journal_is_named_and_never_served(pair: tuple[Region, Region]) -> None:
    """At the start, by ``journal verify``, and to who reads a page that was damaged meanwhile."""
    paris, tokyo = pair
    path = paris.data / "journal.sqlite3"
    whole = path.read_bytes()
    spoil(path)
    done = run_verb("journal", "verify", str(paris.config))
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    started = run_verb("run", str(paris.config))
    assert started.returncode == 1
    assert "Traceback" not in started.stderr
    assert str(path) in started.stderr or "sequence" in started.stderr
    assert "Cure: " in started.stderr
    path.write_bytes(whole)
    paris.start()
    tokyo.start()
    tokyo.reach_sequence("applied", BLOCKS)
    tokyo.reach_calm()
    assert_equal(tokyo)


def test_a_data_directory_that_goes_while_the_sidecar_runs(pair: tuple[Region, Region]) -> None:
    """Nothing more is taken into a journal that has no name; put back, the region goes on."""
    paris, tokyo = pair
    for region in pair:
        region.start()
    tokyo.reach(lambda status: status["ready"], "ready")
    shutil.rmtree(tokyo.data)
    trouble = tokyo.trouble("data_dir_gone", condition="halted")
    assert trouble["place"] == str(tokyo.data / "journal.sqlite3")
    assert tokyo.ask("/health").status_code == 503
    assert tokyo.stop() == 0
    shutil.copytree(tokyo.directory / "whole", tokyo.data)
    assert paris.write(BLOCKS, 1).status_code == 200
    tokyo.start()
    tokyo.reach_sequence("applied", BLOCKS + 1)
    assert_equal(tokyo)


def test_a_region_without_its_data_directory_begins_anew_beside_its_replica(pair: tuple[Region, Region]) -> None:
    """The replica is ahead of the new journal: that is said, and the region goes on when the journal has come there."""
    paris, tokyo = pair
    for name in ("journal.sqlite3", "journal.sqlite3-wal", "spool.sqlite3", "history.sqlite3"):
        (tokyo.data / name).unlink(missing_ok=True)
    for region in (paris, tokyo):
        region.start()
    tokyo.reach(lambda status: status["strands"][0]["marks"]["settled"] == BLOCKS, "the journal anew")
    trouble = tokyo.trouble("replica_not_in_journal", condition="halted")
    assert trouble["cure"]
    assert tokyo.stop() == 0
    tokyo.start()
    tokyo.reach_sequence("applied", BLOCKS)
    tokyo.reach_calm()
    assert_equal(tokyo)


def _head(region: Region) -> str:
    return str(region.ask("/feed/v1/main/positions/head").json()["position"])
