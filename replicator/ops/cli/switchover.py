"""``replicator switchover``: the primary moves, planned."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from replicator.ops.cli import FAILED, example
from replicator.ops.cli.common import Answer, signed


@click.command("switchover")
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--to", "target", required=True, help="The region that is to lead.")
@click.option(
    "--timeout", type=click.FloatRange(0.1, 3600), help="Called off after so many seconds; else [failover] switchover."
)
@click.option("--reason", default="", help="Why; it is kept in the history.")
@click.option("--ca", type=click.Path(path_type=Path), help="Certificates to trust, PEM.")
@click.option("--json", "as_json", is_flag=True, help="What was measured, as JSON.")
@example("replicator switchover paris.toml --to tokyo", "replicator switchover tokyo.toml --to tokyo --timeout 5")
def command(config: Path, target: str, timeout: float | None, reason: str, ca: Path | None, as_json: bool) -> None:
    """Moves the primary to another region: writers are told to come again, the target gets all there is, has it
    verified, takes the lease, and opens. CONFIG is that of any region of the cluster.

    If a step cannot be done in its time the old primary opens again. Exit code 0: the target leads. 1: called off,
    refused, or not reachable. 2: wrong usage or configuration.
    """
    from replicator.ops.cli.client import post
    from replicator.ops.cli.cluster import EventWatcher, cluster_of, primary_of

    cluster = cluster_of(config, ca)
    timeout = timeout or cluster.switchover_seconds
    primary = primary_of(cluster)
    if primary == target:
        click.echo(json.dumps({"primary": target, "moved": False}) if as_json else f"{target} leads already")
        return
    sidecars = {name: sidecar for name, sidecar in cluster.sidecars.items() if name in (primary, target)}
    watcher = EventWatcher(sidecars, lambda line: None if as_json else click.echo(line))
    order = {"verb": "switchover", "target": target, "seconds": timeout, "reason": signed(reason)}
    post(cluster.sidecars[primary], "/v1/failover/orders", order)
    began = time.monotonic()
    blocked_at: list[float] = []
    called_off: list[str] = []

    def ended(name: str, event: Answer) -> bool:
        new = watcher.states.get(target, {}).get("report", {})
        old = watcher.states.get(primary, {}).get("report", {})
        if not blocked_at and old and not old["open"]:
            blocked_at.append(time.monotonic())
        if name == primary and event.get("event") == "reopen":
            called_off.append(str(event.get("why")))
            return True
        return bool(new) and new["state"] == "primary" and bool(new["open"])

    # The regions call it off by themselves after the timeout: what they then say is waited for.
    moved = watcher.until(ended, timeout + 10.0) and not called_off
    seconds = time.monotonic() - began
    blocked_seconds = time.monotonic() - blocked_at[0] if blocked_at and moved else None
    if as_json:
        content = {"primary": target if moved else primary, "moved": moved, "seconds": seconds}
        content |= {"blocked_seconds": blocked_seconds, "called_off": called_off[0] if called_off else None}
        click.echo(json.dumps(content))
    elif moved:
        words = "" if blocked_seconds is None else f"; writers were blocked for about {blocked_seconds:.2f} s"
        click.echo(f"{target} leads after {seconds:.2f} s{words}")
    else:
        why = called_off[0] if called_off else "it was not done in time; replicator status CONFIG shows who leads"
        click.echo(f"called off: {why}", err=True)
    if not moved:
        raise click.exceptions.Exit(FAILED)
