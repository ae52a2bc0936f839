"""Whether a server that was promoted or restored ever had what the journal holds."""

from __future__ import annotations

import pytest

from replicator.errors import Halted
from replicator.pipeline.sources.postgres.slot import check_timeline, parse_forks


def test_a_fork_before_our_position_halts() -> None:
    forks = parse_forks("1\t0/300\tno recovery target\n\n2\t0/500 \tbefore\n# comment\n")
    assert forks == {1: 0x300, 2: 0x500}
    check_timeline(forks, "1", 0x300)
    check_timeline(forks, "3", 0x900)
    check_timeline(forks, None, 0x900)
    with pytest.raises(Halted) as raised:
        check_timeline(forks, "2", 0x501)
    assert raised.value.reason == "timeline_forked"
