"""What cannot start says so: exit code 2 for what the operator wrote, with place and cure, and nothing was changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.regions import EMBEDDED, Region, follow, run_verb, sqlite_replica


def _typo(region: Region) -> None:
    region.config.write_text(region.config.read_text().replace("heartbeat", "hartbeat"))


def _secret(region: Region) -> None:
    text = region.config.read_text().replace("[feed]", 'token = { env = "NOBODY_SET_THIS" }\n\n[feed]', 1)
    region.config.write_text(text)


def _file_in_the_way(region: Region) -> None:
    region.data.write_text("a file")


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (_typo, ["[feed] hartbeat", "'heartbeat'", "line", "Cure: "]),
        (_secret, ["NOBODY_SET_THIS", "line", "Cure: "]),
        (_file_in_the_way, ["data_dir_unusable", "[region] data_dir", "Cure: "]),
    ],
)
def test_what_the_operator_wrote_is_exit_2(tmp_path: Path, spoil: Callable[[Region], None], named: list[str]) -> None:
    region = Region(tmp_path, "paris", "primary", EMBEDDED)
    spoil(region)
    done = run_verb("run", str(region.config))
    assert done.returncode == 2, done.stderr
    for text in named:
        assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert not region.data.is_dir()


def test_a_port_and_a_directory_in_use(tmp_path: Path) -> None:
    """The second sidecar is refused; the first goes on undisturbed."""
    first = Region(tmp_path, "paris", "primary", EMBEDDED)
    first.start()
    try:
        first.reach_sequence("applied", 1)
        done = run_verb("run", str(first.config))
        assert done.returncode == 2
        assert "data_dir_in_use" in done.stderr
        assert str(first.data) in done.stderr
        second = Region(tmp_path, "second", "primary", EMBEDDED)
        second.config.write_text(second.config.read_text().replace(str(second.port), str(first.port)))
        done = run_verb("run", str(second.config))
        assert done.returncode == 2
        assert "cannot_listen" in done.stderr
        assert str(first.port) in done.stderr
        assert first.write(1, 1).status_code == 200
        assert first.stop() == 0
    finally:
        first.end()


def test_a_region_that_is_taken_out_of_its_cluster_does_not_lead_by_itself(tmp_path: Path) -> None:
    """Its role, with what it has promised, is there; the configuration that goes with it is not."""
    region = Region(tmp_path, "paris", "primary", EMBEDDED)
    region.data.mkdir()
    role = region.data / "role.json"
    role.write_text("{}")
    done = run_verb("run", str(region.config))
    assert done.returncode == 2, done.stderr
    for text in ("cluster_removed", str(region.data), "Cure: ", "replicator run CONFIG --new-identity"):
        assert text in done.stderr
    assert role.read_text() == "{}"
    try:
        for options in (["--new-identity"], []):  # the cure, for good
            region.start(*options)
            region.reach_sequence("applied", 1)
            assert region.stop() == 0
    finally:
        region.end()


def test_a_replica_that_is_named_like_its_primary_is_refused(tmp_path: Path) -> None:
    primary = Region(tmp_path, "paris", "primary", EMBEDDED)
    (tmp_path / "other").mkdir()
    namesake = Region(tmp_path / "other", "paris", "replica", follow(primary.url) + sqlite_replica())
    try:
        primary.start()
        primary.reach_sequence("applied", 1)
        namesake.start()
        trouble = namesake.trouble("same_name", condition="halted")
        assert "[region] name" in trouble["cure"]
        assert primary.ask("/v1/regions").json()["regions"] == []
    finally:
        namesake.end()
        primary.end()
