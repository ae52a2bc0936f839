"""``replicator orphans``: blocks that only this region had, what they had done, and re-applying them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import click

from replicator.ops.cli import example
from replicator.ops.cli.common import Answer, ListsByDefault, get, show_answer, user, whom_options

if TYPE_CHECKING:
    from replicator.transport.endpoint import Endpoint

REAPPLY_SECONDS = 600.0


@click.group("orphans", cls=ListsByDefault)
def command() -> None:
    """Blocks that only this region had when another one took charge. Without another word: list.

    They were sealed before anything was undone. A sealed transaction is clean if every row that it touches is still as
    it was before it: it can be re-applied. It is a conflict if something that came since touches what it touches: a
    person reads the report and decides. Nothing is ever forced.
    """


@command.command("list")
@click.argument("config", required=False, type=click.Path(path_type=Path))
@whom_options
@example("replicator orphans list region.toml", "replicator orphans --url http://127.0.0.1:7400 --json")
def list_(config: Path | None, url: str | None, ca: Path | None, as_json: bool) -> None:
    """Lists what is sealed in a region, the newest first.

    Exit code 0: told, whether there is any or not. 1: not reachable. 2: wrong usage or configuration.
    """
    from replicator.ops.cli.orphan_lines import list_lines

    whom = _sidecar(config, url, ca)
    show_answer(whom, get(whom, "/v1/orphans"), as_json, list_lines)


@command.command("show")
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.argument("orphans_id", metavar="ID", required=False)
@click.option("--verdict", type=click.Choice(["there", "clean", "conflict", "nothing"]), help="Only those.")
@click.option("--after", type=click.IntRange(min=0), default=0, help="Only those behind this sequence.")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True)
@whom_options
@example(
    "replicator orphans show region.toml 104191-104195-9f2c66b01d3e", "replicator orphans show ID --url URL --json"
)
def show(
    config: Path | None,
    orphans_id: str | None,
    verdict: str | None,
    after: int,
    limit: int,
    url: str | None,
    ca: Path | None,
    as_json: bool,
) -> None:
    """Shows sealed transactions: rows before and after, and how they stand to the region in charge by now.

    For reading at length, report.html in the directory that is named has all of it. Exit code 0: told. 1: there is no
    such seal, or not reachable. 2: wrong usage or configuration.
    """
    from replicator.ops.cli.orphan_lines import show_lines

    whom, path = _named(config, orphans_id, url, ca)
    path += f"?after={after}&limit={limit}"
    show_answer(whom, get(whom, path + (f"&verdict={verdict}" if verdict else "")), as_json, show_lines)


@command.command("reapply")
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.argument("orphans_id", metavar="ID", required=False)
@click.option("--tx", "transactions", type=click.IntRange(min=1), multiple=True, help="Only this one, by its sequence.")
@click.option("--apply", "apply", is_flag=True, help="Send them; without it nothing is changed.")
@click.option("--dry-run", "dry_run", is_flag=True, help="Say what would be sent; that is the default.")
@click.option("--who", help="Who takes the responsibility; without it user@machine.")
@whom_options
@example(
    "replicator orphans reapply region.toml 104191-104195-9f2c66b01d3e",
    "replicator orphans reapply region.toml 104191-104195-9f2c66b01d3e --tx 104193 --apply",
)
def reapply(
    config: Path | None,
    orphans_id: str | None,
    transactions: tuple[int, ...],
    apply: bool,
    dry_run: bool,
    who: str | None,
    url: str | None,
    ca: Path | None,
    as_json: bool,
) -> None:
    """Sends sealed transactions that are clean to the primary again, each as a transaction of its own.

    The primary carries one out only if every row is as it was before it; asked twice, it does so once. Without --apply
    it is only said what would be sent. Exit code 0: told, or all that was asked for was re-applied. 1: something was
    refused or left alone that was named, or not reachable. 2: wrong usage or configuration.
    """
    from replicator.ops.cli.orphan_lines import reapply_lines

    if apply and dry_run:
        raise click.UsageError("--apply and --dry-run contradict each other")
    fields = {"who": who or user(), "transactions": list(transactions), "apply": apply}
    whom, path = _named(config, orphans_id, url, ca)
    answer = _tell(whom, f"{path}/reapply", fields)
    show_answer(whom, answer, as_json, reapply_lines)
    if apply and any(one["outcome"] != "re-applied" and one["verdict"] != "there" for one in answer["transactions"]):
        raise SystemExit(1)


@command.command("settle")
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.argument("orphans_id", metavar="ID", required=False)
@click.option("--tx", "transactions", type=click.IntRange(min=1), multiple=True, help="Only this one, by its sequence.")
@click.option("--reason", required=True, help="What was done about them; it is kept beside the seal, and shown.")
@click.option("--who", help="Who says so; without it user@machine.")
@whom_options
@example('replicator orphans settle region.toml 104191-104195-9f2c66b01d3e --tx 104192 --reason "refunded by hand"')
def settle(
    config: Path | None,
    orphans_id: str | None,
    transactions: tuple[int, ...],
    reason: str,
    who: str | None,
    url: str | None,
    ca: Path | None,
    as_json: bool,
) -> None:
    """Notes that a person has dealt with sealed transactions (all that are open, without --tx). Changes no row.

    Exit code 0: noted. 1: refused, or not reachable. 2: wrong usage or configuration.
    """
    from replicator.ops.cli.orphan_lines import settle_lines

    fields = {"who": who or user(), "why": reason, "transactions": list(transactions)}
    whom, path = _named(config, orphans_id, url, ca)
    answer = _tell(whom, f"{path}/settle", fields)
    show_answer(whom, answer, as_json, settle_lines)


def _sidecar(config: Path | None, url: str | None, ca: Path | None) -> Endpoint:
    from replicator.ops.cli.client import sidecar

    return sidecar(config, url, ca)


def _named(config: Path | None, orphans_id: str | None, url: str | None, ca: Path | None) -> tuple[Endpoint, str]:
    """Whom to ask, and the path of the seal; with --url the first word is the ID if there is but one."""
    if orphans_id is None and config is not None and url is not None:
        config, orphans_id = None, str(config)
    if orphans_id is None:
        raise click.UsageError("Missing argument 'ID': see replicator orphans list")
    return _sidecar(config, url, ca), f"/v1/orphans/{quote(orphans_id, safe='')}"


def _tell(whom: Endpoint, path: str, fields: Answer) -> Answer:
    from replicator.ops.cli.client import tell, unreadable

    answer = tell(whom, path, fields, REAPPLY_SECONDS)
    if not isinstance(answer, dict):
        raise unreadable(whom.url, TypeError("not an object"))
    return answer
