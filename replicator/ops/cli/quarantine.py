"""``replicator quarantine``: what a replica region has set aside, why, and what a person does about it."""

from __future__ import annotations

import json
from pathlib import Path

import click

from replicator.ops.cli import FAILED, example
from replicator.ops.cli.common import Answer, ListsByDefault, get, show_answer, user, whom_options


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
@whom_options
@example(
    "replicator quarantine list region.toml",
    "replicator quarantine region.toml --closed --json",
)
def listed(config: Path | None, closed: bool, url: str | None, ca: Path | None, as_json: bool) -> None:
    """Lists what is set aside, the oldest first, and what it waits for.

    Exit code 0: told, whether there is anything or not. 1: not reachable, or no replica region. 2: wrong usage or
    configuration.
    """
    from replicator.ops.cli.client import sidecar
    from replicator.ops.cli.quarantine_lines import closed_lines, open_lines

    whom = sidecar(config, url, ca)
    path = "/v1/quarantine/closed" if closed else "/v1/quarantine"
    show_answer(whom, get(whom, path), as_json, closed_lines if closed else open_lines)


@command.command("show")
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("sequence", type=click.IntRange(min=1))
@click.argument("ordinal", type=click.IntRange(min=0))
@whom_options
@example("replicator quarantine show region.toml 104191 3")
def show(config: Path, sequence: int, ordinal: int, url: str | None, ca: Path | None, as_json: bool) -> None:
    """Shows a statement that was set aside: its block, its key and row, and why.

    Exit code 0: told. 1: it was never set aside, or not reachable. 2: wrong usage or configuration.
    """
    from replicator.ops.cli.client import sidecar
    from replicator.ops.cli.quarantine_lines import statement_lines

    whom = sidecar(config, url, ca)
    show_answer(whom, get(whom, f"/v1/quarantine/statements/{sequence}/{ordinal}"), as_json, statement_lines)


@command.command("replay")
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--table", help="Only this table, as the list shows it.")
@click.option(
    "--key",
    "keys",
    multiple=True,
    help="Only this key, as the list shows it; of several columns as a JSON list. May be given more than once.",
)
@click.option("--apply", "for_good", is_flag=True, help="Do it. Without this it is tried and taken back.")
@click.option("--who", help="Who does it; without it user@machine.")
@whom_options
@example(
    "replicator quarantine replay region.toml",
    "replicator quarantine replay region.toml --table wallets --key w17 --apply",
)
def replay(
    config: Path,
    table: str | None,
    keys: tuple[str, ...],
    for_good: bool,
    who: str | None,
    url: str | None,
    ca: Path | None,
    as_json: bool,
) -> None:
    """Replays what is set aside, once what it was refused for is cured. Dry run by default.

    The statements of a key are done together, as their net effect, or not at all; keys that a changed key ties
    together count as one. The dry run does the same in a transaction that is taken back, so it tells what --apply
    would meet. What is refused again stays set aside. Exit code 0: nothing was refused. 1: something was, or not
    reachable. 2: wrong usage or configuration.
    """
    from replicator.ops.cli.client import sidecar, tell
    from replicator.ops.cli.quarantine_lines import tried_lines

    whom = sidecar(config, url, ca)
    fields: Answer = {"who": who or user(), "keys": [_key(text) for text in keys], "apply": for_good}
    if table is not None:
        fields["table"] = table
    answer = tell(whom, "/v1/quarantine/replay", fields)
    show_answer(whom, answer, as_json, tried_lines)
    if any(group["outcome"] == "refused" for group in answer["groups"]):
        raise SystemExit(FAILED)


@command.command("drop")
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("sequence", type=click.IntRange(min=1))
@click.argument("ordinal", type=click.IntRange(min=0))
@click.option("--reason", required=True, help="Why; it is kept with the statement, and shown.")
@click.option("--who", help="Who takes the responsibility; without it user@machine.")
@whom_options
@example('replicator quarantine drop region.toml 104191 3 --reason "the row was put right by hand"')
def drop(
    config: Path,
    sequence: int,
    ordinal: int,
    reason: str,
    who: str | None,
    url: str | None,
    ca: Path | None,
    as_json: bool,
) -> None:
    """Gives a statement up: it is never applied here, which is durable and stays listed.

    The replica then differs from its primary in the key, until a later change or a repair sets it right; verify tells.
    Statements behind it stay set aside: replay or drop them. Exit code 0: dropped. 1: refused, or not reachable. 2:
    wrong usage or configuration.
    """
    from replicator.ops.cli.client import sidecar, tell

    fields = {"sequence": sequence, "ordinal": ordinal, "who": who or user(), "why": reason}
    answer = tell(sidecar(config, url, ca), "/v1/quarantine/drop", fields)
    done = f"dropped: sequence {sequence}, ordinal {ordinal}. The replica differs there until it is set right."
    click.echo(json.dumps(answer, indent=2) if as_json else done)


def _key(text: str) -> list[str]:
    """A key as the list shows it: a text, or a JSON list of texts."""
    if text.startswith("["):
        try:
            found = json.loads(text)
        except ValueError:
            return [text]
        if isinstance(found, list) and found and all(isinstance(part, str) for part in found):
            return found
    return [text]
