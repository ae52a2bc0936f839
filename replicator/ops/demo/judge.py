"""The verdict: are the regions equal, and is all the money where the books say?

Guarantee: *passed* is said only of what was looked at completely: rows are compared by ``verify``, balances and
payments read with plain SQLite from each region's file, chains walked block by block. What could not be looked at has
failed. Traffic must have stopped.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import trio

from replicator.errors import ReplicatorError
from replicator.ops.demo.bank import Books, cents
from replicator.ops.demo.regions import DemoRegion, DemoRegions
from replicator.ops.demo.watch import RegionWatch
from replicator.storage.journal.store import Journal
from replicator.storage.journal.walk import Walk, walk
from replicator.supervise import first_cause
from replicator.verify.check import Verdict, verify

REACH_SECONDS = 60.0
LISTED = 5
SHOWN_DIGITS = 16
EVERY_ROW = "every row"


class EqualityCheck(NamedTuple):
    """One thing that was looked at in a region, whether it is as it must be, and what was found."""

    region: str
    what: str
    passed: bool
    told: str


async def judge(regions: DemoRegions, watch: RegionWatch, books: Books) -> list[EqualityCheck]:
    """Look at everything. Raises ReplicatorError only if a sidecar ended by itself."""
    try:
        await _reach_the_end(regions, watch)
    except ReplicatorError as error:
        return [EqualityCheck("all", "the end", False, str(error))]
    checks = await compare(regions)
    for region in regions.all:
        checks.append(await trio.to_thread.run_sync(_check_money, region, books))
    for region in regions.replicas:
        checks.append(await _check_applied_once(watch, region))
    return [*checks, *await trio.to_thread.run_sync(_check_chains, regions)]


async def compare(regions: DemoRegions) -> list[EqualityCheck]:
    """Each replica with the primary, every row, at one position that all have."""
    checks = []
    positions = set()
    for region in regions.replicas:
        try:
            verdict = await verify_one(regions, region)
            positions.add(verdict.position)
            checks.append(EqualityCheck(region.name, EVERY_ROW, verdict.is_equal, describe(verdict)))
        except ReplicatorError as error:
            checks.append(EqualityCheck(region.name, EVERY_ROW, False, str(error)))
    where = ", ".join(sorted(str(position.sequence) for position in positions))
    return [*checks, EqualityCheck("all", "one position", len(positions) == 1, f"compared at sequence {where or '-'}")]


async def verify_one(regions: DemoRegions, region: DemoRegion) -> Verdict:
    """``replicator verify`` of one replica. Raises ReplicatorError if it cannot be done, or the chains differ."""
    try:
        return await verify(regions.primary.endpoint, region.endpoint, LISTED)
    except* ReplicatorError as group:
        raise first_cause(group) from None


def describe(verdict: Verdict) -> str:
    """The verdict in a line."""
    if verdict.is_equal:
        rows = sum(table.primary_rows for table in verdict.tables)
        return f"equal at sequence {verdict.position.sequence:,}: {len(verdict.tables)} tables, {rows:,} rows"
    words = []
    for table in verdict.tables:
        if not table.is_equal:
            keys = ", ".join(" ".join(map(str, difference.key.values())) for difference in table.differences)
            words.append(f"{table.table}: {table.problem or f'{table.different:,} keys differ ({keys})'}")
    return f"different at sequence {verdict.position.sequence:,}: {'; '.join(words)}"


def brief(line: str) -> str:
    """The line of ``describe`` for a table: ``equal at 1,234``."""
    return line.split(":")[0].replace(" sequence", "")


async def _reach_the_end(regions: DemoRegions, watch: RegionWatch) -> None:
    await watch.reach(regions.primary, 0, REACH_SECONDS)
    head = watch.states[regions.primary.name].sequence
    for region in regions.replicas:
        await watch.reach(region, head, REACH_SECONDS)


def _check_money(region: DemoRegion, books: Books) -> EqualityCheck:
    """Compare what the region's own file holds with the books."""
    what = "money"
    try:
        balances, payments = read_accounts(region.files.ledger_state)
    except (sqlite3.Error, ValueError, KeyError, TypeError) as error:
        return EqualityCheck(region.name, what, False, f"the region's tables cannot be read: {error!r}")
    differences = books.differences(balances, payments)
    right = f"{cents(books.money)} in {len(balances)} wallets, {len(payments):,} payments, as acknowledged"
    return EqualityCheck(region.name, what, not differences, "; ".join(differences) or right)


def read_accounts(database: Path) -> tuple[dict[str, int], dict[str, int]]:
    """Balances by wallet and amounts by payment, straight from the tables."""
    with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        wallets = connection.execute("SELECT wallet_id, document FROM wallets").fetchall()
        payments = connection.execute("SELECT payment_id, document FROM payments").fetchall()
    return (
        {key: json.loads(document)["balance"] for key, document in wallets},
        {key: json.loads(document)["amount"] for key, document in payments},
    )


async def _check_applied_once(watch: RegionWatch, region: DemoRegion) -> EqualityCheck:
    """Compare the replica's counter of blocks with its position: it is kept in the transactions of the rows."""
    await watch.reach(region, 0, REACH_SECONDS)
    state = watch.states[region.name]
    passed = state.applied_blocks == state.sequence
    return EqualityCheck(
        region.name, "each block once", passed, f"{state.applied_blocks} applied for {state.sequence} blocks"
    )


def _check_chains(regions: DemoRegions) -> list[EqualityCheck]:
    """Walk every journal from its first block to its last, and compare their ends."""
    walks = {region.name: _walk(region) for region in regions.all}
    checks = [
        EqualityCheck(name, "chain", isinstance(result, Walk) and result.broken is None, _walked(result))
        for name, result in walks.items()
    ]
    ends = {result.position for result in walks.values() if isinstance(result, Walk)}
    words = ", ".join(f"sequence {end.sequence:,}, hash {end.hash.hex()[:SHOWN_DIGITS]}..." for end in sorted(ends))
    return [*checks, EqualityCheck("all", "one chain", len(ends) == 1, f"the journals end at {words or '-'}")]


def _walked(result: Walk | ReplicatorError) -> str:
    if isinstance(result, Walk) and result.broken is None:
        return f"whole, {result.blocks:,} blocks"
    return str(result)


def _walk(region: DemoRegion) -> Walk | ReplicatorError:
    journal = Journal(region.files.journal)
    try:
        (strand,) = journal.strands()
        return walk(journal, strand)
    except ReplicatorError as error:
        return error
    except ValueError:
        return ReplicatorError("no_blocks", "the journal does not hold just one strand", place=str(journal.path))
    finally:
        journal.close()
