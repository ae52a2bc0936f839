"""JSON without rounding."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import Rejected
from replicator.ledger.exact_json import check_depth, depth_of, read, write, write_bytes

PLAIN = [
    "0",
    "-0",
    "1.10",
    "-0.0",
    "0.00000001",
    "123456789012345678901234567890.123456789",
    "9" * 300,
    "1" * 300 + ".5",
]

values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.decimals(allow_nan=False, allow_infinity=False, places=5)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@pytest.mark.parametrize("text", [text for text in PLAIN if text != "-0"])
def test_numbers_are_written_as_they_were_read(text: str) -> None:
    assert write(read(text.encode())) == text
    assert write(read(b'{"a":[%s,1.5]}' % text.encode())) == f'{{"a":[{text},1.5]}}'


@given(values)
def test_what_is_written_reads_back_as_the_same(value: Any) -> None:
    data = write_bytes(value)
    assert read(data) == value
    assert json.loads(data, parse_float=Decimal) == value  # as any other JSON reader sees it


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b'{"a":1,"a":2}', 400, "duplicate_name"),
        (b'{"a":{"b":1,"b":1}}', 400, "duplicate_name"),
        (b"NaN", 400, "not_json"),
        (b"[-Infinity]", 400, "not_json"),
        (b"1e1001", 422, "number_range"),
        (b"1e-1001", 422, "number_range"),
        (b"1e99999999999999999999999", 422, "number_range"),
        (b"0." + b"1" * 400, 422, "number_range"),
        (b"1" * 5000, 422, "number_range"),
        (b"[" * 100_000, 400, "too_deep"),
        (b"\xed\xa0\x80", 400, "not_json"),
        (b'"\n"', 400, "not_json"),
        (b"1 2", 400, "not_json"),
        (b"", 400, "not_json"),
        (b"\xef\xbb\xbf{}", 400, "not_json"),
    ],
)
def test_what_is_not_exact_json_is_refused(body: bytes, status: int, reason: str) -> None:
    with pytest.raises(Rejected) as caught:
        read(body)
    assert (caught.value.status, caught.value.reason) == (status, reason)


def test_lone_surrogates_are_refused_and_pairs_are_not() -> None:
    assert write_bytes(read(rb'"\ud83d\ude00"')) == '"😀"'.encode()
    with pytest.raises(Rejected, match=r"U\+D800"):
        write_bytes(read(rb'{"a":["\ud800"]}'))


def test_depth_is_counted() -> None:
    nested: Any = {}
    for _ in range(9):
        nested = {"a": [nested]} if isinstance(nested, dict) else [nested]
    assert depth_of(nested, 100) == 19
    check_depth(nested, write_bytes(nested), 19)
    with pytest.raises(Rejected, match="18 levels"):
        check_depth(nested, write_bytes(nested), 18)
    check_depth([[]] * 100, write_bytes([[]] * 100), 2)
