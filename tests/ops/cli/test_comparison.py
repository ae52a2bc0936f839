"""What the verbs that rewrite read out of a comparison, and out of the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from replicator.config import load
from replicator.errors import ConfigError
from replicator.format.position import genesis
from replicator.ops.cli.comparison import keys_of, replica_only
from replicator.ops.cli.repair import _parse_key
from replicator.ops.cli.resync import microseconds
from replicator.verify.check import Verdict
from replicator.verify.compare import Difference, TableResult

EXAMPLES = Path(__file__).parents[3] / "config"


def test_keys_are_named_once_and_tables_without_a_key_as_a_whole() -> None:
    pair = Difference("pairs", {"a": "1", "b": "x"}, None, {"a": "1", "b": "x"})
    line = Difference("log", {}, {"line": "x"}, None)
    tables = [
        TableResult("pairs", 1, 2, 2, [pair, pair]),
        TableResult("log", 1, 0, 2, [line, line]),
        TableResult("gone", 0, 0, 0, [], "the replica has no such table"),
    ]
    assert keys_of(Verdict("primary", "tokyo", genesis("main"), tables)) == ([("pairs", ("1", "x"))], ["log"])


def test_a_primary_is_refused() -> None:
    replica_only(load(EXAMPLES / "sqlite-replica.toml"), "repair")
    with pytest.raises(ConfigError, match="not_a_replica"):
        replica_only(load(EXAMPLES / "embedded-primary.toml"), "repair")


def test_times_have_an_offset() -> None:
    assert microseconds("--from", "1970-01-01T00:00:01.5Z") == 1_500_000
    assert microseconds("--from", "1970-01-01T02:00:00+02:00") == 0
    for text in ("1970-01-01T00:00:01", "yesterday", "", "1970-01-01"):
        with pytest.raises(ConfigError, match="bad_time"):
            microseconds("--from", text)


def test_a_key_is_a_text_or_a_list_of_texts() -> None:
    assert _parse_key("w1") == ["w1"]
    assert _parse_key('["de", "7"]') == ["de", "7"]
    assert _parse_key('["de", 7]') == ["de", "7"]
    assert _parse_key("[not json") == ["[not json"]
