"""``replicator status``: how a region is, asked of its running sidecar."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from replicator.ops.cli import FAILED, example
from replicator.ops.cli.common import Answer, readable
from replicator.ops.terminal import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_LEVELS = {"green": "green", "yellow": "yellow", "red": "bold red"}
_STYLES = {"working": "green", "idle": "green", "waiting": "yellow", "stuck": "red", "halted": "bold red"}
SHOWN_KEYS = 5
SHOWN_GAPS = 10


@click.command("status")
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option("--url", help="The sidecar's address, instead of the one in CONFIG.")
@click.option("--ca", type=click.Path(path_type=Path), help="Certificates to trust, PEM.")
@click.option("--json", "as_json", is_flag=True, help="The answer of /v1/status as it is.")
@example(
    "replicator status region.toml",
    "replicator status --url http://127.0.0.1:7400 --json | jq .strands[0].lag",
)
def command(config: Path | None, url: str | None, ca: Path | None, as_json: bool) -> None:
    """How the running sidecar of a region is, and what holds it up.

    CONFIG is the region's file: address and token are taken from it. Exit code 0: ready (it lags by 30 seconds at
    most and nothing is halted). 1: not ready, or not reachable. 2: wrong usage or configuration.
    """
    from replicator.ops.cli.client import get, sidecar_endpoint

    sidecar = sidecar_endpoint(config, url, ca)
    status = get(sidecar, "/v1/status")
    with readable(sidecar):
        ready = status["ready"] is True
        if as_json:
            click.echo(json.dumps(status, indent=2))
        else:
            _show(status)
    sys.exit(0 if ready else FAILED)


def _show(status: Answer) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    state = "[green]ready[/]" if status["ready"] else "[bold red]not ready[/]"
    follows = f", follows {_text(status['primary'])}" if status["primary"] else ""
    console.print(f"[bold]{_text(status['region'])}[/]  {state}  {_text(status['role'])}{follows}")
    if status["blocked"]:
        _show_error(console, status["blocked"])
    if status.get("failover"):
        _show_failover(console, status["failover"])
    for strand in status["strands"]:
        _show_strand(console, strand)
    for follower in status["followers"]:
        sent = f"{follower['sent_sequence']:,} of {_text(follower['strand'])}"
        console.print(f"follower {_text(follower['region'])}: sent up to {sent}")
    _show_drills(console, status.get("drills", ()))


def _show_failover(console: Console, failover: Answer) -> None:
    from replicator.status.text import ORPHANS_CURE, orphans_text

    primary = failover["primary"]
    why = f", {_text(primary['why'])}" if primary["why"] else ""
    level = f"[{_LEVELS.get(primary['level'], 'red')}]{_text(primary['level'])}[/]"
    console.print()
    console.print(
        f"[bold]failover[/], {_text(failover['mode'])}: this region is {_text(failover['state'])}; primary {level}{why}"
    )
    if failover["why"]:
        console.print(f"  now: {_text(failover['why'])}")
    console.print(f"  lease: {_text(failover['lease']['summary'])}")
    if failover["order"]:
        console.print(f"  order: {_text(failover['order']['what'])}, {failover['order']['seconds']:.1f} s left")
    console.print(f"  if the primary were gone now: {_text(failover['would_lose']['summary'])} would be lost")
    if failover["orphaned_transactions"]:
        console.print(f"  [bold red]orphans:[/] {orphans_text(failover['orphaned_transactions'])}")
        console.print(f"  [bold]cure:[/] {_text(ORPHANS_CURE)}")
    console.print(_region_table(failover["regions"]))


def _region_table(regions: list[Answer]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("region", "state"):
        table.add_column(name)
    for name in ("epoch", "sequence", "applied"):
        table.add_column(name, justify="right")
    table.add_column("could be promoted")
    for region in regions:
        style = "green" if region["promotable"] else "red"
        table.add_row(
            _text(region["region"]),
            _text(region["state"] or "?"),
            f"{region['epoch']:,}",
            f"{region['sequence']:,}",
            f"{region['applied']:,}",
            f"[{style}]{_text(region['summary'])}[/]",
        )
    return table


def _show_drills(console: Console, drills: Iterable[Answer]) -> None:
    from replicator.status.text import drill_text

    for drill in drills:
        words = drill_text(drill["kind"], drill["outcome"], drill["age_seconds"], drill["rto_seconds"])
        console.print(f"drill {_text(words)}")


def _show_error(console: Console, error: Answer) -> None:
    place = f"{_text(error['place'])}: " if error["place"] else ""
    console.print(f"  {place}{_text(error['message'])} \\[{_text(error['reason'])}]")
    if error["cure"]:
        console.print(f"  [bold]cure:[/] {_text(error['cure'])}")


def _show_strand(console: Console, strand: Answer) -> None:
    lag = strand["lag"]
    console.print()
    console.print(f"[bold]strand {_text(strand['strand'])}[/], epoch {strand['epoch']:d}: {_lag_words(lag)}")
    console.print(f"  what holds it up: {_text(lag['cause'])}")
    marks = ", ".join(f"{_text(name)} {_count(sequence)}" for name, sequence in strand["marks"].items())
    head = strand["head"]
    console.print(f"  head {_count(head and head['sequence'])}, {marks}")
    console.print(_stage_table(strand["stages"]))
    for stage in strand["stages"]:
        if stage["trouble"]:
            console.print(f"  {_text(stage['stage'])} {_text(stage['condition'])}:")
            _show_error(console, stage["trouble"])
    if strand.get("journal"):
        console.print(f"  journal: {_text(strand['journal']['summary'])}")
    _show_safety(console, strand)
    _show_quarantine(console, strand)
    _show_gaps(console, strand["settle"])
    _show_verify(console, strand["verify"])
    for reset in strand["resets"]:
        console.print(f"  set back by hand: {_text(reset)}")


def _show_safety(console: Console, strand: Answer) -> None:
    """What would be lost with a primary, and whether its writers wait for that."""
    if strand.get("acknowledge"):
        style = "bold red" if strand["acknowledge"]["degraded"] else "bold"
        console.print(f"  [{style}]acknowledgement:[/] {_text(strand['acknowledge']['summary'])}")
    if strand.get("at_risk") and strand["at_risk"]["blocks"]:
        console.print(f"  in no other region yet: {_text(strand['at_risk']['summary'])}")


def _stage_table(stages: list[Answer]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("stage")
    table.add_column("")
    for name in ("blocks behind", "time behind", "last progress", "heartbeat"):
        table.add_column(name, justify="right")
    for stage in stages:
        style = _STYLES.get(stage["condition"], "red")
        table.add_row(
            _text(stage["stage"]),
            f"[{style}]{_text(stage['condition'])}[/]",
            _count(stage["lag"]["blocks"]),
            _seconds(stage["lag"]["seconds"]),
            _seconds(stage["progress_age_seconds"]),
            "" if stage["heartbeat_age_seconds"] is None else _seconds(stage["heartbeat_age_seconds"]),
        )
    return table


def _show_quarantine(console: Console, strand: Answer) -> None:
    from replicator.status.text import QUARANTINE_CURE, quarantine_text

    if strand["quarantined_statements"]:
        text = quarantine_text(strand["quarantined_statements"], strand.get("held_keys", {}))
        console.print(f"  [bold red]quarantine:[/] {_text(text)}")
        console.print(f"  [bold]cure:[/] {_text(QUARANTINE_CURE)}")


def _show_gaps(console: Console, settle: Answer | None) -> None:
    gaps = settle["gaps"] if settle else []
    for gap in gaps[:SHOWN_GAPS]:
        age = _seconds(gap["age_seconds"])
        console.print(f"  gap {gap['first']:,} to {gap['last']:,}: {_text(gap['state'])}, open for {age}")
    if len(gaps) > SHOWN_GAPS:
        console.print(f"  and {len(gaps) - SHOWN_GAPS:,} gaps more: replicator gaps CONFIG")
    if settle and settle["pressure"]:
        console.print(f"  the settle buffer is full ({_text(settle['pressure'])}): the feed waits until there is room")
    if settle and settle["spool_set_aside"]:
        aside = _text(settle["spool_set_aside"])
        console.print(f"  a damaged spool is kept as {aside}; the feed is read again")


def _show_verify(console: Console, verify: Answer | None) -> None:
    if verify is None:
        return
    age = _seconds(verify["age_seconds"])
    waiting = f", the next blocks wait since {age}" if verify["age_seconds"] else ""
    scrub = ""
    if verify["scrub_sequence"] is not None:
        scrub = f"; scrubbed at {_count(verify['scrub_sequence'])}, {_seconds(verify['scrub_age_seconds'])} ago"
    console.print(f"  proven equal up to {_count(verify['verified'])}{waiting}{scrub}")
    for table, keys in verify["divergent_keys"].items():
        console.print(
            f"  [bold red]divergent:[/] {keys:,} keys of table {_text(table)}: see replicator verify CONFIG,"
            " replicator repair CONFIG"
        )
    for wrong in verify["wrong"][:SHOWN_KEYS]:
        first = f", since block {_count(wrong['first_block'])}" if wrong["first_block"] else ""
        console.print(f"    {_text(wrong['table'])}, {_text(wrong['key'])}{first}: {_text(wrong['cause'])}")
    if verify["trouble"]:
        console.print(f"  cannot be proven now: {_text(verify['trouble'])}")


def _lag_words(lag: Answer) -> str:
    if lag["blocks"] == 0 and lag["seconds"] is not None:
        return "at the head" + (f" as of {_seconds(lag['seconds'])} ago" if lag["seconds"] else "")
    return f"{_count(lag['blocks'])} blocks, {_seconds(lag['seconds'])} behind"


def _count(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"


def _seconds(seconds: float | None) -> str:
    from replicator.status.text import seconds_text

    return "?" if seconds is None else seconds_text(seconds)


def _text(value: object) -> str:
    """Text of the answer, safe for the terminal and for rich's markup."""
    from rich.markup import escape

    return escape(printable(str(value)))
