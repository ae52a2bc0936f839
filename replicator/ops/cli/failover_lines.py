"""What ``replicator status`` prints of a region's part in failover."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from replicator.ops.cli import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_LEVELS = {"green": "green", "yellow": "yellow", "red": "bold red"}


def show_failover(console: Console, told: dict[str, Any]) -> None:
    """The answer's ``failover``."""
    from replicator.status.failover import ORPHANS_CURE, orphans_text

    primary = told["primary"]
    why = f", {_text(primary['why'])}" if primary["why"] else ""
    level = f"[{_LEVELS.get(primary['level'], 'red')}]{_text(primary['level'])}[/]"
    console.print()
    console.print(
        f"[bold]failover[/], {_text(told['mode'])}: this region is {_text(told['state'])}; primary {level}{why}"
    )
    if told["why"]:
        console.print(f"  now: {_text(told['why'])}")
    console.print(f"  lease: {_text(told['lease']['summary'])}")
    if told["order"]:
        console.print(f"  order: {_text(told['order']['what'])}, {told['order']['seconds']:.1f} s left")
    console.print(f"  if the primary were gone now: {_text(told['would_lose']['summary'])} would be lost")
    if told["orphaned_transactions"]:
        console.print(f"  [bold red]orphans:[/] {orphans_text(told['orphaned_transactions'])}")
        console.print(f"  [bold]cure:[/] {_text(ORPHANS_CURE)}")
    console.print(_regions(told["regions"]))


def _regions(regions: list[dict[str, Any]]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("region", "state"):
        table.add_column(name)
    for name in ("epoch", "sequence", "applied"):
        table.add_column(name, justify="right")
    table.add_column("could be promoted")
    for one in regions:
        style = "green" if one["promotable"] else "red"
        table.add_row(
            _text(one["region"]),
            _text(one["state"] or "?"),
            f"{one['epoch']:,}",
            f"{one['sequence']:,}",
            f"{one['applied']:,}",
            f"[{style}]{_text(one['summary'])}[/]",
        )
    return table


def _text(value: object) -> str:
    from rich.markup import escape

    return escape(printable(str(value)))
