"""``replicator gaps``: what is missing in a region, how gaps were closed, and what a person decides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from replicator.ops.cli import example
from replicator.ops.cli.common import Answer, ListsByDefault, get, show_answer, user, whom_options

if TYPE_CHECKING:
    from replicator.transport.endpoint import Endpoint


@click.group("gaps", cls=ListsByDefault)
def command() -> None:
    """What is missing in a region, and what to do about it. Without another word: list.

    A gap is open when a later block came first, requested when it is asked for, expired when it did not come in the
    time allowed. It closes when its blocks come. Nothing behind it is applied meanwhile, however long that takes.
    """


@command.command("list")
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.argument("sequence", required=False, type=click.IntRange(min=1))
@click.option("--closed", is_flag=True, help="The gaps that were closed: by what, and how that is known.")
@whom_options
@example(
    "replicator gaps list region.toml",
    "replicator gaps region.toml 104191",
    "replicator gaps region.toml --closed --json",
)
def show(
    config: Path | None, sequence: int | None, closed: bool, url: str | None, ca: Path | None, as_json: bool
) -> None:
    """Lists the gaps that are open, or explains the one that SEQUENCE lies in.

    Exit code 0: told, whether there are any or not. 1: not reachable, or no replica region. 2: wrong usage or
    configuration.
    """
    from replicator.ops.cli.gap_lines import closed_lines, explained_lines, open_lines

    whom = _sidecar(config, url, ca)
    if closed:
        show_answer(whom, get(whom, "/v1/gaps/closed"), as_json, lambda answer: closed_lines(answer, sequence))
    elif sequence is None:
        show_answer(whom, get(whom, "/v1/gaps"), as_json, open_lines)
    else:
        show_answer(whom, _explanation(whom, sequence), as_json, explained_lines)


@command.command("waive")
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("first", type=click.IntRange(min=1))
@click.argument("last", type=click.IntRange(min=1))
@click.option("--reason", required=True, help="Why; it is kept with the certificate, and shown.")
@click.option("--who", help="Who takes the responsibility; without it user@machine.")
@click.option("--halt-strand", is_flag=True, help="I know that the region stays before the gap until it is made anew.")
@whom_options
@example('replicator gaps waive region.toml 104191 104193 --reason "lost with the disk" --halt-strand')
def waive(
    config: Path,
    first: int,
    last: int,
    reason: str,
    who: str | None,
    halt_strand: bool,
    url: str | None,
    ca: Path | None,
    as_json: bool,
) -> None:
    """Gives up what is missing of FIRST to LAST. It is durable and cannot be taken back.

    The blocks of a strand form a hash chain, and a position stands for all history before it. A region that went on
    without a block would claim a history that it does not have, so it does not go on: it applies everything before the
    gap, halts there with the waiver as its reason, and has to be made anew from a whole region. A waiver says that the
    blocks are lost for good and who decided it. Without --halt-strand it is refused.

    If a region has the blocks, waive nothing: let [follow] primary name that region. Blocks that come after a waiver
    are late: see replicator gaps late. Exit code 0: waived. 1: refused, or not reachable. 2: wrong usage.
    """
    fields = {"first": first, "last": last, "who": who or user(), "why": reason, "halt_strand": halt_strand}
    _act(config, url, ca, as_json, "/v1/gaps/waive", fields, f"waived: {first} to {last}. The strand halts before it.")


@command.command("discard")
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("first", type=click.IntRange(min=1))
@click.argument("last", type=click.IntRange(min=1))
@whom_options
@example("replicator gaps discard region.toml 104195 104195")
def discard(config: Path, first: int, last: int, url: str | None, ca: Path | None, as_json: bool) -> None:
    """Cures a conflict: forgets every copy of FIRST to LAST that waits, has them fetched again, and goes on.

    A strand stops when two blocks claim one place; status shows both hashes. Find out which region is right first, and
    let [follow] primary name it: what is fetched comes from there. A block that is in the journal already is not
    touched: if that is the wrong one, make this region anew; if it is the right one, replicator gaps resume.
    Exit code 0: done. 1: refused, or not reachable. 2: wrong usage.
    """
    fields = {"first": first, "last": last}
    _act(config, url, ca, as_json, "/v1/gaps/discard", fields, f"discarded: {first} to {last} is fetched again.")


@command.command("resume")
@click.argument("config", type=click.Path(path_type=Path))
@whom_options
@example("replicator gaps resume region.toml")
def resume(config: Path, url: str | None, ca: Path | None, as_json: bool) -> None:
    """Lets a strand go on that a conflict or a late block has stopped. What came last is dropped, what was here stays.

    Exit code 0: done. 1: refused, or not reachable. 2: wrong usage.
    """
    _act(config, url, ca, as_json, "/v1/gaps/resume", {}, "the strand goes on.")


@command.command("late")
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option("--settle", "number", type=click.IntRange(min=1), help="This one has been dealt with: forget it.")
@whom_options
@example("replicator gaps late region.toml", "replicator gaps late region.toml --settle 3")
def late(config: Path | None, number: int | None, url: str | None, ca: Path | None, as_json: bool) -> None:
    """Lists late blocks: those whose gap had been waived. They are kept until somebody settles them.

    That they came means that they are not lost: let [follow] primary name a region that has them, stop the sidecar,
    remove spool.sqlite3 in its data_dir (the waiver goes with it), and start it; what is not settled is fetched again.
    Exit code 0: told. 1: not reachable. 2: wrong usage.
    """
    if number is not None:
        _act(config, url, ca, as_json, "/v1/gaps/late", {"number": number}, f"settled: late block {number}.")
        return
    from replicator.ops.cli.gap_lines import late_lines

    whom = _sidecar(config, url, ca)
    show_answer(whom, get(whom, "/v1/gaps/late"), as_json, late_lines)


def _sidecar(config: Path | None, url: str | None, ca: Path | None) -> Endpoint:
    from replicator.ops.cli.client import sidecar

    return sidecar(config, url, ca)


def _act(
    config: Path | None, url: str | None, ca: Path | None, as_json: bool, path: str, fields: Answer, done: str
) -> None:
    from replicator.ops.cli.client import tell

    answer = tell(_sidecar(config, url, ca), path, fields)
    click.echo(json.dumps(answer, indent=2) if as_json else done)


def _explanation(whom: Endpoint, sequence: int) -> Answer:
    """The gap that a sequence lies in; else how it was closed, as far as that was recorded."""
    for gap in (found := get(whom, "/v1/gaps"))["gaps"]:
        if gap["first"] <= sequence <= gap["last"]:
            return {"sequence": sequence, "gap": gap, "window_seconds": found["window_seconds"], "certificates": []}
    closed = get(whom, "/v1/gaps/closed")["certificates"]
    covering = [one for one in closed if one["first"] <= sequence <= one["last"]]
    return {"sequence": sequence, "gap": None, "window_seconds": found["window_seconds"], "certificates": covering}
