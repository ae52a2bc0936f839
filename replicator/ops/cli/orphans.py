"""``replicator orphans``: blocks that only this region had, what they had done, and re-applying them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from replicator.ops.cli import FAILED, example
from replicator.ops.cli.common import (
    Answer,
    ListsByDefault,
    connection_options,
    get_and_show,
    readable,
    show_answer,
    sidecar_options,
    user_name,
)

if TYPE_CHECKING:
    from replicator.transport.endpoint import Endpoint

REAPPLY_SECONDS = 600.0
SHOWN_CHARACTERS = 200
SHOWN_STATEMENTS = 20
WORDS = {"there": "already there", "clean": "can be re-applied", "conflict": "conflict", "nothing": "changes no row"}


def seal_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The arguments CONFIG and ID and the connection's options of a verb that takes ``sidecar`` and ``path``, the
    path of the seal in its API."""

    @functools.wraps(function)
    def resolved(config: Path | None, orphans_id: str | None, url: str | None, ca: Path | None, **others: Any) -> Any:
        from replicator.ops.cli.client import sidecar_endpoint

        if orphans_id is None and config is not None and url is not None:
            config, orphans_id = None, str(config)  # beside --url a single word is the ID
        if orphans_id is None:
            raise click.UsageError("Missing argument 'ID': see replicator orphans list CONFIG")
        path = f"/v1/orphans/{quote(orphans_id, safe='')}"
        return function(sidecar=sidecar_endpoint(config, url, ca), path=path, **others)

    verb = click.argument("orphans_id", metavar="ID", required=False)(connection_options(resolved))
    return click.argument("config", required=False, type=click.Path(path_type=Path))(verb)


@click.group("orphans", cls=ListsByDefault)
def command() -> None:
    """Blocks that only this region had when another one took charge. Without another word: list.

    They were sealed before anything was undone. A sealed transaction is clean if every row that it touches is still as
    it was before it: it can be re-applied. It is a conflict if something that came since touches what it touches: a
    person reads the report and decides. Nothing is ever forced.
    """


@command.command("list")
@click.argument("config", required=False, type=click.Path(path_type=Path))
@sidecar_options
@example("replicator orphans list region.toml", "replicator orphans --url http://127.0.0.1:7400 --json")
def list_(sidecar: Endpoint, as_json: bool) -> None:
    """Lists what is sealed in a region, the newest first.

    Exit code 0: told, whether there is any or not. 1: not reachable. 2: wrong usage or configuration.
    """
    get_and_show(sidecar, "/v1/orphans", _list_lines, as_json=as_json)


@command.command("show")
@click.option("--verdict", type=click.Choice(["there", "clean", "conflict", "nothing"]), help="Only those.")
@click.option("--after", type=click.IntRange(min=0), default=0, help="Only those behind this sequence.")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True)
@seal_options
@example(
    "replicator orphans show region.toml 104191-104195-9f2c66b01d3e", "replicator orphans show ID --url URL --json"
)
def show(sidecar: Endpoint, path: str, verdict: str | None, after: int, limit: int, as_json: bool) -> None:
    """Shows sealed transactions: rows before and after, and how they stand to the region in charge by now.

    For reading at length, report.html in the directory that is named has all of it. Exit code 0: told. 1: there is no
    such seal, or not reachable. 2: wrong usage or configuration.
    """
    query = f"?after={after}&limit={limit}" + (f"&verdict={verdict}" if verdict else "")
    get_and_show(sidecar, path + query, _show_lines, as_json=as_json)


@command.command("reapply")
@click.option("--tx", "transactions", type=click.IntRange(min=1), multiple=True, help="Only this one, by its sequence.")
@click.option("--apply", "apply", is_flag=True, help="Send them; without it nothing is changed.")
@click.option("--dry-run", "dry_run", is_flag=True, help="Say what would be sent; that is the default.")
@click.option("--who", help="Who takes the responsibility; without it user@machine.")
@seal_options
@example(
    "replicator orphans reapply region.toml 104191-104195-9f2c66b01d3e",
    "replicator orphans reapply region.toml 104191-104195-9f2c66b01d3e --tx 104193 --apply",
)
def reapply(
    sidecar: Endpoint,
    path: str,
    transactions: tuple[int, ...],
    apply: bool,
    dry_run: bool,
    who: str | None,
    as_json: bool,
) -> None:
    """Sends sealed transactions that are clean to the primary again, each as a transaction of its own.

    The primary carries one out only if every row is as it was before it; asked twice, it does so once. Without --apply
    it is only said what would be sent. Exit code 0: told, or all that was asked for was re-applied. 1: something was
    refused or left alone that was named, or not reachable. 2: wrong usage or configuration.
    """
    from replicator.ops.cli.client import post_object

    if apply and dry_run:
        raise click.UsageError("--apply and --dry-run contradict each other")
    fields = {"who": who or user_name(), "transactions": list(transactions), "apply": apply}
    answer = post_object(sidecar, f"{path}/reapply", fields, REAPPLY_SECONDS)
    show_answer(sidecar, answer, _reapply_lines, as_json=as_json)
    with readable(sidecar):
        is_done = all(each["outcome"] == "re-applied" or each["verdict"] == "there" for each in answer["transactions"])
    if apply and not is_done:
        raise SystemExit(FAILED)


@command.command("settle")
@click.option("--tx", "transactions", type=click.IntRange(min=1), multiple=True, help="Only this one, by its sequence.")
@click.option("--reason", required=True, help="What was done about them; it is kept beside the seal, and shown.")
@click.option("--who", help="Who says so; without it user@machine.")
@seal_options
@example('replicator orphans settle region.toml 104191-104195-9f2c66b01d3e --tx 104192 --reason "refunded by hand"')
def settle(
    sidecar: Endpoint, path: str, transactions: tuple[int, ...], reason: str, who: str | None, as_json: bool
) -> None:
    """Notes that a person has dealt with sealed transactions (all that are open, without --tx). Changes no row.

    Exit code 0: noted. 1: refused, or not reachable. 2: wrong usage or configuration.
    """
    from replicator.ops.cli.client import post_object

    fields = {"who": who or user_name(), "why": reason, "transactions": list(transactions)}
    answer = post_object(sidecar, f"{path}/settle", fields, REAPPLY_SECONDS)
    show_answer(sidecar, answer, _settle_lines, as_json=as_json)


# -- answers as lines


def _list_lines(answer: Answer) -> Iterator[str]:
    if not answer["orphans"]:
        yield f"strand {answer['strand']}: no orphans are sealed here"
    for seal in answer["orphans"]:
        counts = ", ".join(f"{number:,} {WORDS[verdict]}" for verdict, number in seal["counts"].items() if number)
        yield f"{seal['orphans']}  {seal['blocks']:,} blocks, sealed {seal['sealed_at']}: {counts}"
        yield f"  not handled: {seal['unhandled']:,}; read {seal['directory']}/report.html"


def _show_lines(answer: Answer) -> Iterator[str]:
    yield f"{answer['orphans']}  {answer['blocks']:,} blocks behind {answer['fork']}"
    yield f"judged by {answer['judged_at']}; at length: {answer['directory']}/report.html"
    for each in answer["transactions"]:
        users = f", of {', '.join(map(str, each['users'][:3]))}" if each["users"] else ""
        verdict = WORDS[each["judged"]["verdict"]]
        settled = f", settled by {each['settled']['who']}: {each['settled']['why']}" if each["settled"] else ""
        yield f"{each['sequence']:,}  {each['committed_at']}  {each['transaction']}{users}: {verdict}{settled}"
        yield from (f"    {_reason(why)}" for why in each["judged"]["why"])
        yield from (f"    {_statement(statement)}" for statement in each["statements"][:SHOWN_STATEMENTS])
        # The sidecar leaves statements of a large transaction out by itself, too.
        if (left := len(each["statements"]) - SHOWN_STATEMENTS + each["left_out"]) > 0:
            yield f"    and {left:,} statements more"
    if answer["next"] is not None:
        yield f"There are more: --after {answer['next']}"


def _reapply_lines(answer: Answer) -> Iterator[str]:
    if not answer["transactions"]:
        yield "nothing here can be re-applied"
    for each in answer["transactions"]:
        yield f"{each['sequence']:,}  {each['transaction']}: {each['outcome']} ({WORDS[each['verdict']]})"
        yield from (f"    {_reason(why)}" for why in each["why"])
        if "refusal" in each:
            yield f"    {each['refusal']['place']}: {each['refusal']['message']}"
    if not answer["applied"] and any(each["outcome"] == "to be sent" for each in answer["transactions"]):
        yield f"Nothing was changed. With --apply they are sent to {answer['primary'] or 'the primary'}."


def _settle_lines(answer: Answer) -> Iterator[str]:
    yield f"settled: {', '.join(f'{sequence:,}' for sequence in answer['settled']) or 'nothing was open'}"


def _reason(why: Answer) -> str:
    where = f"{why['table']} {_key(why['key'])}: " if why["table"] else ""
    block = why["block"]
    by = f" (block {block['sequence']:,}, {block['transaction']}, {block['committed_at']})" if block else ""
    return f"{where}{why['says']}{by}"


def _statement(fields: Answer) -> str:
    if fields["key"] is None:  # a definition or a truncation
        return f"{fields['op']} {fields['table'] or fields.get('name', '')}"
    return (
        f"{fields['op']} {fields['table']} {_key(fields['key'])}: {_row(fields['before'])} -> {_row(fields['after'])}"
    )


def _key(key: Answer | None) -> str:
    return ", ".join(str(text) for text in (key or {}).values())


def _row(row: Answer | None) -> str:
    if row is None:
        return "no row"
    text = ", ".join(f"{name}={'null' if value is None else value}" for name, value in row.items())
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"
