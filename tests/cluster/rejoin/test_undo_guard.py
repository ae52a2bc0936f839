"""What is undone without a person's word, and what never is."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping

import pytest

from replicator.cluster.rejoin.fork import Fork
from replicator.cluster.rejoin.undo_guard import UndoLimits, check_undo
from replicator.errors import Halted
from replicator.format.position import Position
from replicator.ops.cli.rejoin import command

FORK = Fork(*(Position("main", epoch, sequence, bytes(32)) for epoch, sequence in ((1, 1), (2, 9), (3, 12))))


def refusal(
    removed: Mapping[str, int], rows: Mapping[str, int], named: Collection[str] = (), *, keeps_first_copy: bool = True
) -> Halted:
    with pytest.raises(Halted) as caught:
        check_undo(FORK, removed, rows, UndoLimits(100, 0.1), named, keeps_first_copy=keeps_first_copy)
    return caught.value


@pytest.mark.parametrize(
    ("removed", "rows"),
    [({}, {}), ({"t": 100}, {"t": 100}), ({"t": 1_000}, {"t": 10_000}), ({"t": 3}, {}), ({"t": 100}, {"t": 5})],
)
def test_what_a_lost_primary_leaves_behind_goes_unasked(removed: Mapping[str, int], rows: Mapping[str, int]) -> None:
    check_undo(FORK, removed, rows, UndoLimits(100, 0.1), (), keeps_first_copy=True)


def test_a_large_share_of_a_table_waits_for_its_name() -> None:
    removed, rows = {"public.a": 101, "public.b": 1_001, "public.c": 5}, {"public.a": 150, "public.b": 10_000}
    error = refusal(removed, rows)
    assert "public.a 101 of 150 rows, public.b 1,001 of 10,000 rows" in error.message
    assert "public.c" not in error.message
    assert "--undo public.b" in refusal(removed, rows, ["public.a"]).cure
    check_undo(FORK, removed, rows, UndoLimits(100, 0.1), ["public.a", "public.b"], keeps_first_copy=True)


def test_the_first_copy_is_never_undone_unasked() -> None:
    error = refusal({"public.a": 1}, {"public.a": 1_000_000}, keeps_first_copy=False)
    assert "the ledger's first copy itself: public.a 1 of 1,000,000 rows" in error.message
    check_undo(FORK, {"public.a": 1}, {}, UndoLimits(), ["public.a"], keeps_first_copy=False)


def test_the_cure_is_a_command_line() -> None:
    """Also where a table has a name that a shell would take apart."""
    table = 'public."my table"'
    words = shlex.split(refusal({table: 5_000}, {}).cure.partition("replicator ")[2])
    assert words == ["rejoin", "CONFIG", "--undo", table]
    with command.make_context("rejoin", words[1:], resilient_parsing=True) as context:
        assert context.params["undo"] == (table,)
