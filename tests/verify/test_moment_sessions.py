"""Moments over HTTP: what is asked belongs to one position and ends when it must; a part is never taken for all."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgpack
import pytest
import trio
import trio.testing
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from replicator.errors import Corrupt, Rejected, Unavailable
from replicator.format.position import genesis
from replicator.ledger.moments import LedgerMoments
from replicator.pipeline.replicas.base import Define, TableChange
from replicator.pipeline.replicas.sqlite import SqliteReader, SqliteReplica
from replicator.transport.endpoint import Endpoint
from replicator.transport.server import Listen, application, serve
from replicator.verify.evidence import Evidence, KeyQuestion, judge
from replicator.verify.moment_sessions import IDLE_SECONDS, SESSIONS_LIMIT, MomentSessions
from replicator.verify.remote import RemoteSide, remote_side
from replicator.verify.serve import DIGESTS, END, READ, ROWS, routes
from replicator.verify.side import Pace
from tests.contracts.replica_kinds import STRAND, applied, apply, row, table
from tests.servers import free_port

WALLET = table([("id", "integer"), ("v", "text")], ["id"], name="wallet")


class Silent:
    """A witness that has seen nothing."""

    async def evidence(self, label: str, questions: Sequence[KeyQuestion], until: int) -> list[Evidence]:
        return [judge([], WALLET, question.lines) for question in questions]


@pytest.fixture
def moments(tmp_path: Path) -> LedgerMoments:
    path = tmp_path / "replica.db"
    replica = SqliteReplica(path)
    replica.open()
    rows = [row(str(number), "a") for number in range(5_000)]
    apply(replica, 7, Define(1, WALLET), TableChange(WALLET, [], [], [], rows, []))
    replica.close()
    return LedgerMoments(STRAND, lambda: SqliteReader(path))


@asynccontextmanager
async def served(made: list[Route]) -> AsyncIterator[Endpoint]:
    port = free_port()
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, application(made, None), Listen("127.0.0.1", port), trio.sleep_forever)
        yield Endpoint("paris", f"http://127.0.0.1:{port}")
        nursery.cancel_scope.cancel()


async def test_a_moment_is_asked_for_digests_rows_and_evidence(moments: LedgerMoments) -> None:
    sessions = MomentSessions("paris", moments, Silent())
    made = routes(moments, sessions, lambda: None)
    async with served(made) as endpoint, remote_side(endpoint, rate=1_000_000) as side:
        await side.fix(None)
        assert side.position == applied(7).position
        assert side.tables["wallet"].columns == ["id", "v"]
        digests = await side.digests("wallet", 16)
        assert sum(digest.rows for digest in digests.values()) == 5_000
        rows = await side.rows("wallet", 16, [3, 5])
        assert len(rows) == digests[3].rows + digests[5].rows
        assert len(await side.rows("wallet", 16, range(16))) == 5_000
        (evidence,) = await side.evidence("wallet", [KeyQuestion(b"1", (b"1\ta", None))])
        assert (evidence.known, evidence.right, evidence.met) == (True, None, (None, None))
        for path in ("digests?table=no", "digests?table=wallet&buckets=3", "rows?table=wallet&in=x"):
            assert (await side._client.exchange("GET", f"{side._moment}/{path}")).status in (400, 404)
        await side.end()
        with pytest.raises(Rejected, match="the moment has ended"):
            await RemoteSide.digests(_again(side), "wallet", 16)


def _again(side: RemoteSide) -> RemoteSide:
    side._moment = "/v1/verify/moments/0123"
    return side


async def test_a_moment_that_nobody_asks_any_more_ends_by_itself(
    moments: LedgerMoments, mock_clock: trio.testing.MockClock
) -> None:
    sessions = MomentSessions("paris", moments, Silent())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sessions.run)
        names = [(await sessions.begin(None))[0] for _ in range(SESSIONS_LIMIT)]
        with pytest.raises(Rejected, match="comparisons are under way"):
            await sessions.begin(None)
        mock_clock.jump(IDLE_SECONDS * 0.9)
        await trio.testing.wait_all_tasks_blocked()
        async with sessions.use(names[0], Pace(1)) as side:
            assert side.position.sequence == 7
        mock_clock.jump(IDLE_SECONDS * 0.5)
        await trio.testing.wait_all_tasks_blocked()
        async with sessions.use(names[0], Pace(1)):
            pass
        with pytest.raises(Rejected, match="the moment has ended"):
            async with sessions.use(names[1], Pace(1)):
                pass
        nursery.cancel_scope.cancel()


async def test_those_that_are_being_fixed_count(moments: LedgerMoments) -> None:
    sessions = MomentSessions("paris", moments, Silent())
    refused: list[Rejected] = []

    async def begin() -> None:
        try:
            await sessions.begin(None)
        except Rejected as error:
            refused.append(error)

    async with trio.open_nursery() as nursery:
        for _ in range(SESSIONS_LIMIT + 2):
            nursery.start_soon(begin)
    assert len(refused) == 2
    with trio.move_on_after(0) as stopped:
        await sessions.run()
    assert stopped.cancelled_caught


async def test_a_session_may_end_while_all_are_ended(moments: LedgerMoments) -> None:
    sessions = MomentSessions("paris", moments, Silent())
    names = [(await sessions.begin(None))[0] for _ in range(3)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sessions.run)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await trio.lowlevel.checkpoint()  # the first one is being ended
            await sessions.end(names[2])
    assert sessions._sessions == {}


async def test_a_pace_keeps_its_rate_and_slows_down_while_behind(autojump_clock: trio.testing.MockClock) -> None:
    behind = False
    pace = Pace(1_000, lambda: behind)
    began = trio.current_time()
    for _ in range(10):
        await pace.take(500)
    assert trio.current_time() - began == pytest.approx(5.0)
    behind = True
    await pace.take(500)
    assert trio.current_time() - began == pytest.approx(10.0)


ANSWERS: dict[str, tuple[bytes, type[Exception]]] = {
    "digests that never come": (msgpack.packb((READ, 5)), Unavailable),
    "no digests": (msgpack.packb((DIGESTS, 5)), Corrupt),
    "not msgpack": (b"\xc1", Corrupt),
    "a map": (msgpack.packb({"a": 1}), Corrupt),
}
ROW_ANSWERS: dict[str, tuple[bytes, type[Exception]]] = {
    "rows without an end": (msgpack.packb((ROWS, [(b"1", b"1\ta")])), Unavailable),
    "an end that counts others": (msgpack.packb((END, 3)), Unavailable),
    "nothing": (b"", Unavailable),
}


@pytest.mark.parametrize("what", [*ANSWERS, *ROW_ANSWERS])
async def test_an_answer_that_is_not_whole_is_never_taken_for_less(what: str) -> None:
    data, error = {**ANSWERS, **ROW_ANSWERS}[what]

    async def begin(request: object) -> Response:
        return JSONResponse({"moment": "m", "position": str(genesis("main")), "tables": []})

    async def answer(request: object) -> Response:
        return Response(data)

    async def end(request: object) -> Response:
        return JSONResponse({})

    made = [
        Route("/v1/verify/moments", begin, methods=["POST"]),
        Route("/v1/verify/moments/m", end, methods=["DELETE"]),
        Route("/v1/verify/moments/m/{what}", answer, methods=["GET"]),
    ]
    async with served(made) as endpoint, remote_side(endpoint) as side:
        await side.fix(None)
        with pytest.raises(error):
            await (side.rows("t", 4, [1]) if what in ROW_ANSWERS else side.digests("t", 4))
