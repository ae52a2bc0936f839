"""``replicator verify``: are two regions equal?"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from replicator.ops.cli import example
from replicator.ops.cli.common import Answer, exit_with
from replicator.ops.cli.comparison import DIVERGENT, NOT_CHECKED

if TYPE_CHECKING:
    from replicator.config import Config
    from replicator.transport.endpoint import Endpoint
    from replicator.verify.check import Verdict
    from replicator.verify.compare import Difference


SAY_SECONDS = 5.0


@click.command("verify")
@click.argument("configs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--list", "listed", default=20, show_default=True, help="Differences to list per table.")
@click.option("--json", "as_json", is_flag=True, help="The verdicts as JSON.")
@example("replicator verify tokyo.toml", "replicator verify tokyo.toml lima.toml --json")
def command(configs: tuple[Path, ...], listed: int, as_json: bool) -> None:
    """Compares replica regions with the primary that they follow: every row, at one position.

    CONFIGS are the replica regions' files. Both sidecars of each pair must run; writes go on meanwhile, and no table
    stays locked. Digests are compared first, rows only where those differ. Of a key that differs it tells both rows,
    the block that touched it last, the first block whose change is missing, who is wrong by the journal, and the likely
    cause. A table that cannot be compared is named, and all others are compared. Exit code 0: equal. 16: divergent.
    32: could not be checked. 2: wrong usage or configuration.
    """
    import trio

    from replicator.config import load
    from replicator.errors import ReplicatorError
    from replicator.supervise import first_cause
    from replicator.transport.endpoint import own_endpoint
    from replicator.verify.check import Divergence
    from replicator.verify.vote import vote

    code = 0
    verdicts: list[Verdict] = []
    failures: list[Answer] = []
    for settings in [load(path) for path in configs]:
        primary, replica = _primary(settings), own_endpoint(settings)
        try:
            verdict = trio.run(_patiently, primary, replica, listed)
            verdicts.append(verdict)
            code = max(code, {"equal": 0, "divergent": DIVERGENT}.get(verdict.result, NOT_CHECKED))
        except* ReplicatorError as group:
            error = first_cause(group)
            result = "divergent" if isinstance(error, Divergence) else "not checked"
            failures.append({"replica": replica.name, "result": result, "error": error.as_json()})
            code = max(code, DIVERGENT if isinstance(error, Divergence) else NOT_CHECKED)
    # The vote is over all verdicts together: a region that differs from two others that agree is the odd one.
    content = [*map(_as_json, vote(verdicts)), *failures]
    exit_with(code, content, (line for verdict in content for line in _lines(verdict)), as_json=as_json)


async def _patiently(primary: Endpoint, replica: Endpoint, listed: int) -> Verdict:
    """The verdict; on standard error a word now and then while it takes long."""
    import trio

    from replicator.verify.check import verify

    async def say() -> None:
        begun = trio.current_time()
        while True:
            await trio.sleep(SAY_SECONDS)
            seconds = trio.current_time() - begun
            words = f"{replica.name}: being compared for {seconds:.0f} s; a region that stands still is waited for, too"
            click.echo(words, err=True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(say)
        verdict = await verify(primary, replica, listed)
        nursery.cancel_scope.cancel()
    return verdict


def _primary(settings: Config) -> Endpoint:
    """The primary to compare a region with; in a cluster the region that leads now. Raises ReplicatorError."""
    from replicator.errors import ConfigError
    from replicator.ops.cli.client import cluster_endpoints
    from replicator.ops.cli.cluster import KnownCluster, primary_of
    from replicator.runtime import wiring

    own = settings.region.name
    if settings.cluster is None:
        endpoint = None if settings.follow is None else wiring.primary_endpoint(settings, None)
        if endpoint is None:
            message = "only a replica region can be compared with what it follows"
            cure = "name the configuration of a replica region"
            raise ConfigError("not_a_replica", message, place=own, cure=cure)
        return endpoint
    endpoints = cluster_endpoints(settings, None)
    primary = primary_of(KnownCluster(own, endpoints, settings.failover.switchover_seconds))
    if primary == own:
        cure = "name the configurations of the other regions"
        raise ConfigError("not_a_replica", "this region leads: the others are compared with it", place=own, cure=cure)
    return endpoints[primary]


def _as_json(verdict: Verdict) -> Answer:
    return {
        "replica": verdict.replica,
        "result": verdict.result,
        "position": str(verdict.position),
        "sequence": verdict.position.sequence,
        "tables": [
            {
                "table": table.table,
                "equal": table.is_equal,
                "primary_rows": table.primary_rows,
                "replica_rows": table.replica_rows,
                "different": table.different,
                "problem": table.problem,
                "primary_digest": table.primary_digest,
                "replica_digest": table.replica_digest,
                "differences": [_difference(difference) for difference in table.differences],
            }
            for table in verdict.tables
        ],
    }


def _difference(difference: Difference) -> Answer:
    fields: Answer = {"key": difference.key, "primary": difference.primary, "replica": difference.replica}
    if (diagnosis := difference.diagnosis) is not None:
        fields["odd"] = list(diagnosis.odd)
        fields["cause"] = diagnosis.cause
        fields["last_block"] = diagnosis.last._asdict() if diagnosis.last else None
        fields["first_block"] = diagnosis.first._asdict() if diagnosis.first else None
    return fields


def _lines(verdict: Answer) -> Iterator[str]:
    if "error" in verdict:
        error = verdict["error"]
        cure = f"\n  cure: {error['cure']}" if error["cure"] else ""
        yield f"{verdict['replica']}: {verdict['result']}: {error['place']}: {error['message']}{cure}"
        return
    rows = sum(table["primary_rows"] for table in verdict["tables"])
    at = f"at sequence {verdict['sequence']} ({len(verdict['tables'])} tables, {rows:,} rows)"
    yield f"{verdict['replica']}: {verdict['result']} {at}"
    for table in verdict["tables"]:
        if table["problem"]:
            yield f"  {table['table']}: {table['problem']}"
        elif not table["equal"]:
            yield f"  {table['table']}: {table['different']:,} keys differ"
            for difference in table["differences"]:
                yield f"    key {difference['key']}"
                yield f"      primary {difference['primary']}"
                yield f"      replica {difference['replica']}"
                yield from (f"      {line}" for line in _diagnosis(difference))
            if len(table["differences"]) < table["different"]:
                yield f"    … and {table['different'] - len(table['differences']):,} more (--list)"


def _diagnosis(difference: Answer) -> Iterator[str]:
    if "cause" not in difference:
        return
    if difference["odd"]:
        yield f"wrong by the journal: {', '.join(difference['odd'])}"
    yield f"likely cause: {difference['cause']}"
    for name, words in (
        ("first_block", "first block whose change is missing:"),
        ("last_block", "last touched by block"),
    ):
        if block := difference[name]:
            at = datetime.datetime.fromtimestamp(block["committed_at"] / 1e6, datetime.UTC)
            yield f"{words} {block['sequence']}, transaction {block['txid']}, {at:%Y-%m-%d %H:%M:%S.%f}Z"
