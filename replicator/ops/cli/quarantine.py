"""``replicator quarantine``: what a replica region has set aside, why, and what a person does about it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from replicator.ops.cli import FAILED, example
from replicator.ops.cli.common import (
    Answer,
    ListsByDefault,
    get_and_show,
    post_and_confirm,
    readable,
    show_answer,
    sidecar_options,
    user_name,
)
from replicator.status.text import time_text

if TYPE_CHECKING:
    from replicator.transport.endpoint import Endpoint

SHOWN_PLACES = 5


@click.group("quarantine", cls=ListsByDefault)
def command() -> None:
    """Statements that a replica refused and that were set aside. Without another word: list.

    With [replay] on_error = "quarantine" a statement that the replica refuses (a constraint, a trigger or a unique
    index that somebody added to it, a row that somebody deleted) does not halt the region: it is set aside, and what
    later touches its key waits behind it, in order. Readers miss these changes until they are replayed.
    """


@command.command("list")
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option("--closed", is_flag=True, help="What was replayed, dropped or made void: when, by whom and why.")
@sidecar_options
@example(
    "replicator quarantine list region.toml",
    "replicator quarantine region.toml --closed --json",
)
def list_(sidecar: Endpoint, closed: bool, as_json: bool) -> None:
    """Lists what is set aside, the oldest first, and what it waits for.

    Exit code 0: told, whether there is anything or not. 1: not reachable, or no replica region. 2: wrong usage or
    configuration.
    """
    path, lines = ("/v1/quarantine/closed", _closed_lines) if closed else ("/v1/quarantine", _open_lines)
    get_and_show(sidecar, path, lines, as_json=as_json)


@command.command("show")
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("sequence", type=click.IntRange(min=1))
@click.argument("ordinal", type=click.IntRange(min=0))
@sidecar_options
@example("replicator quarantine show region.toml 104191 3")
def show(sidecar: Endpoint, sequence: int, ordinal: int, as_json: bool) -> None:
    """Shows a statement that was set aside: its block, its key and row, and why.

    Exit code 0: told. 1: it was never set aside, or not reachable. 2: wrong usage or configuration.
    """
    path = f"/v1/quarantine/statements/{sequence}/{ordinal}"
    get_and_show(sidecar, path, _statement_lines, as_json=as_json)


@command.command("replay")
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--table", help="Only this table, as the list shows it.")
@click.option(
    "--key",
    "keys",
    multiple=True,
    help="Only this key, as the list shows it; of several columns as a JSON list. May be given more than once.",
)
@click.option("--apply", is_flag=True, help="Do it. Without this it is tried and taken back.")
@click.option("--who", help="Who does it; without it user@machine.")
@sidecar_options
@example(
    "replicator quarantine replay region.toml",
    "replicator quarantine replay region.toml --table wallets --key w17 --apply",
)
def replay(
    sidecar: Endpoint,
    table: str | None,
    keys: tuple[str, ...],
    apply: bool,
    who: str | None,
    as_json: bool,
) -> None:
    """Replays what is set aside, once what it was refused for is cured. Dry run by default.

    The statements of a key are done together, as their net effect, or not at all; keys that a changed key ties
    together count as one. The dry run does the same in a transaction that is taken back, so it tells what --apply
    would meet. What is refused again stays set aside. Exit code 0: nothing was refused. 1: something was, or not
    reachable. 2: wrong usage or configuration.
    """
    from replicator.ops.cli.client import post_object

    fields: Answer = {"who": who or user_name(), "keys": [_parse_key(text) for text in keys], "apply": apply}
    if table is not None:
        fields["table"] = table
    answer = post_object(sidecar, "/v1/quarantine/replay", fields)
    show_answer(sidecar, answer, _replay_lines, as_json=as_json)
    with readable(sidecar):
        is_refused = any(group["outcome"] == "refused" for group in answer["groups"])
    if is_refused:
        raise SystemExit(FAILED)


@command.command("drop")
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("sequence", type=click.IntRange(min=1))
@click.argument("ordinal", type=click.IntRange(min=0))
@click.option("--reason", required=True, help="Why; it is kept with the statement, and shown.")
@click.option("--who", help="Who takes the responsibility; without it user@machine.")
@sidecar_options
@example('replicator quarantine drop region.toml 104191 3 --reason "the row was put right by hand"')
def drop(sidecar: Endpoint, sequence: int, ordinal: int, reason: str, who: str | None, as_json: bool) -> None:
    """Gives a statement up: it is never applied here, which is durable and stays listed.

    The replica then differs from its primary in the key, until a later change or a repair sets it right; verify tells.
    Statements behind it stay set aside: replay or drop them. Exit code 0: dropped. 1: refused, or not reachable. 2:
    wrong usage or configuration.
    """
    fields = {"sequence": sequence, "ordinal": ordinal, "who": who or user_name(), "why": reason}
    done = f"dropped: sequence {sequence}, ordinal {ordinal}. The replica differs there until it is set right."
    post_and_confirm(sidecar, "/v1/quarantine/drop", fields, done, as_json=as_json)


def _parse_key(text: str) -> list[str]:
    """A key as the list shows it: a text, or a JSON list of texts."""
    if text.startswith("["):
        try:
            key = json.loads(text)
        except ValueError:
            return [text]
        if isinstance(key, list) and key and all(isinstance(part, str) for part in key):
            return key
    return [text]


# -- answers as lines


def _open_lines(answer: Answer) -> Iterator[str]:
    """What is set aside, and what to do about it."""
    statements = answer["statements"]
    if not answer["open"]:
        yield f"strand {answer['strand']}: nothing is set aside"
        return
    count = f"{_statements(answer['open'])} {'is' if answer['open'] == 1 else 'are'}"
    keys = "1 key waits" if answer["held_keys"] == 1 else f"{answer['held_keys']:,} keys wait"
    yield f"strand {answer['strand']}: {count} set aside, {keys}"
    for statement in statements:
        yield f"  {_line(statement)}"
        yield f"    {_message(statement)}"
    if (more := answer["open"] - len(statements)) > 0:
        yield f"  and {more:,} more behind these"
    yield "What to do: cure what they were refused for, then replicator quarantine replay CONFIG"


def _closed_lines(answer: Answer) -> Iterator[str]:
    """What was replayed, dropped or made void, by whom and why."""
    if not answer["statements"]:
        yield f"strand {answer['strand']}: nothing that was set aside has been closed"
    for statement in answer["statements"]:
        yield _line(statement)
        when, why = time_text(statement["closed_at"]), statement["closed_why"]
        yield f"  {when}  {statement['outcome']} by {statement['closed_by']}: {why}"


def _statement_lines(answer: Answer) -> Iterator[str]:
    """One statement, with its block and its row."""
    statement, block = answer["statement"], answer["block"]
    yield _line(statement)
    yield f"  set aside {time_text(statement['set_aside_at'])}: {_message(statement)}"
    if statement["outcome"]:
        when = time_text(statement["closed_at"])
        yield f"  {statement['outcome']} {when} by {statement['closed_by']}: {statement['closed_why']}"
    if block is None:
        yield "  its block is not in the journal any more"
    else:
        yield f"  block {block['sequence']:,}, epoch {block['epoch']:d}, {block['statements']:,} statements"
        yield f"    transaction {block['txid']}, committed {time_text(block['committed_at'])}"
        yield f"    hash {block['hash']}"
    if answer["row"] is not None:
        yield "  row"
        for name, text in answer["row"].items():
            yield f"    {name} = {'NULL' if text is None else text}"
    if "unreadable" in answer:
        yield f"  its row cannot be read: {answer['unreadable']}"
        yield f"    {answer['image']}"


def _replay_lines(answer: Answer) -> Iterator[str]:
    """How each group of keys went that was replayed, or tried."""
    groups = answer["groups"]
    refused = [group for group in groups if group["outcome"] == "refused"]
    for group in groups:
        yield _group_line(group, applied=answer["applied"])
    done = sum(len(group["places"]) for group in groups if group["outcome"] != "refused")
    if not groups:
        yield f"strand {answer['strand']}: nothing is set aside"
    elif answer["applied"]:
        yield f"replayed: {_statements(done)}; {len(refused):,} of {len(groups):,} groups of keys stay set aside"
    else:
        yield f"dry run, nothing was changed: {_statements(done)} would be replayed, with --apply"


def _group_line(group: Answer, *, applied: bool) -> str:
    places = ", ".join(f"{sequence}/{ordinal}" for sequence, ordinal in group["places"][:SHOWN_PLACES])
    if (more := len(group["places"]) - SHOWN_PLACES) > 0:
        places += f" and {more:,} more"
    keys = " ".join(_key(key) for key in group["keys"][:SHOWN_PLACES]) or "no key"
    what = f"{group['table']} {keys}: {_statements(len(group['places']))} ({places})"
    if group["outcome"] == "refused":
        return f"  refused: {what}: {_message(group)}"
    return f"  {'replayed' if applied else 'would be replayed'}: {what}"


def _line(statement: Answer) -> str:
    key = "" if statement["key"] is None else f" {_key(statement['key'])}"
    before = "" if statement["key_before"] is None else f", key before {_key(statement['key_before'])}"
    place = f"sequence {statement['sequence']:,}, ordinal {statement['ordinal']:,}"
    return f"{place}  {statement['op']} {statement['table']}{key}{before}  (transaction {statement['txid']})"


def _statements(count: int) -> str:
    return "1 statement" if count == 1 else f"{count:,} statements"


def _message(refusal: Answer) -> str:
    return f"{' '.join(refusal['message'].split())} [{refusal['reason']}]"


def _key(key: list[str]) -> str:
    """The key as ``--key`` takes it: what is listed can be pasted."""
    return key[0] if len(key) == 1 and not key[0].startswith("[") else json.dumps(key, ensure_ascii=False)
