"""``replicator verify``: are two regions equal?"""

from __future__ import annotations

import datetime
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from replicator.ops.cli import example, printable

if TYPE_CHECKING:
    from replicator.verify.check import Verdict
    from replicator.verify.compare import Difference

DIVERGENT, NOT_CHECKED = 16, 32


@click.command("verify")
@click.argument("configs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--list", "listed", default=20, show_default=True, help="Differences to list per table.")
@click.option("--json", "as_json", is_flag=True, help="The verdicts as JSON.")
@example("replicator verify tokyo.toml", "replicator verify tokyo.toml lima.toml --json")
def command(configs: tuple[Path, ...], listed: int, as_json: bool) -> None:
    """Compares replica regions with the primary that they follow: every row, at one position.

    CONFIGS are the replica regions' files. Both sidecars of each pair must run; writes go on meanwhile, and neither
    side is locked. Digests are compared first, rows only where those differ. Of a key that differs it tells both rows,
    the block that touched it last, the first block whose change is missing, who is wrong by the journal, and the likely
    cause. Exit code 0: equal. 16: divergent. 32: could not be checked. 2: wrong usage or configuration.
    """
    import trio

    from replicator.config import load
    from replicator.errors import ReplicatorError
    from replicator.supervise import first_cause
    from replicator.verify.check import Divergence, verify
    from replicator.verify.vote import vote

    code = 0
    verdicts: list[Verdict] = []
    told: list[dict[str, Any]] = []
    for settings in [load(path) for path in configs]:
        primary, replica = _of_cluster(settings) if settings.cluster else _endpoints(settings)
        try:
            verdict = trio.run(verify, primary, replica, listed)
            verdicts.append(verdict)
            code = max(code, 0 if verdict.is_equal else DIVERGENT)
        except* ReplicatorError as group:
            error = first_cause(group)
            result = "divergent" if isinstance(error, Divergence) else "not checked"
            told.append({"replica": replica.name, "result": result, "error": error.as_json()})
            code = max(code, DIVERGENT if isinstance(error, Divergence) else NOT_CHECKED)
    _tell([*map(_as_json, vote(verdicts)), *told], as_json=as_json)
    sys.exit(code)


def _endpoints(settings: Any) -> tuple[Any, Any]:
    from replicator.errors import ConfigError
    from replicator.transport.endpoint import Endpoint, own_endpoint

    follow = settings.follow
    if follow is None:
        raise ConfigError(
            "not_a_replica",
            "only a replica region can be compared with what it follows",
            place=str(settings.region.name),
            cure="name the configuration of a replica region",
        )
    token = follow.token.reveal() if follow.token else None
    primary = Endpoint("primary", follow.primary, token, follow.ca, "[follow] token", "[follow] ca =")
    return primary, own_endpoint(settings)


def _of_cluster(settings: Any) -> tuple[Any, Any]:
    """A region of a cluster is compared with the one that leads now. Raises ReplicatorError if none does."""
    from replicator.errors import ConfigError
    from replicator.ops.cli.client import of_cluster
    from replicator.ops.cli.known_cluster import KnownCluster, primary_of

    me, regions = settings.region.name, of_cluster(settings, None)
    primary = primary_of(KnownCluster(me, regions, settings.failover.switchover_seconds))
    if primary == me:
        cure = "name the configurations of the other regions"
        raise ConfigError("not_a_replica", "this region leads: the others are compared with it", place=me, cure=cure)
    return regions[primary], regions[me]


def _as_json(verdict: Verdict) -> dict[str, Any]:
    return {
        "replica": verdict.replica,
        "result": "equal" if verdict.is_equal else "divergent",
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


def _difference(difference: Difference) -> dict[str, Any]:
    found = difference.diagnosis
    fields: dict[str, Any] = {"key": difference.key, "primary": difference.primary, "replica": difference.replica}
    if found is not None:
        fields["odd"] = list(found.odd)
        fields["cause"] = found.cause
        fields["last_block"] = found.last._asdict() if found.last else None
        fields["first_block"] = found.first._asdict() if found.first else None
    return fields


def _tell(told: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        import json

        click.echo(json.dumps(told, indent=2))
        return
    for verdict in told:
        for line in _lines(verdict):
            click.echo(printable(line))


def _lines(verdict: dict[str, Any]) -> list[str]:
    if "error" in verdict:
        error = verdict["error"]
        cure = f"\n  cure: {error['cure']}" if error["cure"] else ""
        return [f"{verdict['replica']}: {verdict['result']}: {error['place']}: {error['message']}{cure}"]
    rows = sum(table["primary_rows"] for table in verdict["tables"])
    lines = [
        f"{verdict['replica']}: {verdict['result']} at sequence {verdict['sequence']}"
        f" ({len(verdict['tables'])} tables, {rows:,} rows)"
    ]
    for table in verdict["tables"]:
        if table["problem"]:
            lines.append(f"  {table['table']}: {table['problem']}")
        elif not table["equal"]:
            lines.append(f"  {table['table']}: {table['different']:,} keys differ")
            for difference in table["differences"]:
                lines.append(f"    key {difference['key']}")
                lines.append(f"      primary {difference['primary']}")
                lines.append(f"      replica {difference['replica']}")
                lines += [f"      {line}" for line in _diagnosis(difference)]
            if len(table["differences"]) < table["different"]:
                lines.append(f"    … and {table['different'] - len(table['differences']):,} more (--list)")
    return lines


def _diagnosis(difference: dict[str, Any]) -> list[str]:
    if "cause" not in difference:
        return []
    lines = [f"wrong by the journal: {', '.join(difference['odd'])}"] if difference["odd"] else []
    lines.append(f"likely cause: {difference['cause']}")
    for name, words in (
        ("first_block", "first block whose change is missing:"),
        ("last_block", "last touched by block"),
    ):
        if block := difference[name]:
            at = datetime.datetime.fromtimestamp(block["committed_at"] / 1e6, datetime.UTC)
            lines.append(f"{words} {block['sequence']}, transaction {block['txid']}, {at:%Y-%m-%d %H:%M:%S.%f}Z")
    return lines
