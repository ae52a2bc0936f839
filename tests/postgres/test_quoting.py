"""Whatever is in a name or a text, the server reads it as it was."""

from __future__ import annotations

import pytest

from replicator.postgres.errors import SOURCE
from replicator.postgres.quoting import array, listed, literal, quoted
from replicator.postgres.session import Database
from tests.servers import Postgres

HARD = ["plain", "With Space", 'quo"te', "apo'strophe", "back\\slash", "'; DROP TABLE x; --", "%s", "ünï.cöde", "{a,b}"]


def test_a_server_reads_them_back(postgres: Postgres) -> None:
    with Database(postgres.dsn(), SOURCE).session() as db:
        for text in HARD:
            assert db.execute(f"SELECT {literal(text)} AS {quoted(text)}".encode()).fetchall() == [(text,)]
            found = db.execute(f"SELECT {literal(text)} AS {quoted(text)}".encode()).description
            assert found is not None
            assert found[0].name == text
        assert db.execute("SELECT %s::text[]", [array(HARD)]).fetchall() == [(HARD,)]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (quoted("a"), '"a"'),
        (quoted('odd"one', "b.c"), '"odd""one"."b.c"'),
        (listed(["a", "B"]), '"a", "B"'),
        (array([]), "{}"),
    ],
)
def test_their_form(found: str, expected: str) -> None:
    assert found == expected
