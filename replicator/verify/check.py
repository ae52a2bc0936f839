"""Verification from outside: read both regions completely at one position, and compare.

Guarantee: *equal* is said of one position that both regions had, with the same hash, and of every row of it. Writes go
on meanwhile: the replica is paused first, so it is behind; then the primary's moment is fixed; then the replica is let
run to exactly that moment. What could not be compared is never called equal or different.
"""

from __future__ import annotations

import contextlib
import dataclasses
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import trio

from replicator.errors import Corrupt, ReplicatorError, Unavailable
from replicator.position import Order, Position, compare, parse_position
from replicator.verify.compare import PRIMARY, REPLICA, Contents, TableResult
from replicator.verify.stream import ContentsReader, Piece, Rows, TableHead

ATTEMPTS = 5
READ_SECONDS = 120.0
LISTED = 100


@dataclasses.dataclass(frozen=True, slots=True)
class Endpoint:
    """A region's sidecar."""

    name: str
    url: str
    token: str | None = dataclasses.field(default=None, repr=False)
    ca_file: Path | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """What was compared, where, and how it came out."""

    primary: str
    replica: str
    position: Position
    tables: list[TableResult]

    @property
    def is_equal(self) -> bool:
        """Every table is equal."""
        return all(table.is_equal for table in self.tables)


class Divergence(ReplicatorError):
    """The chains themselves differ: there is no common position to compare rows at."""


async def verify(primary: Endpoint, replica: Endpoint, listed: int = LISTED) -> Verdict:
    """Compare two regions. Raises Divergence, or Unavailable or Corrupt if it could not be done."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return await _attempt(primary, replica, listed)
        except Unavailable as error:
            if error.reason not in ("moment_passed", "replica_ahead") or attempt == ATTEMPTS:
                raise
        await trio.sleep(0.2 * attempt)
    raise AssertionError("the last attempt returns or raises")


async def _attempt(primary: Endpoint, replica: Endpoint, listed: int) -> Verdict:
    async with _client(primary) as there, _client(replica) as here:
        try:
            paused = await _hold(here, replica)
            with Contents.temporary() as contents:
                position = await _load_both(contents, (there, primary), (here, replica), paused)
                tables = await trio.to_thread.run_sync(lambda: list(contents.results(listed)))
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(2), contextlib.suppress(httpx.HTTPError):
                await here.delete("/v1/verify/hold")
    return Verdict(primary.name, replica.name, position, tables)


async def _load_both(
    contents: Contents,
    primary: tuple[httpx.AsyncClient, Endpoint],
    replica: tuple[httpx.AsyncClient, Endpoint],
    paused: Position,
) -> Position:
    async with _contents(*primary, None) as (position, pieces):
        if position.sequence < paused.sequence:
            message = f"the replica is at sequence {paused.sequence}, the primary shows {position.sequence}"
            raise Unavailable("replica_ahead", message, place=replica[1].name, cure="verify again in a moment")
        async with _contents(*replica, position.sequence) as (met, other_pieces):
            if compare(met, position) is not Order.EQUAL:
                message = f"diverged: the regions hold different blocks at sequence {position.sequence}"
                cure = "find out which history is right, then resync the other region"
                raise Divergence("diverged", message, place=f"{primary[1].name} and {replica[1].name}", cure=cure)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_load, contents, PRIMARY, pieces)
                nursery.start_soon(_load, contents, REPLICA, other_pieces)
    return position


async def _load(contents: Contents, side: str, pieces: AsyncIterator[Piece]) -> None:
    label = ""
    async for piece in pieces:
        match piece:
            case TableHead():
                label = piece.label
                contents.add_table(side, piece)
            case Rows(rows):
                contents.add_rows(side, label, rows)


# -- asking


def _client(endpoint: Endpoint) -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {endpoint.token}"} if endpoint.token else {}
    verify: ssl.SSLContext | bool = True
    if endpoint.ca_file:
        verify = ssl.create_default_context(cafile=str(endpoint.ca_file))
    return httpx.AsyncClient(
        base_url=endpoint.url,
        headers=headers,
        verify=verify,
        trust_env=False,
        timeout=httpx.Timeout(READ_SECONDS, connect=5),
    )


async def _hold(client: httpx.AsyncClient, endpoint: Endpoint) -> Position:
    with _translated(endpoint):
        response = await client.post("/v1/verify/hold", params={"seconds": "60"})
        _check(response.status_code, response, endpoint)
        return parse_position(response.json()["position"])


@contextlib.asynccontextmanager
async def _contents(
    client: httpx.AsyncClient, endpoint: Endpoint, at: int | None
) -> AsyncIterator[tuple[Position, AsyncIterator[Piece]]]:
    query = {} if at is None else {"at": str(at)}
    with _translated(endpoint):
        async with client.stream("GET", "/v1/verify/contents", params=query) as response:
            if response.status_code != 200:
                await response.aread()
            _check(response.status_code, response, endpoint)
            pieces = _pieces(response, endpoint)
            position = await anext(pieces, None)
            if not isinstance(position, Position):
                raise Corrupt("bad_contents", "the contents do not begin with their position", place=endpoint.name)
            yield position, pieces


async def _pieces(response: httpx.Response, endpoint: Endpoint) -> AsyncIterator[Piece]:
    reader = ContentsReader()
    with _translated(endpoint):
        async for data in response.aiter_raw():
            for piece in reader.feed(data):
                yield piece
    reader.finish()


def _check(status: int, response: httpx.Response, endpoint: Endpoint) -> None:
    if status == 200:
        return
    try:
        fields = response.json()
        reason, message, cure = str(fields["reason"]), str(fields["message"]), str(fields.get("cure", ""))
    except (ValueError, KeyError, TypeError):
        reason, message, cure = "refused", f"status {status}", "see the region's log"
    raise Unavailable(reason, message, place=f"region {endpoint.name}", cure=cure)


@contextlib.contextmanager
def _translated(endpoint: Endpoint) -> Iterator[None]:
    try:
        yield
    except (httpx.HTTPError, ssl.SSLError) as error:
        message = f"the region cannot be read: {error or type(error).__name__}"
        cure = "check that its sidecar runs and that the address is right"
        raise Unavailable("unreachable", message, place=f"{endpoint.name} at {endpoint.url}", cure=cure) from error
