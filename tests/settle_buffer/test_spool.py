"""The spool: what is durable, what is found damaged, what is used again."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from settle_buffer import Certificate, Entry, Spool, SpoolUnavailable
from settle_buffer.packing import NONE, pack, unpack
from tests.settle_buffer.makers import chain

numbers = st.integers(NONE + 1, 2**63 - 1)
proofs = st.binary(max_size=255)
some_entries = st.lists(
    st.builds(Entry, st.just("main"), numbers, numbers, proofs, proofs, st.binary(max_size=300), st.none() | numbers),
    min_size=1,
    max_size=20,
)


@given(some_entries)
def test_packed_entries_come_back(entries: list[Entry]) -> None:
    assert unpack("main", pack(entries)) == entries


@given(some_entries, st.data())
def test_cut_or_padded_packings_are_refused(entries: list[Entry], data: st.DataObject) -> None:
    packed = pack(entries)
    cut = data.draw(st.integers(0, len(packed) - 1))
    for wrong in (packed[:cut], packed + b"x"):
        with pytest.raises(ValueError, match="pack"):
            unpack("main", wrong)


def recovered(spool: Spool, positions: dict[str, int] | None = None) -> list[Entry]:
    return [entry for entries in spool.recover(positions or {}) for entry in entries]


def test_what_was_appended_is_there_after_reopening_in_the_order_of_the_appends(tmp_path: Path) -> None:
    entries = chain("main", 300)
    spool = Spool(tmp_path / "spool")
    spool.append(entries[100:])
    spool.append(entries[:100])
    spool.close()
    assert recovered(Spool(tmp_path / "spool")) == entries[100:] + entries[:100]


def test_only_what_is_above_the_consumers_position_is_recovered(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.append(chain("a", 50) + chain("b", 50))
    assert recovered(spool, {"a": 20, "b": 50}) == chain("a", 50)[20:]


def test_a_range_is_read_back_whatever_the_order_of_arrival(tmp_path: Path) -> None:
    entries = chain("main", 3_000)
    arriving = entries + entries[500:600]
    random.Random(5).shuffle(arriving)
    spool = Spool(tmp_path / "spool")
    for start in range(0, len(arriving), 100):
        spool.append(arriving[start : start + 100])
    found, last = spool.read("main", 450, 700, 1 << 30)
    assert last == 700
    assert found == sorted(entries[449:700] + entries[500:600], key=lambda entry: entry.sequence)


def test_reading_stops_at_the_limit_of_bytes_but_goes_on(tmp_path: Path) -> None:
    entries = chain("main", 1_000, body_bytes=1_000)
    spool = Spool(tmp_path / "spool")
    for start in range(0, 1_000, 50):
        spool.append(entries[start : start + 50])
    out: list[Entry] = []
    while len(out) < 1_000:
        found, last = spool.read("main", len(out) + 1, 1_000, 100_000)
        assert found
        assert last == len(out) + len(found)
        assert len(found) <= 150
        out += found
    assert out == entries


def test_trimmed_space_is_used_again(tmp_path: Path) -> None:
    entries = chain("main", 20_000, body_bytes=500)
    spool = Spool(tmp_path / "spool")
    sizes = []
    for start in range(0, 20_000, 500):
        spool.append(entries[start : start + 500])
        spool.trim("main", start)
        sizes.append((tmp_path / "spool").stat().st_size)
    assert spool.size_bytes() < 2_000_000
    spool.close()
    assert (tmp_path / "spool").stat().st_size < 4_000_000 < 20_000 * 500


def test_nothing_above_the_trimmed_position_is_deleted(tmp_path: Path) -> None:
    entries = chain("main", 100)
    spool = Spool(tmp_path / "spool")
    spool.append(entries)
    spool.trim("main", 99)
    spool.flush()
    assert recovered(spool, {"main": 99}) == entries[99:]
    spool.trim("main", 100)
    spool.flush()
    assert recovered(spool) == []


@pytest.mark.parametrize("damage", ["a flipped byte", "no database at all", "cut in half"])
def test_a_damaged_file_is_set_aside_and_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "spool"
    spool = Spool(path)
    spool.append(chain("main", 2_000, body_bytes=100))
    spool.close()
    data = bytearray(path.read_bytes())
    if damage == "a flipped byte":
        data[data.index(b"main-1500-") + 20] ^= 1
    path.write_bytes(bytes(data) if damage == "a flipped byte" else b"no database" if "no" in damage else data[:70_000])
    spool = Spool(path)
    assert spool.damaged is not None
    assert spool.damaged.exists()
    assert recovered(spool) == []
    spool.append(chain("main", 3))
    spool.close()
    again = Spool(path)
    assert again.damaged is None
    assert recovered(again) == chain("main", 3)


def test_a_spool_belongs_to_one_process(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.append(chain("main", 1))
    with pytest.raises(SpoolUnavailable):
        Spool(tmp_path / "spool")


def test_an_append_that_fails_has_not_happened(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.append(chain("main", 2))
    size = int(spool._connection.execute("PRAGMA page_count").fetchone()[0])
    spool._connection.execute(f"PRAGMA max_page_count = {size}")
    with pytest.raises(SpoolUnavailable):
        spool.append(chain("main", 2_000, first=3, body_bytes=1_000))
    assert recovered(spool) == chain("main", 2)


def test_late_entries_and_certificates_are_kept_until_they_are_settled(tmp_path: Path) -> None:
    entries = chain("main", 3)
    certificate = Certificate("main", 2, 2, 5, 9, 1, "waived", "operator", "ann", "lost")
    spool = Spool(tmp_path / "spool")
    spool.append(entries)
    spool.keep_late(entries[1:2])
    spool.append(entries[1:2])
    spool.keep_late(entries[1:2])
    assert recovered(spool) == [entries[0], entries[2]]
    spool.certify([certificate])
    spool.trim("main", 3)
    spool.close()
    spool = Spool(tmp_path / "spool")
    assert spool.certificates() == [certificate]
    ((number, entry),) = spool.late()
    assert entry == entries[1]
    spool.settle_late(number)
    assert spool.late() == []


def test_a_newer_format_is_left_alone(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "spool")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(SpoolUnavailable, match="format 99"):
        Spool(tmp_path / "spool")
