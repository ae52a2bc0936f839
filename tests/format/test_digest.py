"""Digests: equal exactly if the contents are, whatever the order; vectors that others can use."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.format.digest import EMPTY, Digest, TableDigest, bucket_of, differing_buckets, row_hash

VECTORS: list[dict[str, Any]] = json.loads((Path(__file__).parents[1] / "vectors" / "digests.json").read_text())

rows = st.lists(
    st.tuples(st.sampled_from([b"1", b"2", b"3"]), st.sampled_from([b"a", b"b"])).map(lambda r: (r[0], b"\t".join(r))),
    max_size=8,
)


def digest(contents: list[tuple[bytes, bytes]], buckets: int = 4, label: str = "t") -> TableDigest:
    made = TableDigest(label, buckets)
    made.add(contents)
    return made


@given(rows, rows)
def test_equal_exactly_if_the_rows_are_each_as_often(
    one: list[tuple[bytes, bytes]], other: list[tuple[bytes, bytes]]
) -> None:
    same = Counter(line for _, line in one) == Counter(line for _, line in other)
    assert (digest(one, 1).total() == digest(other, 1).total()) == same
    assert (digest(one).buckets() == digest(other).buckets()) == (Counter(one) == Counter(other))


@given(rows, st.randoms())
def test_the_order_does_not_matter(contents: list[tuple[bytes, bytes]], random: Any) -> None:
    shuffled = list(contents)
    random.shuffle(shuffled)
    assert digest(contents).buckets() == digest(shuffled).buckets()
    assert sum(digest(contents).buckets().values(), EMPTY) == digest(contents).total()


def test_a_doubled_pair_does_not_cancel_out() -> None:
    assert digest([(b"1", b"x")] * 2).total() != digest([]).total()
    assert digest([(b"1", b"x")] * 3).total() != digest([(b"1", b"x")]).total()


def test_the_table_is_under_the_hash() -> None:
    assert digest([(b"1", b"x")]).total() != digest([(b"1", b"x")], label="u").total()


def test_differing_buckets_are_named() -> None:
    one, other = digest([(b"1", b"a"), (b"2", b"b")], 256), digest([(b"1", b"a"), (b"2", b"c")], 256)
    assert differing_buckets(one.buckets(), other.buckets()) == [bucket_of(b"2", 256)]
    assert differing_buckets(one.buckets(), {}) == sorted({bucket_of(b"1", 256), bucket_of(b"2", 256)})


@pytest.mark.parametrize("buckets", [0, 3, -1, 1 << 17])
def test_buckets_are_a_power_of_two(buckets: int) -> None:
    with pytest.raises(ValueError, match="a power of two"):
        TableDigest("t", buckets)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["table"])
def test_published_digests(vector: dict[str, Any]) -> None:
    contents = [(bytes.fromhex(key), bytes.fromhex(line)) for key, line in vector["rows"]]
    for (key, line), wanted, bucket in zip(contents, vector["row_hashes"], vector["buckets_of_rows"], strict=True):
        assert f"{row_hash(vector['table'], line):064x}" == wanted
        assert bucket_of(key, vector["buckets"]) == bucket
    made = digest(contents, vector["buckets"], vector["table"])
    assert made.total() == Digest(len(contents), int(vector["sum"], 16))
