"""What is sealed, what a seal proves, and that nothing goes without one."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from replicator.cluster.rejoin import transaction_facts
from replicator.cluster.rejoin.fork import Fork, find_fork
from replicator.cluster.rejoin.report import read_heading, read_transactions
from replicator.cluster.rejoin.seal import OrphanSealer
from replicator.errors import Halted, Unavailable
from replicator.format.block import Block
from replicator.format.position import Position
from replicator.format.wire import DefinitionFrame, End, FrameReader, StagedPart
from replicator.storage.data_dir import DataDir, SealDir
from replicator.storage.journal.sealed import seal_fields, verified
from replicator.storage.journal.truncate import truncate
from replicator.storage.journal.walk import walk
from tests.cluster.rejoin.chains import feed_of, sealed
from tests.cluster.rejoin.embedded import Ledger, parted, topup
from tests.cluster.rejoin.rewind_child import fail_at
from tests.contracts.replica_kinds import STRAND

SEAL = SealDir(Path())
FILES = [file.name for file in (*SEAL.summed, SEAL.seal)]


@pytest.fixture
def regions(tmp_path: Path) -> Iterator[tuple[Ledger, Ledger]]:
    old, new, reference = parted(tmp_path)
    reference.close()
    yield old, new
    old.close()
    new.close()


async def test_the_blocks_are_sealed_byte_for_byte(regions: tuple[Ledger, Ledger]) -> None:
    old, new = regions
    fork, seal = await sealed(old, new)
    assert (seal.fork, seal.last, seal.blocks, seal.theirs) == (fork.position, old.head, fork.orphans, new.head)
    reader = FrameReader()
    reader.feed((seal.directory / "blocks.frames").read_bytes())
    frames = list(reader)
    blocks = [frame for frame in frames if isinstance(frame, Block)]
    assert blocks == old.journal.blocks(STRAND, fork.position.sequence, 1 << 30)
    (large,) = (block.header.sequence for block in blocks if block.body is None)
    parts = [frame.part for frame in frames if isinstance(frame, StagedPart)]
    assert parts == list(old.journal.parts(STRAND, large))
    assert len(parts) > 1
    definitions = {frame.relation: frame.data for frame in frames if isinstance(frame, DefinitionFrame)}
    assert definitions == old.journal.packed_definitions(STRAND, fork.position.sequence)
    assert isinstance(frames[-1], End)
    assert list(seal.directory.parent.iterdir()) == [seal.directory], "no scratch is left"


async def test_sealed_again_it_is_the_same_seal(regions: tuple[Ledger, Ledger]) -> None:
    old, new = regions
    _, seal = await sealed(old, new)
    new.submit(topup("a", 1))
    assert (await sealed(old, new))[1] == seal


@pytest.mark.parametrize("file", FILES)
async def test_a_byte_that_was_changed_breaks_the_seal(regions: tuple[Ledger, Ledger], file: str) -> None:
    old, new = regions
    fork, seal = await sealed(old, new)
    path = seal.directory / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(Halted) as broken:
        verified(seal.directory)
    assert broken.value.reason == "seal_broken"
    before = old.head
    with pytest.raises(Halted):
        truncate(old.journal, seal)
    with pytest.raises(Halted):
        old.rewind().run(seal, fork)
    assert (old.head, old.rewind().pending()) == (before, None)
    again = (await sealed(old, new))[1]  # the journal has the blocks still
    assert verified(again.directory) == again
    assert any("broken" in other.name for other in again.directory.parent.iterdir())


@pytest.mark.parametrize("missing", FILES)
async def test_a_file_that_is_missing_breaks_the_seal(regions: tuple[Ledger, Ledger], missing: str) -> None:
    old, new = regions
    _, seal = await sealed(old, new)
    (seal.directory / missing).unlink()
    with pytest.raises(Halted, match=missing.replace(".", r"\.")):
        verified(seal.directory)


async def test_without_a_seal_of_exactly_these_blocks_nothing_is_undone(regions: tuple[Ledger, Ledger]) -> None:
    old, new = regions
    fork, seal = await sealed(old, new)
    before = old.head
    genuine = [None, "seal", fork, dataclasses.replace(seal, last=new.head), dataclasses.replace(seal, blocks=1)]
    for wrong in genuine:
        with pytest.raises(Halted):
            truncate(old.journal, wrong)  # type: ignore[arg-type]
        with pytest.raises(Halted):
            old.rewind().run(wrong, fork)  # type: ignore[arg-type]
    renamed = shutil.copytree(seal.directory, seal.directory.with_name("7-17-abcdefabcdef"))
    with pytest.raises(Halted, match="other blocks"):
        verified(renamed)
    old.submit(topup("a", 1))  # one more orphan: the seal is of others now
    longer = Fork(fork.position, old.head, fork.theirs)
    with pytest.raises(Halted):
        truncate(old.journal, seal)
    with pytest.raises(Halted):
        old.rewind().run(seal, longer)
    assert old.head.sequence == before.sequence + 1
    assert old.rewind().pending() is None


async def test_an_interrupted_sealing_seals_nothing_and_begins_again(regions: tuple[Ledger, Ledger]) -> None:
    old, new = regions
    async with feed_of(new) as client:
        fork = await find_fork(client, old.journal, STRAND)
        steps: list[str] = []
        number = 0
        while True:
            number += 1
            steps.clear()

            fail = fail_at(number)

            def probe(step: str, fail: Callable[[str], None] = fail) -> None:
                steps.append(step)
                fail(step)

            try:
                sealer = OrphanSealer(DataDir(old.directory), old.journal, old.history, "old", probe)
                seal = await sealer.seal(fork, client)
                break
            except Unavailable:
                counted = [path for path in (old.directory / "orphans").iterdir() if "." not in path.name]
                assert counted == [] or steps[-1] in ("named", "end"), steps[-1]
                for directory in counted:
                    verified(directory)
                    shutil.rmtree(directory)
    assert number > 8
    assert verified(seal.directory) == seal
    assert walk(old.journal, STRAND).broken is None


# -- the report


async def test_the_report_tells_each_transaction_and_how_it_stands(regions: tuple[Ledger, Ledger]) -> None:
    old, new = regions
    _, seal = await sealed(old, new)
    head = read_heading(seal.directory)
    whole = json.loads((seal.directory / "report.json").read_text())
    transactions = {transaction["sequence"]: transaction for transaction in read_transactions(seal.directory)}
    assert list(transactions.values()) == whole["transactions"]
    assert {name: head[name] for name in head} == {name: whole[name] for name in head}
    verdicts = [transaction["judged"]["verdict"] for transaction in transactions.values()]
    assert verdicts == [
        "conflict",  # a: the new primary has changed it
        "clean",  # b
        "clean",  # b again, behind the one before
        "conflict",  # c
        "clean",  # d goes, new comes
        "clean",  # h is inserted where one was deleted
        "clean",  # and goes again
        "clean",  # e
        "there",  # the same request was carried out there
        "clean",  # points
        "conflict",  # a table that is not there
    ]
    assert head["counts"] == {"there": 1, "clean": 7, "conflict": 3, "nothing": 0}
    first = transactions[7]
    (statement,) = first["statements"]
    assert (first["request"], first["users"], first["epoch"]) == ("orphan-a", ["u-a"], 1)
    assert statement["key"] == {"wallet_id": "a"}
    balances = [json.loads(statement[name]["document"])["balance"] for name in ("before", "after")]
    assert (balances, statement["before"]["version"], statement["after"]["version"]) == ([105, 112], "2", "3")
    (why,) = first["judged"]["why"]
    assert why["block"]["sequence"] == new.head.sequence
    assert json.loads(why["now"]["document"])["balance"] == 106
    assert transactions[9]["judged"]["why"][0]["builds_on"] == 8
    assert [(change["before"] is None, change["after"] is None) for change in transactions[11]["statements"]] == [
        (False, True),
        (True, False),
    ]


@pytest.mark.parametrize("limit", ["STATEMENTS_LIMIT", "ROWS_LIMIT_CHARACTERS"])
async def test_a_very_large_transaction_is_told_in_part_and_never_clean(
    regions: tuple[Ledger, Ledger], monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(transaction_facts, limit, 100 if limit == "STATEMENTS_LIMIT" else 200_000)
    _, seal = await sealed(*regions)
    (large,) = (transaction for transaction in read_transactions(seal.directory) if transaction["left_out"])
    assert large["left_out"] + len(large["statements"]) == 130
    assert len(json.dumps(large)) < 1_200_000
    assert (large["left_tables"], large["judged"]["verdict"]) == (["points"], "conflict")
    assert f"{130 - min(50, len(large['statements']))} more statements" in (seal.directory / "report.html").read_text()


class Page(HTMLParser):
    """What there is in a page: the names of its elements, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        assert not {name for name, _ in attrs} & {"src", "href", "onclick", "onerror"}

    def handle_data(self, data: str) -> None:
        self.text += data


async def test_the_page_is_one_file_that_escapes_what_is_not_its_own(regions: tuple[Ledger, Ledger]) -> None:
    _, seal = await sealed(*regions)
    text = (seal.directory / "report.html").read_text()
    page = Page(text)
    assert not {"script", "img", "link", "iframe"} & set(page.elements)
    assert "<script>alert('x')</script> & more" in page.text
    for word in ("already there", "can be re-applied", "conflict", "orphan-a", "u-a", "no row", str(seal.fork)):
        assert word in page.text
    assert page.elements.count("section") == 1 + seal.blocks


async def test_a_position_that_is_not_a_fork_is_no_seals(regions: tuple[Ledger, Ledger]) -> None:
    old, new = regions
    fork, seal = await sealed(old, new)
    fields = json.loads((seal.directory / SEAL.seal).read_text())
    forged = dataclasses.replace(seal, fork=Position(STRAND, 1, fork.position.sequence, bytes(32)))
    (seal.directory / SEAL.seal).write_text(json.dumps(seal_fields(forged, fields["sha256"])))
    with pytest.raises(Halted):
        verified(seal.directory)
