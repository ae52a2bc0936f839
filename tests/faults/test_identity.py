"""Whose data directory it is: a region is started only as what it was, unless a person says that it changes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from replicator.pipeline.feed.publish import FollowerNames
from tests.faults.regions import EMBEDDED, Region, follow, postgres_replica, run_verb, sqlite_replica


@pytest.fixture
def regions(tmp_path: Path) -> Iterator[Callable[..., Region]]:
    made: list[Region] = []

    def new(name: str, role: str, sections: str, home: str = "") -> Region:
        (tmp_path / home).mkdir(exist_ok=True)
        made.append(Region(tmp_path / home, name, role, sections))
        return made[-1]

    yield new
    for region in made:
        region.end()


def rewrite(region: Region, old: str, new: str) -> None:
    text = region.config.read_text()
    assert old in text
    region.config.write_text(text.replace(old, new))


def noted(region: Region) -> dict[str, str | None]:
    identity: dict[str, str | None] = json.loads((region.data / "identity.json").read_text())
    return identity


def refused(region: Region, *texts: str) -> None:
    """By ``run`` and by ``preflight``, which changes nothing."""
    before = (region.data / "identity.json").read_text()
    for verb in ("run", "preflight"):
        done = run_verb(verb, str(region.config))
        assert done.returncode in (1, 2), done.stdout + done.stderr
        for text in texts:
            assert text in done.stdout + done.stderr
    assert (region.data / "identity.json").read_text() == before


def test_a_directory_of_another_name_role_or_strand_is_refused_until_a_person_means_it(
    regions: Callable[..., Region],
) -> None:
    paris = regions("paris", "primary", EMBEDDED)
    paris.start()
    paris.reach_sequence("applied", 1)
    assert paris.stop() == 0
    rewrite(paris, 'name = "paris"', 'name = "rome"')
    refused(paris, "another_identity", "region paris", "rome", str(paris.data), "--new-identity")
    rewrite(paris, 'name = "rome"', 'name = "paris"')
    tokyo = regions("tokyo", "replica", follow(paris.url) + sqlite_replica())
    paris.start()
    tokyo.start()
    tokyo.reach_sequence("applied", 1)
    assert tokyo.stop() == 0
    replica = tokyo.config.read_text()
    tokyo.config.write_text(replica.replace('"replica"', '"primary"').split("[follow]")[0] + EMBEDDED)
    refused(tokyo, "another_identity", "was a replica", "--new-identity")
    tokyo.start("--new-identity")
    tokyo.reach(lambda status: bool(status["strands"]), "it runs as what it is now")
    assert tokyo.stop() == 0
    assert json.loads((tokyo.data / "identity.json").read_text())["role"] == "primary"


def test_another_regions_directory_is_not_made_anew_as_this_one(regions: Callable[..., Region]) -> None:
    paris = regions("paris", "primary", EMBEDDED)
    tokyo = regions("tokyo", "replica", follow(paris.url) + sqlite_replica())
    paris.start()
    tokyo.start()
    tokyo.reach_sequence("applied", 1)
    assert tokyo.stop() == 0
    rewrite(tokyo, 'name = "tokyo"', 'name = "lima"')
    done = run_verb("bootstrap", str(tokyo.config), "--replace")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "another_identity" in done.stderr


def test_of_two_regions_of_one_name_the_second_is_refused_and_comes_in_when_the_first_is_gone(
    regions: Callable[..., Region],
) -> None:
    paris = regions("paris", "primary", EMBEDDED)
    first = regions("tokyo", "replica", follow(paris.url) + sqlite_replica())
    second = regions("tokyo", "replica", follow(paris.url) + sqlite_replica(), home="other")
    paris.start()
    first.start()
    first.reach_sequence("applied", 1)
    second.start()
    trouble = second.trouble("name_taken", condition="waiting")
    assert "[region] name" in trouble["cure"]
    assert paris.write(1, 1).status_code == 200
    first.reach_sequence("applied", 2)
    assert first.stop() == 0
    second.reach_sequence("applied", 2)


def test_a_second_region_of_one_name_is_refused_in_a_cluster(regions: Callable[..., Region], tmp_path: Path) -> None:
    """A copy of a machine: other files, or the same ones, and the address of the first in its configuration."""
    peer = regions("lima", "replica", "")
    cluster = (
        '[cluster]\nregions = {{ paris = "{}", lima = "{}" }}\n[lease]\nkind = "static"\npath = "{}"\nttl = "2s"\n'
    )
    first = regions("paris", "primary", EMBEDDED)
    with first.config.open("a") as file:
        file.write(cluster.format(first.url, peer.url, tmp_path / "lease.json"))
    first.start()
    first.reach(lambda status: bool(status["strands"]), "it runs")
    second = regions("paris", "primary", "", home="copy")
    second.config.write_text(
        first.config.read_text().replace(f'listen = "127.0.0.1:{first.port}"', 'listen = "127.0.0.1:0"')
    )
    done = run_verb("run", str(second.config))
    assert done.returncode == 2, done.stdout + done.stderr
    for text in ("name_taken", "paris", first.url, "[region] name"):
        assert text in done.stderr
    assert not (second.data / "journal.sqlite3").exists()
    assert first.stop() == 0
    first.start()  # and it is not kept out by itself
    first.reach(lambda status: bool(status["strands"]), "it runs again")


def test_a_primary_without_a_cluster_does_not_write_behind_a_later_epoch(regions: Callable[..., Region]) -> None:
    paris = regions("paris", "primary", EMBEDDED)
    rewrite(paris, 'role = "primary"', 'role = "primary"\nepoch = 7')
    paris.start()
    paris.reach_sequence("applied", 1)
    assert paris.stop() == 0
    rewrite(paris, "epoch = 7", "epoch = 6")
    done = run_verb("run", str(paris.config))
    assert done.returncode == 2, done.stdout + done.stderr
    assert "[region] epoch = 8" in done.stderr
    before = noted(paris)
    assert run_verb("run", str(paris.config), "--new-identity").returncode == 2
    assert noted(paris) == before, "a start that is refused says nothing"
    rewrite(paris, "epoch = 6", "epoch = 8")
    paris.start()
    paris.reach_sequence("applied", 1)


def test_a_directory_that_is_older_than_its_note_is_taken_for_what_lies_in_it(regions: Callable[..., Region]) -> None:
    paris = regions("paris", "primary", EMBEDDED)
    tokyo = regions("tokyo", "replica", follow(paris.url) + sqlite_replica())
    for region in (paris, tokyo):
        region.start()
    tokyo.reach_sequence("applied", 1)
    for region in (paris, tokyo):
        assert region.stop() == 0
        (region.data / "identity.json").unlink()
    replica = tokyo.config.read_text()
    tokyo.config.write_text(replica.replace('"replica"', '"primary"').split("[follow]")[0] + EMBEDDED)
    done = run_verb("run", str(tokyo.config))
    assert done.returncode == 2, done.stdout + done.stderr
    for text in ("another_identity", "was a replica", str(tokyo.data), "replicator run CONFIG --new-identity"):
        assert text in done.stderr
    assert not (tokyo.data / "identity.json").exists()
    tokyo.config.write_text(replica)
    for region in (paris, tokyo):
        region.start()
        region.reach_sequence("applied", 1)
        assert noted(region)["name"] == region.name
    assert tokyo.stop() == 0
    (tokyo.data / "identity.json").unlink()
    seal = tokyo.data / "orphans" / "4-5-ab"  # only a region of a cluster has orphans
    seal.mkdir(parents=True)
    (seal / "seal.json").write_text("{}")
    done = run_verb("run", str(tokyo.config))
    assert done.returncode == 2, done.stdout + done.stderr
    assert "cluster_removed" in done.stderr


def test_a_copy_of_a_directory_is_told_apart_once_it_has_a_new_identity(regions: Callable[..., Region]) -> None:
    paris = regions("paris", "primary", EMBEDDED)
    tokyo = regions("tokyo", "replica", follow(paris.url) + sqlite_replica())
    copy = regions("tokyo", "replica", follow(paris.url) + sqlite_replica(), home="copy")
    paris.start()
    tokyo.start()
    tokyo.reach_sequence("applied", 1)
    assert tokyo.stop() == 0
    shutil.copytree(tokyo.data, copy.data)
    shutil.copy(tokyo.directory / "ledger.db", copy.directory / "ledger.db")
    tokyo.start()
    tokyo.reach_sequence("applied", 1)
    copy.start("--new-identity")
    copy.trouble("name_taken", condition="waiting")
    assert noted(copy)["id"] != noted(tokyo)["id"]


def test_a_region_that_is_made_anew_is_noted_as_what_it_is_now(regions: Callable[..., Region]) -> None:
    paris = regions("paris", "primary", EMBEDDED)
    tokyo = regions("tokyo", "primary", EMBEDDED)
    paris.start()
    paris.reach_sequence("applied", 1)
    tokyo.start()
    tokyo.reach_sequence("applied", 1)
    assert tokyo.stop() == 0
    was, primary = noted(tokyo), tokyo.config.read_text()
    tokyo.config.write_text(
        primary.replace('"primary"', '"replica"').split("[feed]")[0] + follow(paris.url) + sqlite_replica()
    )
    refused(tokyo, "another_identity", "was a primary")
    done = run_verb("bootstrap", str(tokyo.config), "--replace")
    assert done.returncode == 0, done.stdout + done.stderr
    assert noted(tokyo) == {**was, "role": "replica"}
    tokyo.start()
    tokyo.reach_sequence("applied", 1)
    assert tokyo.stop() == 0
    tokyo.config.write_text(primary)
    refused(tokyo, "another_identity", "was a replica")


def test_a_replica_that_is_another_database_is_halted_before_anything_is_written_there(
    regions: Callable[..., Region], new_database: Callable[[], str]
) -> None:
    mine, other = new_database(), new_database()
    paris = regions("paris", "primary", EMBEDDED)
    tokyo = regions("tokyo", "replica", follow(paris.url) + postgres_replica(mine))
    paris.start()
    tokyo.start()
    tokyo.reach_sequence("applied", 1)
    assert tokyo.stop() == 0
    first = noted(tokyo)["database"]
    assert first is not None
    rewrite(tokyo, mine, other)
    tokyo.start()
    trouble = tokyo.trouble("another_database", condition="halted")
    for text in ("stop the sidecar", "replicator run CONFIG --new-identity"):
        assert text in trouble["cure"]
    with psycopg.connect(other) as connection:
        found = connection.execute("SELECT to_regnamespace('replicator') IS NULL").fetchone()
    assert found == (True,)
    assert tokyo.stop() == 0
    tokyo.start("--new-identity")
    tokyo.reach_sequence("applied", 1)
    assert noted(tokyo)["database"] not in (None, first)
    assert tokyo.stop() == 0
    tokyo.start()
    tokyo.reach_calm()


def test_a_name_is_free_again_once_its_bearer_is_silent() -> None:
    names = FollowerNames(5.0)
    assert names.take("tokyo", "one", 0.0)
    assert not names.take("tokyo", "two", 4.9)
    assert names.take("tokyo", "", 4.9), "an older version tells no id"
    assert names.take("tokyo", "one", 4.0)
    assert not names.take("tokyo", "two", 8.9)
    assert names.take("tokyo", "two", 9.1)
    assert not names.take("tokyo", "one", 9.2)
    assert names.take("", "three", 9.2)


def test_a_stream_that_only_looks_open_does_not_keep_its_name_for_ever() -> None:
    names = FollowerNames(5.0)
    assert names.take("tokyo", "one", 0.0)
    for second in range(60):  # nobody is there: what is sent waits for a machine that is gone
        names.streams("tokyo", "one", float(second))
    assert not names.take("tokyo", "two", 44.9)
    assert names.take("tokyo", "two", 45.1)
    names.streams("tokyo", "one", 46.0)
    assert not names.take("tokyo", "one", 47.0)
