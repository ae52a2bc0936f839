"""Copies of this region for others: the moment is held here, the rows are asked for chunk by chunk.

    POST   /v1/copy?chunk_rows=N     begin; ``Feed-Region`` names the region that is made anew (``wire.CopyStart``)
    GET    /v1/copy                  what a copy of now would be: position, tables, rows about. Changes nothing
    GET    /v1/copy/{id}/{number}    a chunk: the next one, or one of the last two again
    DELETE /v1/copy/{id}             done; lets go of the moment

    404 no_such_copy    it ended, was not asked for in time, or this sidecar was started anew: begin another one
    429 too_many_copies

Guarantee: all chunks of a copy are of one moment. It ends by itself ``hold_seconds`` after the last request, when its
region begins another one, or when its database connection breaks; nobody who dies can hold a moment for ever.
Meanwhile, on PostgreSQL, statements that rewrite, empty or alter a table wait. Non-goal: keeping the journal for the
region that is made anew; it tells whom it will follow that it has everything up to the moment.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections import deque
from collections.abc import Callable, Iterator

import trio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from replicator.errors import Rejected
from replicator.pipeline.copies.snapshot_reader import CopyReader, chunks
from replicator.pipeline.copies.wire import CONTENT_TYPE, Chunk, CopyEnd, CopyStart, in_force, pack_begun, pack_chunk
from replicator.pipeline.replicas.base import SetSequence
from replicator.pipeline.replicas.moments import Moment, Moments
from replicator.storage.journal.store import Journal
from replicator.transport.query import whole_number

COPIES_LIMIT = 16
CHUNK_ROWS = 5_000
KEPT_CHUNKS = 2  # one that was not committed at the other end, and one asked for ahead of it
ATTEMPTS = 5
LOOK_SECONDS = 0.5

log = logging.getLogger("replicator")


class _Copy:
    """A copy that is under way: for which region, of which moment, what is left of it, and the last chunks packed."""

    def __init__(self, region: str, moment: Moment, chunks_left: Iterator[Chunk | CopyEnd]) -> None:
        self.region = region
        self.moment = moment
        self.chunks_left = chunks_left
        self.sent: deque[tuple[int, bytes]] = deque(maxlen=KEPT_CHUNKS)
        self.asked_at = trio.current_time()
        self.reading = trio.Lock()


class Copies:
    """The copies of one strand. ``sequences`` gives the values of the ledger's sequences, asked for at a copy's end."""

    def __init__(
        self,
        journal: Journal,
        strand: str,
        moments: Moments,
        hold_seconds: float,
        sequences: Callable[[CopyReader], list[SetSequence]] = lambda reader: reader.sequences(),
    ) -> None:
        self._journal = journal
        self._strand = strand
        self._moments = moments
        self._hold_seconds = hold_seconds
        self._sequences = sequences
        self._copies: dict[str, _Copy] = {}
        self._beginning = 0

    def routes(self) -> list[Route]:
        """The copies' part of the HTTP surface."""
        return [
            Route("/v1/copy", self._begin, methods=["POST"]),
            Route("/v1/copy", self._plan, methods=["GET"]),
            Route("/v1/copy/{copy}/{number}", self._chunk, methods=["GET"]),
            Route("/v1/copy/{copy}", self._end, methods=["DELETE"]),
        ]

    async def run(self) -> None:
        """Let go of what is not asked for any more, for ever."""
        try:
            while True:
                await trio.sleep(LOOK_SECONDS)
                for name, copy in list(self._copies.items()):
                    if trio.current_time() - copy.asked_at > self._hold_seconds and not copy.reading.locked():
                        log.warning("the copy for region %s was not asked for in time: it is let go", copy.region)
                        self._let_go(name)
        finally:
            for name in list(self._copies):
                self._let_go(name)

    def _let_go(self, name: str) -> None:
        copy = self._copies.pop(name, None)
        if copy is not None:
            copy.moment.reader.close()

    # -- answers

    async def _begin(self, request: Request) -> Response:
        chunk_rows = whole_number(request.query_params.get("chunk_rows", str(CHUNK_ROWS)), "chunk_rows")
        region = request.headers.get("feed-region", "")[:64]
        for name, copy in list(self._copies.items()):
            if region and copy.region == region and not copy.reading.locked():
                self._let_go(name)  # it begins anew: it has given that one up
        if len(self._copies) + self._beginning >= COPIES_LIMIT:
            message = f"{COPIES_LIMIT} copies are under way"
            raise Rejected("too_many_copies", message, status=429, retry_after=30, place="copy", cure="try again later")
        self._beginning += 1  # it counts from now on: to fix a moment takes a while, and others may ask
        try:
            moment, start = await self._fixed()
        finally:
            self._beginning -= 1
        reader = _copy_reader(moment)
        # A table that was dropped has no rows any more; whoever follows has it, empty, for older blocks speak of it.
        gone = {definition.name for definition in reader.missing()}
        tables = {n: each for n, each in in_force(start.definitions).values() if each.name not in gone}
        chunks_left = chunks(
            reader,
            tables,
            start.position.sequence,
            lambda: self._sequences(reader),
            max(1, min(chunk_rows, CHUNK_ROWS)),
        )
        self._copies[start.copy] = _Copy(region, moment, chunks_left)
        log.info("a copy for region %s is begun at %s", region, start.position)
        return Response(pack_begun(start), media_type=CONTENT_TYPE)

    async def _plan(self, request: Request) -> Response:
        moment, start = await self._fixed()
        with contextlib.closing(moment.reader):
            reader = _copy_reader(moment)
            names = [definition.label for definition in await trio.to_thread.run_sync(reader.tables)]
            about = {name: await trio.to_thread.run_sync(reader.about_rows, name) for name in sorted(names)}
        return JSONResponse({"position": str(start.position), "rows": start.rows, "tables": about})

    async def _chunk(self, request: Request) -> Response:
        name, number = request.path_params["copy"], whole_number(request.path_params["number"], "number")
        copy = self._copy(name)
        async with copy.reading:
            copy.asked_at = trio.current_time()
            for sent, data in copy.sent:
                if sent == number:
                    return Response(data, media_type=CONTENT_TYPE)
            # Let go while this request waited for the one before it; or not the next one: rows are read only once.
            if name not in self._copies or number != (copy.sent[-1][0] + 1 if copy.sent else 1):
                raise _no_such_copy(name)
            with trio.CancelScope(shield=True):  # whoever asked may be gone: it comes back for the very chunk
                data = await self._next(name, copy, number)
            return Response(data, media_type=CONTENT_TYPE)

    async def _next(self, name: str, copy: _Copy, number: int) -> bytes:
        try:
            chunk = await trio.to_thread.run_sync(next, copy.chunks_left, None)
        except BaseException:
            self._let_go(name)  # the moment went with its connection, or the reading is half done
            raise
        if chunk is None:
            raise _no_such_copy(name)
        data = pack_chunk(chunk)
        copy.sent.append((number, data))
        copy.asked_at = trio.current_time()
        return data

    async def _end(self, request: Request) -> Response:
        name = request.path_params["copy"]
        copy = self._copy(name)
        async with copy.reading:
            self._let_go(name)
        log.info("the copy for region %s has ended", copy.region)
        return JSONResponse({"ended": name})

    def _copy(self, name: str) -> _Copy:
        try:
            return self._copies[name]
        except KeyError:
            raise _no_such_copy(name) from None

    # -- the moment

    async def _fixed(self) -> tuple[Moment, CopyStart]:
        """A moment whose tables are those that the journal defines there, and the head of its copy.

        The reader's tables and the journal are read one after the other, so a definition that comes in between makes
        them differ: then another moment is fixed.
        """
        for _ in range(ATTEMPTS):
            moment = await self._moments.fix(None)
            try:
                start = await trio.to_thread.run_sync(self._described, moment)
                if start is not None:
                    return moment, start
            except BaseException:
                moment.reader.close()
                raise
            moment.reader.close()
        message = "the tables' definitions changed each time that a moment was to be fixed"
        raise Rejected("no_moment", message, status=503, retry_after=1, place="copy", cure="try again")

    def _described(self, moment: Moment) -> CopyStart | None:
        position = moment.position
        if position.sequence == 0:
            raise Rejected("nothing_to_copy", "this region has nothing yet", status=409, place=f"strand {self._strand}")
        if waiting := len(moment.reader.quarantine().open(self._strand)):
            message = f"{waiting} statements are set aside here and not in its tables: it is no whole copy"
            cure = "replay them (replicator quarantine replay CONFIG), or copy another region"
            raise Rejected("quarantined", message, status=409, place=f"strand {self._strand}", cure=cure)
        definitions = self._journal.definitions_in_order(self._strand, position.sequence)
        tables = {name: definition for name, (_, definition) in in_force(definitions).items()}
        reader = _copy_reader(moment)
        gone = {definition.name: definition for definition in reader.missing()}
        if tables != {definition.name: definition for definition in reader.tables()} | gone:
            return None
        flaws = reader.flaws()
        for definition in reader.tables():  # what a copy would lack in silence
            if flaw := flaws.get(definition.label):
                raise Rejected("table_flawed", flaw, status=409, place=f"table {definition.label}")
        if self._journal.position_at(self._strand, position.sequence) != position:
            return None  # pruned just now
        block = self._journal.block(self._strand, position.sequence)
        high_at = self._journal.high_at(self._strand, position.sequence)
        about = [reader.about_rows(each.label) for name, each in tables.items() if name not in gone]
        rows = None if None in about else sum(count or 0 for count in about)
        committed_at = block.header.committed_at if block else high_at
        return CopyStart(secrets.token_hex(16), position, committed_at, high_at, definitions, rows)


def _copy_reader(moment: Moment) -> CopyReader:
    reader = moment.reader
    assert hasattr(reader, "placed_rows"), "copies are made with readers that know places"
    return reader  # type: ignore[return-value]  # every reader of this program is one


def _no_such_copy(name: str) -> Rejected:
    message = "there is no such copy: it ended, was not asked for in time, or the sidecar was started anew"
    return Rejected("no_such_copy", message, status=404, place=f"copy {name[:64]}", cure="begin another one")
