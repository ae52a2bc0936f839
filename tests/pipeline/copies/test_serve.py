"""The serving side over real HTTP: chunks again, in order only, held for a while, one copy a region."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import pytest

from replicator.pipeline.copies.wire import Chunk, CopyEnd, CopyStart, unpack_begun, unpack_chunk
from tests.faults.regions import EMBEDDED, Region


@pytest.fixture(scope="module")
def paris(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Region]:
    region = Region(tmp_path_factory.mktemp("serve"), "paris", "primary", EMBEDDED + '[copy]\nhold = "6s"\n')
    region.start()
    region.reach_sequence("applied", 1)
    assert region.write(0, 25).status_code == 200
    yield region
    region.end()


def begin(paris: Region, region: str = "tokyo", chunk_rows: int = 10) -> CopyStart:
    answer = httpx.post(
        f"{paris.url}/v1/copy?chunk_rows={chunk_rows}", headers={"Feed-Region": region}, trust_env=False, timeout=20
    )
    assert answer.status_code == 200, answer.text
    return unpack_begun(answer.content)


def test_chunks_are_of_one_moment_and_come_again(paris: Region) -> None:
    begun = begin(paris)
    assert begun.rows == 25
    first = paris.ask(f"/v1/copy/{begun.copy}/1").content
    assert paris.write(1000, 5).status_code == 200
    second = paris.ask(f"/v1/copy/{begun.copy}/2").content
    assert paris.ask(f"/v1/copy/{begun.copy}/1").content == first, "one that was not committed at the other end"
    assert paris.ask(f"/v1/copy/{begun.copy}/2").content == second
    assert paris.ask(f"/v1/copy/{begun.copy}/4").status_code == 404, "none is passed over"
    found = [unpack_chunk(paris.ask(f"/v1/copy/{begun.copy}/{n}").content, n) for n in (3, 4)]
    assert isinstance(found[0], Chunk)
    assert len(found[0].rows) == 5
    assert found[1] == CopyEnd(4, 25, [])
    assert paris.ask(f"/v1/copy/{begun.copy}/1").status_code == 404, "that is behind what can still be needed"
    assert httpx.delete(f"{paris.url}/v1/copy/{begun.copy}", trust_env=False).status_code == 200
    assert paris.ask(f"/v1/copy/{begun.copy}/4").json()["reason"] == "no_such_copy"


def test_a_copy_that_nobody_asks_for_is_let_go(paris: Region) -> None:
    begun = begin(paris)
    assert paris.ask(f"/v1/copy/{begun.copy}/1").status_code == 200
    deadline = time.monotonic() + 40
    while "is let go" not in paris.log():
        assert time.monotonic() < deadline
        time.sleep(0.1)  # polls another process
    assert paris.ask(f"/v1/copy/{begun.copy}/2").json()["reason"] == "no_such_copy"


def test_a_region_has_one_copy_and_there_are_only_so_many(paris: Region) -> None:
    first, second = begin(paris), begin(paris)
    assert paris.ask(f"/v1/copy/{first.copy}/1").status_code == 404
    assert paris.ask(f"/v1/copy/{second.copy}/1").status_code == 200
    statuses = []
    for number in range(17):
        headers = {"Feed-Region": f"r{number}"}
        answer = httpx.post(f"{paris.url}/v1/copy", headers=headers, trust_env=False, timeout=20)
        statuses.append((answer.status_code, answer.headers.get("Retry-After")))
    assert statuses[0] == (200, None)
    assert statuses[-1] == (429, "30")


@pytest.mark.parametrize("path", ["/v1/copy/none/1", "/v1/copy/none/x", "/v1/copy/none/-1"])
def test_what_is_not_there_is_refused(paris: Region, path: str) -> None:
    assert paris.ask(path).status_code in (400, 404)
