"""The journal's tables.

page        contiguous blocks as frames (``format/wire.py``), written in one group commit; never changed afterwards.
            ``first`` and ``last`` are sequences; ``high_at`` is the latest committed_at up to and with this page, so it
            never falls and finds a start time by index although clocks jump; ``large``: one large block, body in parts
part        the pieces of large blocks; those beyond the last page belong to a transaction still arriving
definition  the table definitions that blocks brought, by relation
note        facts beside the chain, in the source's or follower's own words
follower    the regions that have followed this one, and up to where each of them has everything durably

What retention removes goes page by page: the note ``base:STRAND`` moves in the same transaction. Parts of a large block
whose page has gone (up to the base) are remains, and go a little later. Sealed orphans are cut off the end
(``truncate``): pages, definitions and what is noted beyond go in one transaction, parts a little later.
"""

from __future__ import annotations

from sqlite_utils import Database, Migrations

migrations = Migrations("journal")

FORMAT_1 = (
    """
    CREATE TABLE page (
        strand TEXT NOT NULL, last INTEGER NOT NULL, first INTEGER NOT NULL, high_at INTEGER NOT NULL,
        large INTEGER NOT NULL, data BLOB NOT NULL
    )
    """,
    "CREATE UNIQUE INDEX page_by_sequence ON page (strand, last)",
    "CREATE INDEX page_by_time ON page (strand, high_at, last)",
    """
    CREATE TABLE part (
        strand TEXT NOT NULL, sequence INTEGER NOT NULL, number INTEGER NOT NULL,
        statements INTEGER NOT NULL, data BLOB NOT NULL
    )
    """,
    "CREATE UNIQUE INDEX part_by_number ON part (strand, sequence, number)",
    """
    CREATE TABLE definition (
        strand TEXT NOT NULL, relation INTEGER NOT NULL, sequence INTEGER NOT NULL, data BLOB NOT NULL,
        PRIMARY KEY (strand, relation)
    )
    """,
    "CREATE TABLE note (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
)


@migrations()
def first_form(database: Database) -> None:
    """The tables of format 1."""
    for statement in FORMAT_1:
        database.conn.execute(statement)


@migrations()
def followers(database: Database) -> None:
    """The regions that have followed; ``forgotten`` is why an operator gave one up."""
    database.conn.execute(
        """
        CREATE TABLE follower (
            strand TEXT NOT NULL, region TEXT NOT NULL, sequence INTEGER NOT NULL, reported_at INTEGER NOT NULL,
            forgotten TEXT, PRIMARY KEY (strand, region)
        )
        """
    )
