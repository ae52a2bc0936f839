"""Values against a real server: what it prints for its binary forms is what we print, hard ones and random ones."""

from __future__ import annotations

import random
import struct
from decimal import Decimal

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import Rejected
from replicator.format.definition import Column
from replicator.format.floats import float4_text, float8_text
from replicator.format.values import (
    BINARY_KINDS,
    json_of,
    kind_of,
    sqlite_type,
    storage_from_text,
    storage_of,
    stored_text,
    text_of,
)
from replicator.pipeline.replicas.keys import checked_text
from replicator.postgres.errors import REPLICA
from replicator.postgres.session import Database
from tests.servers import Postgres

SEED = 20_240_229


def printed(postgres: Postgres, kind: str, values: list[bytes]) -> list[str]:
    """The server's text of these binary values."""
    connection = Database(postgres.dsn(), REPLICA).connect()
    with connection:
        connection.execute(f"CREATE TEMP TABLE v (n int, v {kind})".encode())
        with connection.cursor() as cursor, cursor.copy(b"COPY v FROM STDIN (FORMAT binary)") as copy:
            copy.write(b"PGCOPY\n\xff\r\n\x00" + bytes(8))
            for number, value in enumerate(values):
                copy.write(struct.pack(">hiii", 2, 4, number, len(value)) + value)
            copy.write(b"\xff\xff")
        found = connection.execute("SELECT v FROM v ORDER BY n").pgresult
        assert found is not None
        return [(found.get_value(row, 0) or b"").decode() for row in range(found.ntuples)]


def doubles() -> list[float]:
    source = random.Random(SEED)
    found = [struct.unpack(">d", source.randbytes(8))[0] for _ in range(5000)]
    found += [2.0**power for power in range(-1074, 1024)] + [10.0**power for power in range(-320, 309)]
    # Decimals on the border between two doubles: Python's shortest text takes it, PostgreSQL's does not.
    found += [
        float(5 ** source.randrange(1, 23) * source.randrange(1, 10**5) * 2 ** source.randrange(80))
        for _ in range(3000)
    ]
    found += [source.randrange(1, 10**9) / 100 for _ in range(1000)]
    return [*found, 0.0, -0.0, float("nan"), float("inf"), -float("inf"), 36028797018963976.0]


def reals() -> list[float]:
    source = random.Random(SEED)
    found = [struct.unpack(">f", source.randbytes(4))[0] for _ in range(8000)]
    found += [2.0**power for power in range(-149, 128)]
    found += [struct.unpack(">f", struct.pack(">I", bits))[0] for bits in range(1, 1000)]
    return [*found, 0.0, -0.0, float("nan"), float("inf")]


def test_doubles_print_as_the_server_prints_them(postgres: Postgres) -> None:
    values = doubles()
    assert [float8_text(value) for value in values] == printed(
        postgres, "float8", [struct.pack(">d", value) for value in values]
    )


def test_reals_print_as_the_server_prints_them(postgres: Postgres) -> None:
    values = reals()
    assert [float4_text(value) for value in values] == printed(
        postgres, "float4", [struct.pack(">f", value) for value in values]
    )


@pytest.mark.parametrize(
    ("kind", "form", "low", "high"),
    [
        ("timestamp", ">q", -211_813_488_000_000_000, 9_223_371_331_199_999_999),
        ("timestamptz", ">q", -211_813_488_000_000_000, 9_223_371_331_199_999_999),
        ("date", ">i", -2_451_545, 2_145_031_948),
    ],
)
def test_moments_print_as_the_server_prints_them(postgres: Postgres, kind: str, form: str, low: int, high: int) -> None:
    source = random.Random(SEED)
    size = struct.calcsize(form) * 8
    numbers = [low, high, 0, -1, 1, 2 ** (size - 1) - 1, -(2 ** (size - 1))]
    numbers += [source.randrange(low, high) for _ in range(3000)]
    day = 86_400_000_000 if size == 64 else 1
    edges = [-730_119, -730_120, -730_485, 2_921_940 - 1, 2_921_940]  # the ends of the years 1 BC, 1, 9999
    numbers += [number * day + step for number in edges for step in (-1, 0, 1)]
    numbers += [source.randrange(-700_000, 700_000) * day + source.randrange(10**6) * (day > 1) for _ in range(2000)]
    values = [struct.pack(form, number) for number in numbers]
    read = text_of(Column("v", kind, "binary"))
    assert [read(value) for value in values] == printed(postgres, kind, values)


def test_numerics_print_as_the_server_prints_them(postgres: Postgres) -> None:
    source = random.Random(SEED)
    texts = ["0", "0.0", "-0.000", "NaN", "Infinity", "-Infinity", "1e-300", "1e300", "0.0001", "10000", "9999.9999"]
    texts += ["1e-16383", "1e131071", "123456789012345678901234567890.000000000000000000000000000000000001"]
    for _ in range(3000):
        digits = str(source.randrange(10 ** source.randrange(1, 40)))
        texts.append(f"{source.choice(['', '-'])}{digits}e{source.randrange(-45, 25)}")
    with psycopg.connect(postgres.dsn(), autocommit=True) as connection:
        connection.execute("CREATE TEMP TABLE v (n serial, v numeric)")
        with connection.cursor().copy("COPY v (v) FROM STDIN") as copy:
            copy.write("".join(f"{text}\n" for text in texts))
        wanted = [text for (text,) in connection.execute("SELECT v::text FROM v ORDER BY n")]
        sent = connection.execute("SELECT v FROM v ORDER BY n", binary=True).pgresult
        assert sent is not None
        read = text_of(Column("v", "numeric", "binary"))
        assert [read(sent.get_value(row, 0) or b"") for row in range(sent.ntuples)] == wanted


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("integer", b"\x00\x01\x02"),
        ("boolean", b""),
        ("boolean", b"tt"),
        ("real", b"\x00"),
        ("double precision", b"\x00" * 9),
        ("numeric", b"\x00\x01"),
        ("numeric", b"\x00\x02\x00\x00\x00\x00\x00\x00\x00\x01"),
        ("uuid", b"\x00" * 15),
        ("jsonb", b"\x02{}"),
        ("text", b"\xff"),
        ("date", b"\x00" * 5),
        ("timestamp without time zone", b"\x00" * 7),
    ],
)
def test_bytes_that_are_no_value_are_refused(kind: str, data: bytes) -> None:
    for read in (text_of(Column("v", kind, "binary")), storage_of(Column("v", kind, "binary"))):
        with pytest.raises((ValueError, struct.error)):
            read(data)


def test_types_without_a_known_binary_form_are_refused() -> None:
    with pytest.raises(ValueError, match="interval"):
        text_of(Column("v", "interval", "binary"))
    with pytest.raises(ValueError, match="interval"):
        storage_of(Column("v", "interval", "binary"))


@pytest.mark.parametrize(
    ("sql_type", "kind", "stored"),
    [
        ("numeric(12,2)", "numeric", "TEXT"),
        ("timestamp(3) without time zone", "timestamp", "TEXT"),
        ("timestamp with time zone", "timestamptz", "TEXT"),
        ("character varying(10)", "varchar", "TEXT"),
        ("character(3)", "bpchar", "TEXT"),
        ('"char"', '"char"', "TEXT"),
        ("int8", "int8", "INTEGER"),
        ("boolean", "bool", "INTEGER"),
        ("double precision", "float8", "REAL"),
        ("bytea", "bytea", "BLOB"),
        ("integer[]", "integer[]", "TEXT"),
    ],
)
def test_types_are_known_by_their_names(sql_type: str, kind: str, stored: str) -> None:
    assert (kind_of(sql_type), sqlite_type(sql_type)) == (kind, stored)


def test_the_binary_kinds_are_those_that_sources_may_send() -> None:
    names = (
        "bool int2 int4 int8 float4 float8 text varchar bpchar bytea timestamp timestamptz date uuid json jsonb numeric"
    )
    assert set(names.split()) == BINARY_KINDS


def through_storage(kind: str, text: str) -> str | None:
    column = Column("v", kind)
    return stored_text(column)(storage_from_text(column, text))


@given(st.floats(width=64))
def test_doubles_keep_their_text_in_storage(value: float) -> None:
    assert through_storage("double precision", float8_text(value)) == float8_text(value)


@given(st.floats(width=32))
def test_reals_keep_their_text_in_storage(value: float) -> None:
    text = float4_text(value)
    assert through_storage("real", text) == text
    stored = storage_of(Column("v", "real", "binary"))(struct.pack(">f", value))
    assert stored_text(Column("v", "real"))(stored) == text


@given(st.binary())
def test_bytes_keep_their_text_in_storage(value: bytes) -> None:
    assert through_storage("bytea", "\\x" + value.hex()) == "\\x" + value.hex()


@pytest.mark.parametrize(
    ("kind", "stored", "text"),
    [
        ("integer", "x", "x"),
        ("boolean", 7, "7"),
        ("real", b"x", "b'x'"),
        ("real", 1e300, "1e+300"),
        ("double precision", "x", "x"),
        ("bytea", "x", "x"),
        ("text", b"x", "b'x'"),
        ("text", None, None),
    ],
)
def test_what_another_program_stored_is_seen_as_it_is(kind: str, stored: int | str | bytes, text: str) -> None:
    assert stored_text(Column("v", kind))(stored) == text


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("integer", "-5", -5),
        ("boolean", "t", True),
        ("real", "0.1", 0.1),
        ("double precision", "NaN", "NaN"),
        ("double precision", "-Infinity", "-Infinity"),
        ("numeric", "1.50", "1.50"),
        ("bytea", "\\x00", "\\x00"),
        ("text", "1", "1"),
        ("jsonb", '{"a": 1.10, "b": [true, null]}', {"a": Decimal("1.10"), "b": [True, None]}),
        ("json", "[" * 100_000, "[" * 100_000),
        ("json", "9" * 5000, "9" * 5000),
    ],
)
def test_json_values(kind: str, text: str, value: object) -> None:
    assert json_of(Column("v", kind))(text) == value


@pytest.mark.parametrize(
    ("kind", "text", "canonical"),
    [
        ("integer", "+007", "7"),
        ("bigint", "-9223372036854775808", "-9223372036854775808"),
        ("boolean", "TRUE", "t"),
        ("numeric(12,2)", "1.5", "1.50"),
        ("numeric(12,2)", "-0", "0.00"),
        ("numeric", "1e3", "1000"),
        ("numeric", "NaN", "NaN"),
        ("character(3)", "a", "a  "),
        ("uuid", "{5F4DCC3B5AA765D61D8327DEB882CF99}", "5f4dcc3b-5aa7-65d6-1d83-27deb882cf99"),
        ("date", "2024-02-29", "2024-02-29"),
        ("date", "0044-03-15 BC", "0044-03-15 BC"),
        ("timestamp without time zone", "2024-02-29T12:00:00.500", "2024-02-29 12:00:00.5"),
        ("timestamp with time zone", "2024-02-29T12:00:00+05:30", "2024-02-29 06:30:00+00"),
        ("timestamp with time zone", "2024-02-29T12:00:00Z", "2024-02-29 12:00:00+00"),
        ("bytea", "00FF", "\\x00ff"),
        ("real", "0.10", "0.1"),
        ("text", " as it is ", " as it is "),
    ],
)
def test_keys_from_outside_become_canonical(kind: str, text: str, canonical: str) -> None:
    assert checked_text(Column("k", kind), text) == canonical


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("integer", "2147483648"),
        ("integer", "1.0"),
        ("integer", "٣"),
        ("smallint", ""),
        ("boolean", "yes please"),
        ("numeric(12,2)", "1.505"),
        ("numeric", "1e999999999"),
        ("numeric", "sNaN"),
        ("uuid", "x"),
        ("date", "2024-02-30"),
        ("timestamp with time zone", "now"),
        ("bytea", "0"),
        ("double precision", "x"),
        ("text", "\x00"),
        ("text", "\ud800"),
        ("text", "x" * 9000),
    ],
)
def test_keys_that_are_not_of_their_type_are_rejected(kind: str, text: str) -> None:
    with pytest.raises(Rejected) as caught:
        checked_text(Column("k", kind), text)
    assert caught.value.reason == "bad_key"
    str(caught.value).encode()  # what is said of it can be sent
