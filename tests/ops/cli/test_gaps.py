"""``replicator gaps`` against a region that follows a feed with holes: what it prints, does and refuses."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner, Result

from replicator.ops.cli import main
from tests.pipeline.feed.conftest import Primary, drafts
from tests.pipeline.feed.operated import TOKEN, Operated, feed
from tests.pipeline.feed.operated import Lossy as LossyFeed
from tests.servers import free_port


class Office:
    """A region with a gap from 5 to 6, and an operator at its command line."""

    def __init__(self, directory: Path) -> None:
        self.primary = Primary(directory / "primary.db", LossyFeed)
        self.region = Operated(directory / "eu", self.primary)
        self.config = directory / "region.toml"
        self.config.write_text(
            '[region]\nname = "eu"\nrole = "replica"\ndata_dir = "eu"\n'
            f'[http]\nlisten = "127.0.0.1:{self.region.port}"\ntoken = "{TOKEN}"\n'
            f'[follow]\nprimary = "{self.primary.url}"\n[replica]\nkind = "sqlite"\npath = "replica.db"\n'
        )

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        feed(self.primary).gone = {5, 6}
        self.primary.write(drafts(1, 10))
        async with self.primary.serving(), self.region.running():
            await self.region.expect_gap("requested")
            yield

    async def run(self, *arguments: str, code: int = 0) -> str:
        result = await trio.to_thread.run_sync(invoke, ["gaps", *arguments])
        assert result.exit_code == code, result.output
        return result.output


def invoke(arguments: list[str]) -> Result:
    return CliRunner().invoke(main, arguments, env={"COLUMNS": "160"}, catch_exceptions=False)


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path)


async def test_gaps_are_listed_with_what_to_do(office: Office) -> None:
    async with office.open():
        output = await office.run(str(office.config))
        assert "strand main: 1 gap is open, 4 blocks wait" in output
        assert "  5 to 6  requested, open for " in output
        assert "What to do about 5 to 6, which is requested: nothing yet" in output
        (gap,) = json.loads(await office.run("list", str(office.config), "--json"))["gaps"]
        assert (gap["first"], gap["last"], gap["state"]) == (5, 6, "requested")
        assert "no gap that was asked for" in await office.run(str(office.config), "--closed")


async def test_one_gap_is_explained_while_it_is_open_and_after(office: Office) -> None:
    async with office.open():
        output = await office.run(str(office.config), "6")
        assert "It did not come by itself and is asked for, again and again" in output
        assert "The window is 2.0 s" in output
        assert f"{office.primary.url}/feed/v1/main?after=4&until=6" in output
        assert "sequence 7 is not missing" in await office.run(str(office.config), "7")
        feed(office.primary).gone.clear()
        await office.region.tail.beyond(9)
        assert "no gap is open" in await office.run(str(office.config))
        for arguments in (["6"], ["--closed"], ["6", "--closed"]):
            output = await office.run(str(office.config), *arguments)
            assert "5 to 6  filled after" in output
            assert "every block names the hash of the one before" in output
        assert "no gap that was asked for" in await office.run(str(office.config), "7", "--closed")


async def test_a_waiver_is_refused_and_said_why_unless_the_strand_may_halt(office: Office) -> None:
    async with office.open():
        waive = ("waive", str(office.config), "5", "6", "--reason", "lost with the disk", "--who", "ann")
        output = await office.run(*waive, code=1)
        assert "part of a hash chain" in output
        assert "[chained]" in output
        assert "--halt-strand" in output
        answer = json.loads(await office.run(*waive, "--halt-strand", "--json"))
        assert answer["waived"] == {"first": 5, "last": 6}
        await office.region.recorder.halted.wait()
        output = await office.run(str(office.config))
        assert "strand main is halted: gap 5 to 6 was waived by ann" in output
        assert "What to do about that: make this region anew" in output
        output = await office.run(str(office.config), "--closed")
        assert "5 to 6  waived after" in output
        assert "by ann: lost with the disk" in output
        assert "[nothing_missing]" in await office.run(*waive, "--halt-strand", code=1)


async def test_who_waives_is_known_without_being_asked(office: Office) -> None:
    async with office.open():
        await office.run("waive", str(office.config), "5", "6", "--reason", "lost", "--halt-strand")
        (certificate,) = json.loads(await office.run(str(office.config), "--closed", "--json"))["certificates"]
        assert "@" in certificate["who"]


async def test_what_cannot_be_discarded_or_settled_is_refused_with_the_reason(office: Office) -> None:
    async with office.open():
        assert "[not_waiting]" in await office.run("discard", str(office.config), "2", "2", code=1)
        assert "no late block" in await office.run("late", str(office.config))
        assert "[no_such_late]" in await office.run("late", str(office.config), "--settle", "3", code=1)
        assert "the strand goes on" in await office.run("resume", str(office.config))
        assert "discarded: 8 to 9" in await office.run("discard", str(office.config), "8", "9")


async def test_a_wrong_token_and_a_region_that_is_not_there(office: Office) -> None:
    office.config.write_text(office.config.read_text().replace(TOKEN, "guess"))
    async with office.open():
        assert "[unauthorised]" in await office.run(str(office.config), code=1)
    nowhere = f"http://127.0.0.1:{free_port()}"
    assert "[unreachable]" in await office.run("list", "--url", nowhere, code=1)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["waive", "region.toml", "5", "6"],
        ["waive", "region.toml", "0", "6", "--reason", "x"],
        ["region.toml", "zero"],
        ["--clsed"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_2(arguments: list[str]) -> None:
    assert invoke(["gaps", *arguments]).exit_code == 2
