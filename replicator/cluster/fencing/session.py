"""The fence's sessions: the one session layer, where no step may wait long."""

from __future__ import annotations

from replicator.postgres.errors import FENCE
from replicator.postgres.nonblocking import NonblockingSession
from replicator.postgres.session import Database
from replicator.postgres.settings import APPLICATION_NAME, READ_WRITE, WRITER

CONNECT_SECONDS = 2
PEER_SECONDS = 10
GUARD_NAME = f"{APPLICATION_NAME} guard"
_PURPOSE = {
    **WRITER,
    **READ_WRITE,
    "client_connection_check_interval": "0",  # a guard stays when its sidecar is gone: that is what it is for
}


def database_of(dsn: str) -> Database:
    """The database that is fenced. Opens nothing."""
    return Database(dsn, FENCE, connect_seconds=CONNECT_SECONDS, peer_seconds=PEER_SECONDS)


async def connect(database: Database, name: str | None = None, **settings: str) -> NonblockingSession:
    """A session under the sidecar's name, or another. Raises Unavailable or Halted."""
    return await NonblockingSession.connect(database, {**_PURPOSE, **settings}, name)
