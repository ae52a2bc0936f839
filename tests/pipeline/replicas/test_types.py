"""Every built-in type: what a source server prints or sends is, text for text, what the replica holds.

Only xml is left out: the tests' servers are not built with it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from replicator.format.canonical import RowLines, line_of
from replicator.format.definition import Column, Definition
from replicator.format.row import unpack_row
from replicator.format.values import BINARY_KINDS, kind_of
from replicator.pipeline.replicas.base import Define, TableChange
from replicator.postgres.errors import REPLICA
from replicator.postgres.session import Database
from tests.contracts.replica_kinds import Kind, PostgresKind, SqliteKind, apply, contents, row
from tests.servers import Postgres

# Type and the literals that a source's user may have written.
VALUES: dict[str, list[str]] = {
    "boolean": ["t", "f"],
    "smallint": ["-32768", "0", "32767"],
    "integer": ["-2147483648", "7", "2147483647"],
    "bigint": ["-9223372036854775808", "9223372036854775807"],
    "oid": ["0", "4294967295"],
    "real": ["0.1", "-0", "NaN", "Infinity", "-Infinity", "1e-45", "3.4028235e38", "16777217", "1e6", "123456.7"],
    "double precision": ["0.1", "-0", "NaN", "Infinity", "-Infinity", "1e-300", "5e-324", "1e15", "36028797018963976"],
    "numeric": ["0", "0.000", "-1.50", "NaN", "Infinity", "-Infinity", "1e-300", "1e300", "12345678901234567890.0001"],
    "numeric(12,2)": ["0", "-9999999999.99", "12.3", "NaN"],
    "numeric(5,-2)": ["12345", "0"],
    "numeric(3,5)": ["0.00123"],
    "money": ["-1234567.89", "0"],
    "text": ["", " a ", "NULL", "\\N", "tab\tline\nquote'\"\\ end", "ünïcode €𝄞", "x" * 10_000],
    "character varying": ["", "abc  "],
    "character varying(5)": ["abc  ", "ünïcö"],
    "character(5)": ["", "abc", "abcde"],
    "character(1)": ["", "ü"],
    "bpchar": ["", "abc  "],
    '"char"': ["", "a", "\\200", "\\377"],
    "name": ["", "a" * 63],
    "bytea": ["\\x", "\\x00ff5c", "\\x" + "00" * 5000],
    "date": ["2024-02-29", "0001-01-01", "0044-03-15 BC", "4714-11-24 BC", "5874897-12-31", "infinity", "-infinity"],
    "timestamp without time zone": [
        "2024-02-29 23:59:59.999999",
        "2024-01-01",
        "0044-03-15 12:00:00.5 BC",
        "4714-11-24 00:00:00 BC",
        "294276-12-31 23:59:59.999999",
        "9999-12-31 23:59:59.999999",
        "10000-01-01",
        "0001-01-01",
        "0001-12-31 23:59:59.999999 BC",
        "infinity",
        "-infinity",
    ],
    "timestamp(3) without time zone": ["2024-02-29 23:59:59.123"],
    "timestamp with time zone": ["2024-02-29 12:00:00.1+05:30", "0044-03-15 12:00:00+00 BC", "infinity"],
    "timestamp(0) with time zone": ["2024-02-29 12:00:00+00"],
    "time without time zone": ["00:00:00", "24:00:00", "12:34:56.789"],
    "time(2) with time zone": ["12:34:56.78+05:30", "00:00:00-15:59"],
    "interval": ["1 year -2 mons +3 days -04:05:06.789", "-178000000 years", "00:00:00"],
    "interval day to second(3)": ["3 days 04:05:06.789"],
    "uuid": ["5f4dcc3b-5aa7-65d6-1d83-27deb882cf99"],
    "json": ['{"b": 1,  "a": [1.50, null]}', '"\\u0000"', " 1 "],
    "jsonb": ['{"b": 1, "a": [1.50, null, {"x": "ü"}]}', "1e400", '"x"'],
    "jsonpath": ['$."a"[*]?(@ > 1)'],
    "bit(5)": ["10101"],
    '"bit"': ["1"],
    "bit varying(7)": ["", "101"],
    "bit varying": ["", "1" * 100],
    "inet": ["10.0.0.1/8", "::1", "192.168.0.1"],
    "cidr": ["10.0.0.0/8", "2001:db8::/32"],
    "macaddr": ["08:00:2b:01:02:03"],
    "macaddr8": ["08:00:2b:01:02:03:04:05"],
    "point": ["(1.5,-0)"],
    "line": ["{1,2,3}"],
    "lseg": ["[(0,0),(1,1)]"],
    "box": ["(2,2),(0,0)"],
    "path": ["((0,0),(1,1))", "[(0,0),(1,1)]"],
    "polygon": ["((0,0),(1,1),(2,0))"],
    "circle": ["<(1,2),3>"],
    "tsvector": ["'a':1A,2 'fat':3", ""],
    "tsquery": ["'a' & !'b'", ""],
    "pg_lsn": ["16/B374D848"],
    "xid": ["4294967295"],
    "xid8": ["18446744073709551615"],
    "tid": ["(0,1)"],
    "txid_snapshot": ["10:20:10,14"],
    "pg_snapshot": ["10:20:10,14"],
    "regclass": ["pg_class"],
    "regtype": ["integer"],
    "regproc": ["now"],
    "int4range": ["[1,5)", "empty", "(,)"],
    "tstzrange": ["[2024-01-01 00:00:00+00,infinity)"],
    "nummultirange": ["{[1.5,2.0),(5,)}", "{}"],
    "integer[]": ["{}", "{1,NULL,3}", "[0:1]={1,2}", "{{1,2},{3,4}}"],
    "text[]": ['{"a,b","",NULL,"NULL","q\\"\\\\"}'],
    "character varying(3)[]": ["{abc,x}"],
    "numeric(6,2)[]": ["{1.50}"],
    "timestamp(3) with time zone[]": ['{"2024-02-29 12:00:00+00"}'],
    "bytea[]": ['{"\\\\x00ff"}'],
    'public."Mood"': ["sad", "very happy"],
    'public."Mood"[]': ['{sad,"very happy"}'],
    "public.pair": ["(1,x)"],
    "public.percent": ["50"],
    "stock.size": ["small"],
}
TYPES = """
CREATE TYPE "Mood" AS ENUM ('sad', 'very happy');
CREATE SCHEMA stock; CREATE TYPE stock.size AS ENUM ('small');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN percent AS int CHECK (value <= 100)
"""
PAD = 40  # makes batches that a replica writes in bulk


def _create_types(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(TYPES)


class Source:
    """A server's table with every value, read as text and in binary by its own output functions."""

    def __init__(self, dsn: str) -> None:
        _create_types(dsn)
        self.connection = Database(dsn, REPLICA).connect()

    def printed(self, kind: str, literal: str) -> str:
        found = self.connection.execute(f"SELECT '{literal.replace(chr(39), chr(39) * 2)}'::{kind}".encode())
        assert found.pgresult is not None
        data = found.pgresult.get_value(0, 0)
        assert data is not None
        return data.decode()

    def sent(self, kind: str, literal: str) -> bytes:
        cursor = self.connection.cursor(binary=True)
        cursor.execute(f"SELECT '{literal.replace(chr(39), chr(39) * 2)}'::{kind}".encode())
        assert cursor.pgresult is not None
        data = cursor.pgresult.get_value(0, 0)
        assert data is not None
        return data


@pytest.fixture(scope="module")
def source(postgres: Postgres) -> Iterator[Source]:
    made = Source(postgres.create_database("types_source"))
    yield made
    made.connection.close()


@pytest.fixture(params=["sqlite", "postgres", "postgres with the types"])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Kind:
    if request.param == "sqlite":
        return SqliteKind(tmp_path / "replica.db")
    new_database: Callable[[], str] = request.getfixturevalue("new_database")
    dsn = new_database()
    if request.param != "postgres":
        _create_types(dsn)
    return PostgresKind(dsn)


@pytest.mark.parametrize("in_bulk", [False, True])
def test_text_rows_keep_their_text(kind: Kind, source: Source, in_bulk: bool) -> None:
    """One wide table: a column for each type, a row for each value."""
    columns = [Column("id", "integer"), *(Column(f"c{n}", name) for n, name in enumerate(VALUES))]
    wide = Definition("public", "wide", tuple(columns), ("id",))
    printed = {name: [source.printed(name, text) for text in texts] for name, texts in VALUES.items()}
    height = max(PAD if in_bulk else 0, *map(len, printed.values()))
    rows: list[list[str | None]] = [
        [str(n), *(texts[n] if n < len(texts) else None for texts in printed.values())] for n in range(height)
    ]
    images = [row(*cells) for cells in rows]
    replica = kind.replica()
    replica.open()
    apply(replica, 1, Define(1, wide))
    for number, image in enumerate(images[: None if not in_bulk else 0]):
        apply(replica, 2 + number, TableChange(wide, [], [], [], [image], []))
    if in_bulk:
        apply(replica, 2, TableChange(wide, [], [], [], images, []))
    replica.close()
    _assert_equal(contents(kind, "wide"), rows, list(VALUES))
    _assert_lines(kind, wide, rows)


@pytest.mark.parametrize("in_bulk", [False, True])
def test_binary_rows_have_the_servers_text(kind: Kind, source: Source, in_bulk: bool) -> None:
    names = [name for name in VALUES if kind_of(name) in BINARY_KINDS]
    assert len({kind_of(name) for name in names}) == len(BINARY_KINDS)
    columns = [Column("id", "integer", "binary"), *(Column(f"c{n}", name, "binary") for n, name in enumerate(names))]
    wide = Definition("public", "wide", tuple(columns), ("id",))
    height = max(PAD if in_bulk else 0, *(len(VALUES[name]) for name in names))

    def value(name: str, n: int) -> str | None:
        return VALUES[name][n] if n < len(VALUES[name]) else None

    images, rows = [], []
    for n in range(height):
        literals = [value(name, n) for name in names]
        pairs = [(name, text) for name, text in zip(names, literals, strict=True)]
        images.append(row(struct.pack(">i", n), *(None if t is None else source.sent(k, t) for k, t in pairs)))
        rows.append([str(n), *(None if t is None else source.printed(k, t) for k, t in pairs)])
    replica = kind.replica()
    replica.open()
    apply(replica, 1, Define(1, wide))
    for number, image in enumerate(images[: None if not in_bulk else 0]):
        apply(replica, 2 + number, TableChange(wide, [], [], [], [], [image]))
    if in_bulk:
        apply(replica, 2, TableChange(wide, [], [], [], [], images))
    replica.close()
    _assert_equal(contents(kind, "wide"), rows, names)
    _assert_lines(kind, wide, rows)
    lines = RowLines(wide)
    assert [lines.line(unpack_row(image)) for image in images] == [_line(lines, cells) for cells in rows]


def _line(lines: RowLines, cells: list[str | None]) -> bytes:
    return line_of([cells[place] for place in lines.places])


def _assert_lines(kind: Kind, wide: Definition, rows: list[list[str | None]]) -> None:
    """The replica's lines are those of what the source printed; a digest is the same through every engine."""
    lines = RowLines(wide)
    expected = sorted((str(cells[0]).encode(), _line(lines, cells)) for cells in rows)
    reader = kind.reader()
    assert sorted(row for chunk in reader.lines("wide") for row in chunk) == expected
    assert sorted(reader.lines_of("wide", [[str(cells[0])] for cells in rows] + [["999999"]])) == expected
    reader.close()


def _assert_equal(found: list[list[str | None]], rows: list[list[str | None]], names: list[str]) -> None:
    by_id = {cells[0]: cells for cells in found}
    assert len(by_id) == len(found) == len(rows)
    wrong = [
        (name, wanted, got)
        for cells in rows
        for name, wanted, got in zip(names, cells[1:], by_id[cells[0]][1:], strict=True)
        if wanted != got
    ]
    assert wrong == []
