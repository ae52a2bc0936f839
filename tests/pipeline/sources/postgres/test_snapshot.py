"""Which block a snapshot belongs to."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.pipeline.sources.postgres import last_visible, open_snapshot
from replicator.pipeline.sources.postgres.snapshot import TransactionSnapshot, parse_snapshot
from replicator.postgres.lsn import lsn_text, parse_lsn
from tests.pipeline.sources.postgres.ledger import Collector, Ledger, caught_up, following


def snapshot(text: str) -> TransactionSnapshot:
    return parse_snapshot(text, 0)


def test_what_is_not_seen_must_be_a_suffix() -> None:
    blocks = [(1, "copy"), (2, "100"), (3, "102"), (4, "sequences"), (5, "101"), (6, "message"), (7, "105")]
    assert last_visible(snapshot("103:103:"), blocks[:6]) == 6
    assert last_visible(snapshot("101:103:101"), blocks) == 4
    assert last_visible(snapshot("102:103:102"), blocks) is None  # 101 is seen, 102 before it is not
    assert last_visible(snapshot("100:100:"), blocks) == 1
    assert last_visible(snapshot("100:100:"), blocks[1:]) == 1
    assert last_visible(snapshot("100:100:"), []) is None


@given(st.integers(3, 1 << 40), st.integers(0, 1 << 20))
def test_a_short_number_is_that_of_the_nearest_transaction(xmax: int, distance: int) -> None:
    seen = TransactionSnapshot(xmax, xmax, frozenset(), 0)
    assert seen.sees((xmax + distance) % (1 << 32)) is False
    if distance:
        assert seen.sees((xmax - distance) % (1 << 32)) is True
        running = TransactionSnapshot(xmax - distance, xmax, frozenset({xmax - distance}), 0)
        assert running.sees((xmax - distance) % (1 << 32)) is False


@given(st.integers(0, (1 << 64) - 1))
def test_places_in_the_log_read_back(lsn: int) -> None:
    assert parse_lsn(lsn_text(lsn)) == lsn


@pytest.mark.parametrize("text", ["", "1", "1/2/3", "x/1", "123456789/0", "1/ 2", "-1/2"])
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="place in PostgreSQL's log"):
        parse_lsn(text)


async def test_a_snapshot_of_a_real_server_belongs_to_a_block(
    ledger: Ledger, new_ledger: Callable[..., Ledger]
) -> None:
    sink = Collector()
    async with following(ledger, sink):
        ledger.do("INSERT INTO wallets VALUES (300, 'a', 1, NULL)")
        other = Ledger(ledger.dsn)  # holds a transaction open that commits behind the snapshot
        other.do("BEGIN", "INSERT INTO wallets VALUES (301, 'a', 1, NULL)")
        ledger.do("INSERT INTO wallets VALUES (302, 'a', 1, NULL)")
        connection, seen = open_snapshot(ledger.options)
        ledger.do("INSERT INTO wallets VALUES (303, 'a', 1, NULL)")
        other.do("COMMIT")
        other.sql.close()
        await caught_up(ledger, sink)
    with connection:
        rows = connection.execute("SELECT id FROM public.wallets WHERE id >= 300 ORDER BY id").fetchall()
    assert rows == [(300,), (302,)]
    chain = [(number, block.draft.txid) for number, block in enumerate(sink.blocks, 1)]
    assert last_visible(seen, chain) == 3
    assert all(parse_lsn(block.draft.origin) <= seen.lsn for block in sink.blocks[:3])
