"""The PostgreSQL replica: an ordinary database, written to with COPY and merges.

Guarantee: ``base.py``'s. Commits do not wait for the disk (``synchronous_commit = off``): after a crash of the server
it may stand at an earlier position, with exactly the rows of that position, and the region's own journal replays the
rest. Waiting would buy nothing: the journal was durable before. A session lock keeps a second sidecar out, and keeps a
reconnecting one waiting until its former session, whose commit may still be under way, has ended.

Types are kept as they are where this server has them (built-in types; enums, ranges and extension types of the same
name); composites, domains and whatever is not known here become ``text``. Only the key is a constraint: the primary
has checked the others. Columns fed by a sequence get it as their default, so that a promoted region hands out new
numbers.

Where to look: ``replica`` (the transaction and its steps), ``bulk`` and ``few`` (the two ways of writing rows),
``rows`` (pure: a definition's SQL), ``schema`` (create, adopt, follow), ``sequences``, ``session`` (connecting,
errors), ``reader``, ``check`` (preflight).
"""

from replicator.pipeline.replicas.postgres.reader import PostgresReader
from replicator.pipeline.replicas.postgres.replica import PostgresReplica

__all__ = ["PostgresReader", "PostgresReplica"]
