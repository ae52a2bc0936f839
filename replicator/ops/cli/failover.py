"""``replicator failover``: a region is made the primary after the old one is lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from replicator.ops.cli import FAILED, example, printable
from replicator.ops.cli.common import whom_options


@click.command("failover")
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Show who would lead and what would be lost; change nothing.")
@click.option("--allow-data-loss", is_flag=True, help="Lead although more may be lost than the budget allows.")
@click.option("--primary-is-fenced", is_flag=True, help="Your word that the old primary cannot write (static lease).")
@click.option("--reason", default="", help="Why; needed with --allow-data-loss.")
@click.option("--timeout", type=float, default=60.0, show_default=True, help="Seconds to wait for it.")
@whom_options
@example("replicator failover tokyo.toml --dry-run", "replicator failover tokyo.toml")
def command(
    config: Path | None,
    dry_run: bool,
    allow_data_loss: bool,
    primary_is_fenced: bool,
    reason: str,
    timeout: float,
    url: str | None,
    ca: Path | None,
    as_json: bool,
) -> None:
    """Makes the region of CONFIG the primary: nobody may hold the lease, and no more may be lost than is allowed.

    First it gets what other regions have more, applies it, and has it verified. Exit code 0: it leads, or with
    --dry-run it could. 1: refused, given up, or not reachable. 2: wrong usage or configuration.
    """
    from replicator.ops.cli.client import sidecar, tell
    from replicator.ops.cli.common import said
    from replicator.ops.cli.known_cluster import EventWatcher, state_of

    if allow_data_loss and not reason.strip():
        raise click.UsageError("--allow-data-loss needs a --reason")
    whom = sidecar(config, url, ca)
    if dry_run:
        state = state_of(whom)
        against = list(_against(state))
        shown = {
            "against": against,
            **{name: state[name] for name in ("report", "level", "views", "would_lose", "lease")},
        }
        click.echo(json.dumps(shown, indent=2) if as_json else printable("\n".join(_lines(state, against))))
        raise click.exceptions.Exit(FAILED if against else 0)
    watcher = EventWatcher({"it": whom}, lambda line: None if as_json else click.echo(line.removeprefix("it: ")))
    order: dict[str, Any] = {"verb": "failover", "seconds": timeout, "reason": said(reason)}
    order |= {"allow_data_loss": True} if allow_data_loss else {}
    order |= {"primary_is_fenced": True} if primary_is_fenced else {}
    tell(whom, "/v1/failover/orders", order)
    ended: list[str] = []

    def done(name: str, event: dict[str, Any]) -> bool:
        report = watcher.states.get("it", {}).get("report", {})
        if event.get("event") in ("refused", "lost"):
            ended.append(str(event["why"]))
        return bool(ended) or (report.get("state") == "primary" and bool(report.get("open")))

    leads = watcher.until(done, timeout + 5.0) and not ended
    why = None if leads else (ended[0] if ended else "it was not done in time")
    click.echo(json.dumps({"leads": leads, "why": why}) if as_json else ("it leads" if leads else f"given up: {why}"))
    if not leads:
        raise click.exceptions.Exit(FAILED)


def _against(state: dict[str, Any]) -> Iterator[str]:
    """What speaks against it now."""
    report, lease = state["report"], state["lease"]
    if report["blocked"]:
        yield f"it cannot be promoted: {report['blocked']}"
    if lease is None:
        yield "the lease store does not answer"
    elif lease["holder"] is not None:
        yield f"{lease['holder']['region']} holds the lease in epoch {lease['holder']['epoch']}"
    if state["refused"]:
        yield str(state["refused"])


def _lines(state: dict[str, Any], against: list[str]) -> Iterator[str]:
    report = state["report"]
    yield f"{report['region']} is {report['state']}, at sequence {report['sequence']:,}, epoch {report['epoch']}"
    yield f"the primary: {state['level']}" + (f", {state['why']}" if state["why"] else "")
    for region, ago in state["views"].items():
        yield f"  {region} " + ("knows of none" if ago is None else f"heard it {ago:.1f} s ago")
    for name, peer in state["peers"].items():
        other = peer["report"]
        yield f"  {name} has sequence {other['sequence']:,}" + (f"; {other['blocked']}" if other["blocked"] else "")
    lost = state["would_lose"]
    yield f"known to be lost: {lost['blocks']} blocks" + "".join(f", {a:g} {c}" for c, a in lost["amounts"].items())
    yield from (f"against it: {one}" for one in against)
    yield "nothing was changed"
