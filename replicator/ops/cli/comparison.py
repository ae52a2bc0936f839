"""A comparison of a replica region with its primary, as the verbs that rewrite need it: keys, and an exit code.

Guarantee: equal is said only of a comparison that was made. A replay that is halted is told instead of waited for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from replicator.ops.cli.common import readable
from replicator.ops.terminal import printable

if TYPE_CHECKING:
    from replicator.config import Config
    from replicator.transport.endpoint import Endpoint
    from replicator.verify.check import Verdict

DIVERGENT, NOT_CHECKED = 16, 32


class ComparisonVerdict(NamedTuple):
    """How a comparison came out: its exit code, a line for people, and the verdict if there is one."""

    code: int
    line: str
    verdict: Verdict | None

    def as_json(self) -> dict[str, Any]:
        """For ``--json``."""
        result = {0: "equal", DIVERGENT: "divergent"}.get(self.code, "not checked")
        sequence = None if self.verdict is None else self.verdict.position.sequence
        return {"result": result, "sequence": sequence, "message": self.line}


def replica_only(config: Config, verb: str) -> None:
    """Raise ConfigError for the configuration of a primary: nobody but its users writes to a ledger. In a cluster the
    sidecar refuses by itself, because roles change."""
    from replicator.errors import ConfigError

    if config.cluster is None and config.region.role != "replica":
        message = f"{verb} rewrites a replica from its journal; on a primary it would change the ledger itself"
        cure = "name the configuration of a replica region"
        raise ConfigError("not_a_replica", message, place=f"[region] role = {config.region.role}", cure=cure)


def _primary(config: Config) -> Endpoint:
    """The primary to compare with; in a cluster that is whom the running sidecar follows now."""
    from replicator.errors import ConfigError
    from replicator.ops.cli.client import get_object, own_sidecar
    from replicator.runtime import wiring

    url = None
    if config.cluster is not None:
        url = get_object(own_sidecar(config), "/v1/status").get("primary")
    endpoint = wiring.primary_endpoint(config, url)
    if endpoint is None:
        cure = "name the configuration of a region that follows one"
        raise ConfigError("no_primary", "this region follows nobody now", place=config.region.name, cure=cure)
    return endpoint


def compare(config: Config, listed: int) -> ComparisonVerdict:
    """Compare the region with the one that it follows, with so many differences listed in each table."""
    import trio

    from replicator.errors import ReplicatorError
    from replicator.supervise import first_cause
    from replicator.transport.endpoint import own_endpoint
    from replicator.verify.check import Divergence, verify

    primary, replica = _primary(config), own_endpoint(config)
    comparison: ComparisonVerdict | None = None
    try:
        verdict = trio.run(verify, primary, replica, listed)
        at = f"at sequence {verdict.position.sequence}"
        if verdict.is_equal:
            comparison = ComparisonVerdict(0, f"equal {at}", verdict)
        else:
            different = sum(table.different for table in verdict.tables)
            problems = [f"{table.table}: {table.problem}" for table in verdict.tables if table.problem]
            line = "; ".join([f"{verdict.result} {at}: {different:,} keys differ", *problems])
            code = DIVERGENT if verdict.result == "divergent" else NOT_CHECKED
            comparison = ComparisonVerdict(code, line, verdict)
    except* ReplicatorError as group:
        error = first_cause(group)
        code = DIVERGENT if isinstance(error, Divergence) else NOT_CHECKED
        comparison = ComparisonVerdict(code, printable(str(error)), None)
    assert comparison is not None  # an except* may not return
    return comparison


def replay_halt(sidecar: Endpoint) -> str:
    """Why replay is halted; empty if it is not. A comparison would wait for it in vain."""
    from replicator.ops.cli.client import get

    with readable(sidecar):
        stages = [stage for strand in get(sidecar, "/v1/status")["strands"] for stage in strand["stages"]]
        halted = [stage for stage in stages if stage["stage"] == "apply" and stage["condition"] == "halted"]
        return str(halted[0]["trouble"]["message"]) if halted else ""


def keys_of(verdict: Verdict) -> tuple[list[tuple[str, tuple[str, ...]]], list[str]]:
    """The keys that differ, as (table, key texts); and the tables without a key in which rows do."""
    keys: dict[tuple[str, tuple[str, ...]], None] = {}
    keyless: dict[str, None] = {}
    for table in verdict.tables:
        for difference in table.differences:
            texts = tuple(text or "" for text in difference.key.values())
            if texts:
                keys[difference.table, texts] = None
            else:
                keyless[difference.table] = None
    return list(keys), list(keyless)
