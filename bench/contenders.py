"""Who is measured: PostgreSQL's own subscription, and this project into each kind of replica.

All copy the same table between the same two servers, with default settings, and are watched in the same way: by the
highest id that the replica shows, an index look-up, so that watching costs next to nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg

from bench.setting import seconds_until
from replicator.storage.sqlite import connect
from tests.e2e.sidecars import Sidecar, sequence
from tests.servers import Postgres

TABLE = "CREATE TABLE event (id bigint PRIMARY KEY, user_id int, amount bigint, note text)"
NOTE = "a note of some length for the row"
_HIGHEST = "SELECT coalesce(max(id), 0) FROM event"

Seen = Callable[[], int]  # the highest id that the replica shows


def begin_anew(primary: Postgres) -> None:
    """The table with a first row, the id 1: nobody has more to copy and to look through than who came before."""
    with primary.connect("ledger") as connection:
        connection.execute("DROP TABLE IF EXISTS event")
        connection.execute(TABLE.encode())
        connection.execute("INSERT INTO event VALUES (1, 1, 1, 'first')")


class Subscription:
    """PostgreSQL's subscription, default settings; copied and running when it is made."""

    name = "PostgreSQL's subscription"

    def __init__(self, primary: Postgres, replica: Postgres) -> None:
        with primary.connect("ledger") as connection:
            connection.execute("CREATE PUBLICATION peer FOR TABLE event")
        replica.create_database("peer")
        self._connection = replica.connect("peer")
        self._connection.execute(TABLE.encode())
        self._connection.execute(
            f"CREATE SUBSCRIPTION peer CONNECTION '{primary.dsn('ledger')}' PUBLICATION peer".encode()
        )
        self.seen = _postgres_seen(replica.dsn("peer"))
        seconds_until(lambda: self.seen() >= 1)

    def stop(self) -> None:
        """Stop it; the primary keeps what it will need."""
        self._connection.execute("ALTER SUBSCRIPTION peer DISABLE")

    def start(self) -> None:
        """Start it again."""
        self._connection.execute("ALTER SUBSCRIPTION peer ENABLE")

    def end(self) -> None:
        """It is gone, and nothing of it is left on the primary."""
        self._connection.execute("DROP SUBSCRIPTION peer")
        self._connection.close()


class Project:
    """Two sidecars, one at the primary and one beside a replica of this kind; copied and running when it is made."""

    def __init__(
        self, home: Path, primary: Postgres, replica: Postgres, kind: str, sections: str = "", names: str = ""
    ) -> None:
        """``sections`` is added to the region's configuration; ``names`` tells slots and databases apart."""
        names = names or kind
        self.name = f"this project, to {kind}"
        self._source = Sidecar(
            home,
            f"primary-{kind}",
            "primary",
            f'[source]\nkind = "postgres"\ndsn = "{primary.dsn("ledger")}"\n'
            f'slot = "bench_{names}"\npublication = "bench_{names}"\n',
        )
        # The region is up first and waits for the primary's sidecar: how often it looks is not what is measured.
        follow = f'[follow]\nprimary = "{self._source.url}"\nreconnect_min = "50ms"\nreconnect_max = "50ms"\n\n'
        if kind == "postgres":
            target = f'kind = "postgres"\ndsn = "{replica.create_database(f"ours_{names}")}"\n'
        else:
            target = 'kind = "sqlite"\npath = "ledger.db"\n'
        self._region = Sidecar(home, f"replica-{kind}", "replica", f"{follow}{sections}[replica]\n{target}")
        self.start()
        self._region.reach(lambda status: sequence(status, "applied") >= 1, "the copy")
        path = self._region.directory / "ledger.db"
        self.seen = _postgres_seen(replica.dsn(f"ours_{names}")) if kind == "postgres" else _sqlite_seen(path)

    def start(self) -> None:
        """Start the region's sidecar, then, once it is up, the primary's."""
        self._region.start()
        self._region.reach(lambda status: True, "the status page")
        self._source.start()

    def stop(self) -> None:
        """Kill both: that is how sidecars may be stopped."""
        self._region.end()
        self._source.end()

    end = stop


def _postgres_seen(dsn: str) -> Seen:
    connection = psycopg.connect(dsn, autocommit=True)

    def seen() -> int:
        row = connection.execute(_HIGHEST).fetchone()
        assert row is not None
        return int(row[0])

    return seen


def _sqlite_seen(path: Path) -> Seen:
    connection = connect(path, synchronous="NORMAL", read_only=True)
    return lambda: int(connection.execute(_HIGHEST).fetchone()[0])


Contender = Subscription | Project


@contextlib.contextmanager
def contender(home: Path, primary: Postgres, replica: Postgres, kind: str) -> Iterator[Contender]:
    """The contender of this kind: ``subscription``, ``postgres`` or ``sqlite``."""
    begin_anew(primary)
    made = Subscription(primary, replica) if kind == "subscription" else Project(home, primary, replica, kind)
    try:
        yield made
    finally:
        made.end()


KINDS = ["subscription", "postgres", "sqlite"]
