"""The feed's serving end: the journal over HTTP, to any number of regions.

Protocol, version 1 (frames in ``format/wire.py``; any ledger that serves this can be a primary):

    GET /feed/v1/{strand}?after=SEQUENCE&hash=HEX     blocks behind a position, then new ones as they come, for ever
    GET /feed/v1/{strand}?from=TIME                   from the first block committed at or after TIME (RFC 3339); the
                                                      definitions in force there come first
        &until=SEQUENCE or &to=TIME                   optional end: an END frame, and the stream closes
    GET /feed/v1/{strand}/positions/{sequence}        this chain's position at a sequence (``head`` for its end)
    POST /feed/v1/{strand}/received                   a follower has everything up to a position durably

The answer is a stream of frames; its header ``Feed-Position`` is the position behind which it starts. A
HEARTBEAT comes at least every ``heartbeat_seconds``, also while there is nothing else to send; to a follower whose
request has the header ``Feed-Heartbeat: trouble`` it also says what troubles the ledger. Its header
``Feed-Reports: prompt``, and that of the answer to a report, asks the follower to report as soon as blocks are
durable, because somebody waits for that; a follower that does not know it reports now and then. ``hash`` may be left
out for a backfill of a range that the asker will check by its links. Refusals are JSON:

    400 bad_request   404 unknown_strand, no_such_position
    409 diverged      the position asked for is not on this chain: another hash stands at its sequence
    409 ahead         this chain ends before the position
    410 pruned        the blocks right behind the position are no longer (or never were) in this journal

Guarantee: bytes go out as they stand in the journal. Backpressure is the connection's: one page is read, sent, and only
then the next is read. Non-goal: deciding what a follower does about a refusal.
"""

from __future__ import annotations

import datetime
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple

import trio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from replicator.errors import Rejected
from replicator.format.position import MAX_SEQUENCE, Position, parse_position
from replicator.format.wire import (
    CONTENT_TYPE,
    HEARTBEAT_HEADER,
    ID_HEADER,
    NAME_TAKEN,
    PROMPT,
    REPORTS_HEADER,
    TROUBLE,
    Heartbeat,
    pack_block,
    pack_definition_frame,
    pack_end,
    pack_heartbeat,
    pack_part,
    unpack_page,
)
from replicator.storage.journal.head import JournalHead
from replicator.storage.journal.reading import JournalPage
from replicator.storage.journal.regions import NAME, REGIONS_LIMIT, KnownRegions
from replicator.storage.journal.store import Journal
from replicator.transport.query import whole_number

READ_BYTES = 1 << 20
REPORT_LIMIT_BYTES = 4096
TAKEN_SECONDS = 3.0  # beside two heartbeats
# A follower says at least every half a minute how far it is. Where its machine is gone its stream looks open for as
# long as the system waits for it, a quarter of an hour: a region that has taken its place is not kept out so long.
HEARD_SECONDS = 45.0

log = logging.getLogger("replicator")


class ServedFollower(NamedTuple):
    """A region that reads a strand of this one: the name it gives itself, and the last sequence sent to it. Status
    shows it as it is."""

    region: str
    strand: str
    sent_sequence: int


class LedgerWord(NamedTuple):
    """What is known of the ledger: everything that it committed before ``heard`` is in the journal, and ``trouble``
    (``condition:reason``) keeps that time from moving; None: not known, and none. ``now`` is this moment by the clock
    that ``heard`` is told by, µs since 1970; None: our own."""

    heard: int | None
    trouble: str | None = None
    now: int | None = None


class FollowerNames:
    """Which region goes by which name now, by the id that it tells; a name is free again ``seconds`` after its bearer
    was heard last, or its stream was open, and ``HEARD_SECONDS`` after it was heard in any case. One that tells no id,
    as older versions do, is taken as it is. Pure."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._bearers: dict[str, _Bearer] = {}

    def take(self, name: str, id_: str, now: float) -> bool:
        """Note that the region was heard; False if another one goes by its name."""
        if not id_ or not NAME.fullmatch(name):
            return True
        bearer = self._bearers.get(name)
        is_another = bearer is not None and bearer.id != id_
        if bearer and is_another and now < min(bearer.open_at + self._seconds, bearer.heard_at + HEARD_SECONDS):
            return False
        if bearer is not None or len(self._bearers) < REGIONS_LIMIT:
            self._bearers[name] = _Bearer(id_, now, now)
        return True

    def streams(self, name: str, id_: str, now: float) -> None:
        """Note that a stream to the region is open: it may be there."""
        bearer = self._bearers.get(name)
        if bearer is not None and bearer.id == id_:
            self._bearers[name] = bearer._replace(open_at=now)


class _Bearer(NamedTuple):
    """Who goes by a name: when it was heard last, and when it was, or its stream was open."""

    id: str
    heard_at: float
    open_at: float


class Publisher:
    """Serves one journal. ``word`` gives before which time everything that the ledger committed is in that journal;
    ``regions`` remember who follows which strand; ``name`` is this region's own. ``on_report`` hears what each region
    has durably (strand, region, sequence); while ``wants_reports`` says so, followers are asked for prompt ones."""

    def __init__(
        self,
        journal: Journal,
        journal_heads: dict[str, JournalHead],
        heartbeat_seconds: float = 1.0,
        word: Callable[[], LedgerWord] = lambda: LedgerWord(None),
        regions: dict[str, KnownRegions] | None = None,
        name: str = "",
    ) -> None:
        self.on_report: Callable[[str, str, int], None] = lambda strand, region, sequence: None
        self.wants_reports: Callable[[], bool] = lambda: False
        self._journal = journal
        self._name = name
        self._regions = regions or {}
        self._journal_heads = journal_heads
        self._heartbeat_seconds = heartbeat_seconds
        self._word = word
        self.followers: dict[int, ServedFollower] = {}  # by a number for each open stream
        self._streams = 0
        self._names = FollowerNames(2 * heartbeat_seconds + TAKEN_SECONDS)

    def slowest(self) -> int:
        """The sequence sent last to the slowest follower; beyond every block if nobody follows."""
        return min((follower.sent_sequence for follower in self.followers.values()), default=MAX_SEQUENCE)

    def routes(self) -> list[Route]:
        """The feed's part of the HTTP surface."""
        return [
            Route("/feed/v1/{strand}", self._open_stream, methods=["GET"]),
            Route("/feed/v1/{strand}/positions/{sequence}", self._position, methods=["GET"]),
            Route("/feed/v1/{strand}/received", self._received, methods=["POST"]),
        ]

    async def _position(self, request: Request) -> Response:
        strand, asked = request.path_params["strand"], request.path_params["sequence"]
        journal_head = self._journal_head(strand)
        sequence = journal_head.position.sequence if asked == "head" else whole_number(asked, "sequence")
        position = await trio.to_thread.run_sync(self._journal.position_at, strand, sequence)
        if position is None:
            raise Rejected("no_such_position", f"sequence {sequence} is not here", status=404, place=f"strand {strand}")
        return JSONResponse({"position": str(position), "base": str(self._journal.base(strand))})

    def _check_name(self, request: Request) -> None:
        """A follower by this region's own name would be counted, shown and kept for as this very region; two of one
        name as one region, whose place in the journal is now here and now there."""
        if self._name and _region(request) == self._name:
            message = f"the region that asks calls itself {self._name}, as this one does"
            cure = "give each region a name of its own: [region] name"
            raise Rejected("same_name", message, status=409, place="feed", cure=cure)
        if not self._names.take(_region(request), request.headers.get(ID_HEADER, "")[:64], trio.current_time()):
            message = f"another region that calls itself {_region(request)} follows this one now"
            cure = (
                "give each region a name of its own: [region] name; if the other one was stopped, it goes on by itself"
            )
            raise Rejected(NAME_TAKEN, message, status=409, place="feed", cure=cure)

    async def _received(self, request: Request) -> Response:
        strand = request.path_params["strand"]
        self._journal_head(strand)
        self._check_name(request)
        position = await _reported(request, strand)
        base = await trio.to_thread.run_sync(self._take_report, strand, _region(request), position)
        self._pass_report_on(strand, _region(request), position.sequence)
        return JSONResponse({"received": str(position), "base": str(base)}, headers=self._report_headers())

    def _take_report(self, strand: str, region: str, position: Position) -> Position:
        """Prove and remember a report; gives where the journal begins."""
        # A position of another chain must neither count as an acknowledgement nor let this journal be pruned.
        self._checked(strand, position.sequence, position.hash.hex())
        self._remember(strand, region, position.sequence)
        return self._journal.base(strand)

    def _remember(self, strand: str, region: str, sequence: int) -> None:
        """A region says that it has everything up to ``sequence``: the journal is kept for it from there on."""
        if strand in self._regions:
            self._regions[strand].report(region, sequence, time.time_ns() // 1000)

    def _pass_report_on(self, strand: str, region: str, sequence: int) -> None:
        if NAME.fullmatch(region):
            self.on_report(strand, region, sequence)

    def _report_headers(self) -> dict[str, str]:
        """What is asked of a follower, in the headers of each answer to it."""
        return {REPORTS_HEADER: PROMPT} if self.wants_reports() else {}

    async def _open_stream(self, request: Request) -> Response:
        strand = request.path_params["strand"]
        self._journal_head(strand)
        self._check_name(request)
        start = await trio.to_thread.run_sync(self._stream_start, strand, request)
        # Who follows from a position, with its hash, has proven that it has everything before; a range proves nothing.
        if "hash" in request.query_params and start.until is None:
            await trio.to_thread.run_sync(self._remember, strand, _region(request), start.position.sequence)
            self._pass_report_on(strand, _region(request), start.position.sequence)
        return StreamingResponse(
            self._stream(
                start,
                _region(request),
                request.headers.get(ID_HEADER, "")[:64],
                tells_trouble=request.headers.get(HEARTBEAT_HEADER) == TROUBLE,
            ),
            media_type=CONTENT_TYPE,
            headers={"Feed-Position": str(start.position), **self._report_headers()},
        )

    def _journal_head(self, strand: str) -> JournalHead:
        try:
            return self._journal_heads[strand]
        except KeyError:
            raise Rejected(
                "unknown_strand", f"this region keeps no strand {strand[:64]!r}", status=404, place="feed"
            ) from None

    def _stream_start(self, strand: str, request: Request) -> _StreamStart:
        query = request.query_params
        if "from" in query:
            moment = parse_time(query["from"])
            position = self._checked(strand, self._journal.sequence_before(strand, moment), None)
            if not self._journal.reaches_back(strand, moment):
                raise self._pruned(strand, f"strand {strand}, from {query['from'][:64]}")
            definitions = self._journal.packed_definitions(strand, position.sequence)
        else:
            position = self._checked(strand, whole_number(query.get("after", "0"), "after"), query.get("hash"))
            definitions = {}
        if "to" in query:
            until: int | None = self._journal.sequence_before(strand, parse_time(query["to"]))
        else:
            until = whole_number(query["until"], "until") if "until" in query else None
        return _StreamStart(position, definitions, until)

    def _checked(self, strand: str, after: int, digest: str | None) -> Position:
        place = f"strand {strand}, sequence {after}"
        head = self._journal.head(strand)
        if after > head.sequence:
            raise Rejected("ahead", f"this chain ends at sequence {head.sequence}", status=409, place=place)
        position = self._journal.position_at(strand, after)
        if position is None:
            raise self._pruned(strand, place)
        if digest is not None and digest != position.hash.hex():
            raise Rejected(
                "diverged", f"diverged at sequence {after}: another hash stands there", status=409, place=place
            )
        return position

    def _pruned(self, strand: str, place: str) -> Rejected:
        base = self._journal.base(strand).sequence
        return Rejected("pruned", f"this journal begins behind sequence {base}", status=410, place=place)

    async def _stream(self, start: _StreamStart, region: str, id_: str, *, tells_trouble: bool) -> AsyncIterator[bytes]:
        self._streams += 1
        stream = self._streams
        strand, after = start.position.strand, start.position.sequence
        try:
            yield self._heartbeat(
                strand, tells_trouble=tells_trouble
            )  # at once: it says that the stream is open, and where this chain ends
            for relation, data in start.definitions.items():
                yield pack_definition_frame(relation, data)
            while start.until is None or after < start.until:
                self.followers[stream] = ServedFollower(region, strand, after)
                self._names.streams(region, id_, trio.current_time())
                beat_at = trio.current_time() + self._heartbeat_seconds
                with trio.move_on_after(self._heartbeat_seconds):
                    await self._journal_heads[strand].beyond(after)
                for page in await trio.to_thread.run_sync(self._journal.pages, strand, after, READ_BYTES):
                    # Pruning does not wait for who is sent to. A gap must not go out as if it were the chain: breaking
                    # off makes the follower ask again, and hear *pruned*.
                    if page.first > after + 1:
                        raise _PrunedMeanwhile
                    async for data in self._page(strand, page, after, start.until):
                        yield data
                    after = page.last if start.until is None else min(page.last, start.until)
                    if after == start.until:
                        break
                # Also whenever all has been sent: two heartbeats in a row tell a follower that nothing was lost there.
                if trio.current_time() >= beat_at or after == self._journal_heads[strand].position.sequence:
                    yield self._heartbeat(strand, tells_trouble=tells_trouble)
            yield pack_end("the end that was asked for")
        except _PrunedMeanwhile:  # the answer has begun: there is no status left to say it with
            log.warning("strand %s: the feed of region %r breaks off: what it needs next was pruned", strand, region)
        finally:
            self.followers.pop(stream, None)

    async def _page(self, strand: str, page: JournalPage, after: int, until: int | None) -> AsyncIterator[bytes]:
        """A page's bytes; its blocks beyond the asked range are cut off."""
        if page.large:
            parts, number = self._journal.parts(strand, page.last), 0
            while (part := await trio.to_thread.run_sync(next, parts, None)) is not None:
                yield pack_part(page.last, number, part)
                number += 1
            if self._journal.base(strand).sequence >= page.last:  # some of its parts may have gone meanwhile
                raise _PrunedMeanwhile
        if page.first > after and (until is None or page.last <= until):
            yield page.data
            return
        last = page.last if until is None else until
        yield b"".join(pack_block(b) for b in unpack_page(page.data) if after < b.header.sequence <= last)

    def _heartbeat(self, strand: str, *, tells_trouble: bool) -> bytes:
        journal_head, word = self._journal_heads[strand], self._word()
        trouble = word.trouble if tells_trouble else None
        now = time.time_ns() // 1000 if word.now is None else word.now
        return pack_heartbeat(Heartbeat(journal_head.position, journal_head.committed_at, now, word.heard, trouble))


def _region(request: Request) -> str:
    """The name that the asker gives itself; empty if none."""
    return request.headers.get("feed-region", "")[:64]


async def _reported(request: Request, strand: str) -> Position:
    """The position in a report's body. Raises Rejected."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > REPORT_LIMIT_BYTES:
            raise Rejected("too_large", "a report is a position", status=413, place="received")
    try:
        position = parse_position(json.loads(body)["position"])
        if position.strand != strand:
            raise ValueError("the position is another strand's")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        message = f'the body is {{"position": "strand:epoch:sequence:hash"}}: {error}'
        raise Rejected("bad_request", message, place="received") from error
    return position


class _PrunedMeanwhile(Exception):
    """The block that was to be sent next was pruned while its stream was open."""


class _StreamStart(NamedTuple):
    """Behind which position a stream starts, the packed definitions in force there by relation, where it was asked for
    from a time, and the last sequence that was asked for, if any."""

    position: Position
    definitions: dict[int, bytes]
    until: int | None


def parse_time(text: str) -> int:
    """An RFC 3339 time as microseconds since 1970; raises Rejected. Without an offset it would be a guess."""
    try:
        moment = datetime.datetime.fromisoformat(text.replace(" ", "+"))  # an unescaped "+" arrives as a space
        if moment.tzinfo is None:
            raise ValueError("no offset from UTC")
        elapsed = moment - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    except (ValueError, OverflowError) as error:
        message = f"{text[:64]!r} is not a time: {error}"
        raise Rejected("bad_request", message, place="time", cure="write RFC 3339, 2026-01-31T12:00:00Z") from error
    return elapsed // datetime.timedelta(microseconds=1)
