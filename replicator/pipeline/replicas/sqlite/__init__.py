"""The SQLite replica: an ordinary file that ``sqlite3`` opens, and the state of the embedded ledger.

Guarantee: ``base.py``'s. A commit survives the death of the process; after a loss of power the file may stand at an
earlier position, whole, and the region's journal replays the rest (``synchronous = NORMAL`` in WAL mode). Values keep
their canonical text (``format/values.py`` has the mapping of types). Names are the source's; outside the schema
``public`` the schema goes before the table's name: ``"audit.events"``. Only the key is a constraint: the primary has
checked the others. Keys are told apart, and ordered, by what is stored, as in PostgreSQL's ``C`` collation; numeric
keys are text.

Where to look: ``replica`` (the transaction and its steps), ``rows`` (pure: a definition's SQL and decoders), ``schema``
(create, adopt, follow), ``reader``, ``check`` (preflight). Non-goal: keeping a second writer out; the caller locks the
data directory.
"""

from replicator.pipeline.replicas.sqlite.reader import SqliteReader
from replicator.pipeline.replicas.sqlite.replica import SqliteReplica

__all__ = ["SqliteReader", "SqliteReplica"]
