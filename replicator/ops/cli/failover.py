"""``replicator failover``: a region is made the primary after the old one is lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from replicator.ops.cli import FAILED, example
from replicator.ops.cli.common import Answer, sidecar_options, signed
from replicator.ops.terminal import printable

if TYPE_CHECKING:
    from replicator.transport.endpoint import Endpoint


@click.command("failover")
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Show who would lead and what would be lost; change nothing.")
@click.option("--allow-data-loss", is_flag=True, help="Lead although more may be lost than the budget allows.")
@click.option("--primary-is-fenced", is_flag=True, help="Your word that the old primary cannot write (static lease).")
@click.option("--reason", default="", help="Why; needed with --allow-data-loss.")
@click.option("--timeout", type=float, default=60.0, show_default=True, help="Seconds to wait for it.")
@sidecar_options
@example("replicator failover tokyo.toml --dry-run", "replicator failover tokyo.toml")
def command(
    sidecar: Endpoint,
    dry_run: bool,
    allow_data_loss: bool,
    primary_is_fenced: bool,
    reason: str,
    timeout: float,
    as_json: bool,
) -> None:
    """Makes the region of CONFIG the primary: nobody may hold the lease, and no more may be lost than is allowed.

    First it gets what other regions have more, applies it, and has it verified. Exit code 0: it leads, or with
    --dry-run it could. 1: refused, given up, or not reachable. 2: wrong usage or configuration.
    """
    from replicator.ops.cli.client import post
    from replicator.ops.cli.cluster import EventWatcher

    if allow_data_loss and not reason.strip():
        raise click.UsageError("--allow-data-loss needs a --reason")
    if dry_run:
        _show_outlook(sidecar, as_json=as_json)
        return
    watcher = EventWatcher({"it": sidecar}, lambda line: None if as_json else click.echo(line.removeprefix("it: ")))
    order: Answer = {"verb": "failover", "seconds": timeout, "reason": signed(reason)}
    order |= {"allow_data_loss": True} if allow_data_loss else {}
    order |= {"primary_is_fenced": True} if primary_is_fenced else {}
    post(sidecar, "/v1/failover/orders", order)
    refusals: list[str] = []

    def ended(name: str, event: Answer) -> bool:
        report = watcher.states.get("it", {}).get("report", {})
        if event.get("event") in ("refused", "lost"):
            refusals.append(str(event["why"]))
        # Primary alone is not enough: writes are open only when the new epoch has its first block.
        return bool(refusals) or (report.get("state") == "primary" and bool(report.get("open")))

    leads = watcher.until(ended, timeout + 5.0) and not refusals
    why = None if leads else (refusals[0] if refusals else "it was not done in time")
    click.echo(json.dumps({"leads": leads, "why": why}) if as_json else ("it leads" if leads else f"given up: {why}"))
    if not leads:
        raise click.exceptions.Exit(FAILED)


def _show_outlook(sidecar: Endpoint, *, as_json: bool) -> None:
    """Show who would lead, what would be lost, and what speaks against it; exit code 1 if anything does."""
    from replicator.ops.cli.cluster import state_of

    state = state_of(sidecar)
    against = list(_against(state))
    shown = {"against": against, **{name: state[name] for name in ("report", "level", "views", "would_lose", "lease")}}
    click.echo(json.dumps(shown, indent=2) if as_json else printable("\n".join(_lines(state, against))))
    raise click.exceptions.Exit(FAILED if against else 0)


def _against(state: Answer) -> Iterator[str]:
    """What speaks against a failover to this region now."""
    report, lease = state["report"], state["lease"]
    if report["blocked"]:
        yield f"it cannot be promoted: {report['blocked']}"
    if lease is None:
        yield "the lease store does not answer"
    elif lease["holder"] is not None:
        yield f"{lease['holder']['region']} holds the lease in epoch {lease['holder']['epoch']}"
    if state["refused"]:
        yield str(state["refused"])


def _as_of(state: Answer) -> str:
    """How old the word is that this rests on: the last one of the region that led."""
    peers = state["peers"]
    led = max(peers, key=lambda name: peers[name]["report"]["led"], default=None)
    if led is None or peers[led]["report"]["led"] <= state["report"]["led"]:
        return ""
    age = f"{peers[led]['age_seconds']:.1f} s ago"
    return f", as of {age}; what {led} has committed since then nobody knows"


def _lines(state: Answer, against: list[str]) -> Iterator[str]:
    report = state["report"]
    yield f"{report['region']} is {report['state']}, at sequence {report['sequence']:,}, epoch {report['epoch']}"
    yield f"the primary: {state['level']}" + (f", {state['why']}" if state["why"] else "")
    for region, ago in state["views"].items():
        yield f"  {region} " + ("knows of none" if ago is None else f"heard it {ago:.1f} s ago")
    for name, peer in state["peers"].items():
        other = peer["report"]
        known = f"  {name} has sequence {other['sequence']:,}, as of {peer['age_seconds']:.1f} s ago"
        yield known + (f"; {other['blocked']}" if other["blocked"] else "")
    loss = state["would_lose"]
    amounts = "".join(f", {a:g} {c}" for c, a in loss["amounts"].items())
    yield f"known to be lost: at least {loss['blocks']} blocks{amounts}{_as_of(state)}"
    yield from (f"against it: {reason}" for reason in against)
    yield "nothing was changed"
