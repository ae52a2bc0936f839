"""The feed's requests over real HTTP: where a stream starts and ends, what is refused and how."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from replicator.format.block import Block, Draft
from replicator.format.definition import Column, Definition
from replicator.format.position import ZERO_HASH, Position
from replicator.format.statement import pack_define
from replicator.format.wire import DefinitionFrame, End, Frame, FrameReader, Heartbeat
from tests.pipeline.feed.conftest import STRAND, Primary, drafts

TABLE = Definition("public", "t", (Column("a", "int4"),), ("a",))


@pytest.fixture
def primary(tmp_path: Path) -> Primary:
    """Blocks 1 to 50, committed at 10, 20, … 500 µs after 1970; the fifth defines a table."""
    primary = Primary(tmp_path / "primary.db")
    items = drafts(1, 50)
    fifth = items[4]
    assert isinstance(fifth, Draft)
    items[4] = fifth._replace(flags=1, body=pack_define(1, TABLE))
    for first in range(0, 50, 7):
        primary.write(items[first : first + 7])
    return primary


async def frames(primary: Primary, **query: Any) -> tuple[httpx.Response, list[Frame]]:
    """A stream that ends, whole."""
    async with primary.serving(), httpx.AsyncClient(trust_env=False) as client:
        response = await client.get(f"{primary.url}/feed/v1/{STRAND}", params=query)
    reader = FrameReader()
    reader.feed(response.content)
    return response, list(reader)


async def refusal(primary: Primary, path: str, **query: Any) -> tuple[int, dict[str, str]]:
    async with primary.serving(), httpx.AsyncClient(trust_env=False) as client:
        response = await client.get(f"{primary.url}{path}", params=query)
    answer: dict[str, str] = response.json()
    assert set(answer) == {"reason", "message", "place", "cure"}
    return response.status_code, answer


def sequences(found: list[Frame]) -> list[int]:
    return [frame.header.sequence for frame in found if isinstance(frame, Block)]


@pytest.mark.parametrize(("after", "until"), [(0, 50), (0, 1), (7, 14), (8, 13), (20, 21), (49, 50)])
async def test_a_range_is_sent_to_the_block(primary: Primary, after: int, until: int) -> None:
    position = primary.journal.position_at(STRAND, after)
    assert position is not None
    response, found = await frames(primary, after=after, hash=position.hash.hex(), until=until)
    assert sequences(found) == list(range(after + 1, until + 1))
    assert response.headers["Feed-Position"] == str(position)
    assert isinstance(found[0], Heartbeat)
    assert isinstance(found[-1], End)


@pytest.mark.parametrize(
    ("begin", "end", "expected"),
    [
        ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00.000100Z", range(1, 10)),
        ("1970-01-01T00:00:00.000101Z", "1970-01-01T00:00:00.000200+00:00", range(11, 20)),
        ("1970-01-01T01:00:00.000300+01:00", "2970-01-01T00:00:00Z", range(30, 51)),
        ("2970-01-01T00:00:00Z", "2970-01-01T00:00:00Z", range(0)),
    ],
)
async def test_a_stream_from_a_start_time_to_an_end_time(
    primary: Primary, begin: str, end: str, expected: range
) -> None:
    _, found = await frames(primary, **{"from": begin, "to": end})
    assert sequences(found) == list(expected)


async def test_a_start_time_brings_the_definitions_in_force(primary: Primary) -> None:
    _, found = await frames(primary, **{"from": "1970-01-01T00:00:00.000100Z", "until": 12})
    assert [frame.relation for frame in found if isinstance(frame, DefinitionFrame)] == [1]
    _, found = await frames(primary, **{"from": "1970-01-01T00:00:00Z", "until": 12})
    assert not any(isinstance(frame, DefinitionFrame) for frame in found)


async def test_a_position_of_another_history_is_diverged_at_its_sequence(primary: Primary) -> None:
    status, answer = await refusal(primary, f"/feed/v1/{STRAND}", after=12, hash="ab" * 32)
    assert (status, answer["reason"]) == (409, "diverged")
    assert answer["message"].startswith("diverged at sequence 12")


async def test_a_position_beyond_the_head_is_ahead(primary: Primary) -> None:
    status, answer = await refusal(primary, f"/feed/v1/{STRAND}", after=51, hash="ab" * 32)
    assert (status, answer["reason"]) == (409, "ahead")
    assert "50" in answer["message"]


async def test_a_position_before_the_journal_is_pruned(tmp_path: Path) -> None:
    primary = Primary(tmp_path / "late.db")
    primary.journal.begin_at(Position(STRAND, 1, 10, b"\x01" * 32), {})
    primary.write(drafts(11, 12))
    status, answer = await refusal(primary, f"/feed/v1/{STRAND}", after=5)
    assert (status, answer["reason"]) == (410, "pruned")
    assert "10" in answer["message"]


@pytest.mark.parametrize(
    ("query", "status", "reason"),
    [
        ({"after": "-1"}, 400, "bad_request"),
        ({"after": "ten"}, 400, "bad_request"),
        ({"after": "9" * 30}, 400, "bad_request"),
        ({"after": "1", "until": ""}, 400, "bad_request"),
        ({"from": "yesterday"}, 400, "bad_request"),
        ({"from": "2026-01-01T00:00:00"}, 400, "bad_request"),
        ({"from": "2026-01-01T00:00:00Z", "to": "\x00"}, 400, "bad_request"),
    ],
)
async def test_what_cannot_be_read_is_refused(
    primary: Primary, query: dict[str, str], status: int, reason: str
) -> None:
    assert (await refusal(primary, f"/feed/v1/{STRAND}", **query))[0] == status
    assert (await refusal(primary, f"/feed/v1/{STRAND}", **query))[1]["reason"] == reason


async def test_another_strand_is_not_here(primary: Primary) -> None:
    assert (await refusal(primary, "/feed/v1/other", after=0))[0] == 404
    assert (await refusal(primary, "/feed/v1/other/positions/head"))[1]["reason"] == "unknown_strand"


async def test_positions_can_be_asked_for(primary: Primary) -> None:
    async with primary.serving(), httpx.AsyncClient(trust_env=False, base_url=primary.url) as client:
        head = (await client.get(f"/feed/v1/{STRAND}/positions/head")).json()
        first = (await client.get(f"/feed/v1/{STRAND}/positions/0")).json()
        beyond = await client.get(f"/feed/v1/{STRAND}/positions/51")
    assert head["position"] == str(primary.journal.head(STRAND))
    assert first["position"].endswith(f":0:{ZERO_HASH.hex()}")
    assert (beyond.status_code, beyond.json()["reason"]) == (404, "no_such_position")
