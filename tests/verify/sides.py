"""A side of a comparison whose rows are given: the protocol, with a list in place of a database."""

from __future__ import annotations

from collections.abc import Sequence

from replicator.format.canonical import line_of
from replicator.format.digest import Digest, TableDigest, bucket_of
from replicator.format.position import Position, genesis
from replicator.pipeline.replicas.base import KeyedLine
from replicator.verify.evidence import Evidence, KeyQuestion
from replicator.verify.side import TableHead

Row = list[str | None]


class ListedSide:
    """See ``replicator.verify.side.Side``. Columns of rows stand in line order."""

    def __init__(self, name: str, tables: Sequence[tuple[TableHead, Sequence[Row]]]) -> None:
        self.name = name
        self.position = genesis("main")
        self.tables = {head.label: head for head, _ in tables}
        self.rows_read = 0
        self.says: dict[bytes, Evidence] = {}
        self._rows = {head.label: [_keyed(head, row) for row in rows] for head, rows in tables}

    async def pause(self) -> Position:
        return self.position

    async def go_on(self) -> None:
        pass

    async def fix(self, at: int | None) -> None:
        pass

    async def end(self) -> None:
        pass

    async def digests(self, label: str, buckets: int) -> dict[int, Digest]:
        digest = TableDigest(label, buckets)
        digest.add(self._rows[label])
        return digest.buckets()

    async def rows(self, label: str, buckets: int, wanted: Sequence[int]) -> list[KeyedLine]:
        found = [row for row in self._rows[label] if bucket_of(row[0], buckets) in wanted]
        self.rows_read += len(found)
        return found

    async def evidence(self, label: str, questions: Sequence[KeyQuestion]) -> list[Evidence]:
        return [self.says.get(question.key, Evidence(known=False)) for question in questions]


def _keyed(head: TableHead, row: Row) -> KeyedLine:
    line = line_of(row)
    return (line_of(row[: len(head.key)]) if head.key else line, line)
