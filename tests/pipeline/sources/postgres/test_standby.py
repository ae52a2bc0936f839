"""What ``synchronous_standby_names`` makes of us, for settings as PostgreSQL takes them."""

from __future__ import annotations

import pytest

from replicator.pipeline.sources.postgres.standby import Standbys, judge, parse_standbys, setting_for

NAME = "replicator Main"


@pytest.mark.parametrize(
    ("setting", "standbys"),
    [
        ("", Standbys(0, ())),
        ("  ", Standbys(0, ())),
        ("*", Standbys(1, ("*",))),
        ("a, b", Standbys(1, ("a", "b"))),
        ('"replicator Main"', Standbys(1, ("replicator main",))),
        ('"odd ""name"", (x)", b', Standbys(1, ('odd "name", (x)', "b"))),
        ("2 (a, b)", Standbys(2, ("a", "b"))),
        ("FIRST 2(a,b,c)", Standbys(2, ("a", "b", "c"))),
        (' any 1 ( "a b" , c ) ', Standbys(1, ("a b", "c"), any=True)),
    ],
)
def test_settings_are_read_as_the_server_reads_them(setting: str, standbys: Standbys) -> None:
    assert parse_standbys(setting) == standbys


@pytest.mark.parametrize("setting", ['"open', "a b", "a,,b", "1 (a", "a)"])
def test_what_the_server_would_not_take_is_no_setting(setting: str) -> None:
    with pytest.raises(ValueError, match="standbys"):
        parse_standbys(setting)


@pytest.mark.parametrize(
    ("setting", "commit", "levels"),
    [
        (setting_for(NAME), "on", ["ok"]),
        ('"REPLICATOR main"', "remote_write", ["ok"]),
        ('FIRST 2 ("replicator main", other)', "on", ["ok"]),
        ('ANY 2 ("replicator main", other)', "on", ["ok"]),
        ('FIRST 1 ("replicator main", other)', "on", ["fail"]),
        ('ANY 1 ("replicator main", other)', "on", ["fail"]),
        ("*", "on", ["fail"]),
        ('2 (*, "replicator main")', "on", ["fail"]),
        ("other", "on", ["fail"]),
        ("", "on", ["fail"]),
        ('"open', "on", ["fail"]),
        (setting_for(NAME), "local", ["ok", "fail"]),
        (setting_for(NAME), "off", ["ok", "fail"]),
    ],
)
def test_no_commit_may_return_without_us(setting: str, commit: str, levels: list[str]) -> None:
    findings = list(judge(setting, commit, NAME))
    assert [finding.level for finding in findings] == levels
    assert all(finding.cure for finding in findings if finding.level == "fail")
