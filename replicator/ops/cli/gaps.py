"""``replicator gaps``: what is missing in a region, how gaps were closed, and what a person decides."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from replicator.ops.cli import example
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
from replicator.status.text import seconds_text, time_text

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
@sidecar_options
@example(
    "replicator gaps list region.toml",
    "replicator gaps region.toml 104191",
    "replicator gaps region.toml --closed --json",
)
def list_(sidecar: Endpoint, sequence: int | None, closed: bool, as_json: bool) -> None:
    """Lists the gaps that are open, or explains the one that SEQUENCE lies in.

    Exit code 0: told, whether there are any or not. 1: not reachable, or no replica region. 2: wrong usage or
    configuration.
    """
    if closed:
        get_and_show(sidecar, "/v1/gaps/closed", lambda answer: _closed_lines(answer, sequence), as_json=as_json)
    elif sequence is None:
        get_and_show(sidecar, "/v1/gaps", _open_lines, as_json=as_json)
    else:
        show_answer(sidecar, _explanation(sidecar, sequence), _explanation_lines, as_json=as_json)


@command.command("waive")
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("first", type=click.IntRange(min=1))
@click.argument("last", type=click.IntRange(min=1))
@click.option("--reason", required=True, help="Why; it is kept with the certificate, and shown.")
@click.option("--who", help="Who takes the responsibility; without it user@machine.")
@click.option("--halt-strand", is_flag=True, help="I know that the region stays before the gap until it is made anew.")
@sidecar_options
@example('replicator gaps waive region.toml 104191 104193 --reason "lost with the disk" --halt-strand')
def waive(
    sidecar: Endpoint, first: int, last: int, reason: str, who: str | None, halt_strand: bool, as_json: bool
) -> None:
    """Gives up what is missing of FIRST to LAST. It is durable and cannot be taken back.

    The blocks of a strand form a hash chain, and a position stands for all history before it. A region that went on
    without a block would claim a history that it does not have, so it does not go on: it applies everything before the
    gap, halts there with the waiver as its reason, and has to be made anew from a whole region. A waiver says that the
    blocks are lost for good and who decided it. Without --halt-strand it is refused.

    If a region has the blocks, waive nothing: let [follow] primary name that region. Blocks that come after a waiver
    are late: see replicator gaps late. Exit code 0: waived. 1: refused, or not reachable. 2: wrong usage.
    """
    fields = {"first": first, "last": last, "who": who or user_name(), "why": reason, "halt_strand": halt_strand}
    done = f"waived: {first} to {last}. The strand halts before it."
    post_and_confirm(sidecar, "/v1/gaps/waive", fields, done, as_json=as_json)


@command.command("discard")
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("first", type=click.IntRange(min=1))
@click.argument("last", type=click.IntRange(min=1))
@sidecar_options
@example("replicator gaps discard region.toml 104195 104195")
def discard(sidecar: Endpoint, first: int, last: int, as_json: bool) -> None:
    """Cures a conflict: forgets every copy of FIRST to LAST that waits, has them fetched again, and goes on.

    A strand stops when two blocks claim one place; status shows both hashes. Find out which region is right first, and
    let [follow] primary name it: what is fetched comes from there. A block that is in the journal already is not
    touched: if that is the wrong one, make this region anew; if it is the right one, replicator gaps resume.
    Exit code 0: done. 1: refused, or not reachable. 2: wrong usage.
    """
    fields = {"first": first, "last": last}
    done = f"discarded: {first} to {last} is fetched again."
    post_and_confirm(sidecar, "/v1/gaps/discard", fields, done, as_json=as_json)


@command.command("resume")
@click.argument("config", type=click.Path(path_type=Path))
@sidecar_options
@example("replicator gaps resume region.toml")
def resume(sidecar: Endpoint, as_json: bool) -> None:
    """Lets a strand go on that a conflict or a late block has stopped. What came last is dropped, what was here stays.

    Exit code 0: done. 1: refused, or not reachable. 2: wrong usage.
    """
    post_and_confirm(sidecar, "/v1/gaps/resume", {}, "the strand goes on.", as_json=as_json)


@command.command("late")
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option("--settle", "number", type=click.IntRange(min=1), help="This one has been dealt with: forget it.")
@sidecar_options
@example("replicator gaps late region.toml", "replicator gaps late region.toml --settle 3")
def late(sidecar: Endpoint, number: int | None, as_json: bool) -> None:
    """Lists late blocks: those whose gap had been waived. They are kept until somebody settles them.

    That they came means that they are not lost: let [follow] primary name a region that has them, stop the sidecar,
    remove spool.sqlite3 in its data_dir (the waiver goes with it), and start it; what is not settled is fetched again.
    Exit code 0: told. 1: not reachable. 2: wrong usage.
    """
    if number is None:
        get_and_show(sidecar, "/v1/gaps/late", _late_lines, as_json=as_json)
    else:
        done = f"settled: late block {number}."
        post_and_confirm(sidecar, "/v1/gaps/late", {"number": number}, done, as_json=as_json)


def _explanation(sidecar: Endpoint, sequence: int) -> Answer:
    """The gap that a sequence lies in; else how it was closed, as far as that was recorded."""
    from replicator.ops.cli.client import get_object

    with readable(sidecar):
        answer = get_object(sidecar, "/v1/gaps")
        explanation: Answer = {"sequence": sequence, "gap": None, "window_seconds": answer["window_seconds"]}
        for gap in answer["gaps"]:
            if _covers(gap, sequence):
                return {**explanation, "gap": gap, "certificates": []}
        closed = get_object(sidecar, "/v1/gaps/closed")["certificates"]
        return {**explanation, "certificates": [gap for gap in closed if _covers(gap, sequence)]}


def _covers(gap: Answer, sequence: int) -> bool:
    return bool(gap["first"] <= sequence <= gap["last"])


# -- answers as lines


def _open_lines(answer: Answer) -> Iterator[str]:
    gaps = answer["gaps"]
    if (halted := answer["halted"]) is not None:
        yield f"strand {answer['strand']} is halted: {halted['message']} [{halted['reason']}]"
        yield f"What to do about that: {halted['cure']}"
    if not gaps:
        yield f"strand {answer['strand']}: no gap is open"
        return
    count = "1 gap is" if len(gaps) == 1 else f"{len(gaps):,} gaps are"
    yield f"strand {answer['strand']}: {count} open, {answer['held_entries']:,} blocks wait"
    for gap in gaps:
        yield f"  {_gap_line(gap)}"
    worst = max(gaps, key=lambda gap: ("open", "requested", "expired").index(gap["state"]))
    yield f"What to do about {_span(worst)}, which is {worst['state']}: {worst['cure']}"


def _explanation_lines(answer: Answer) -> Iterator[str]:
    """One gap, or how it was closed."""
    if (gap := answer["gap"]) is not None:
        yield _gap_line(gap)
        yield f"{gap['meaning']}. The window is {seconds_text(answer['window_seconds'])}."
        yield f"What to do: {gap['cure']}"
        return
    if not answer["certificates"]:
        yield f"sequence {answer['sequence']:,} is not missing, and no certificate tells that it ever was"
    for certificate in answer["certificates"]:
        yield _certificate_line(certificate)


def _closed_lines(answer: Answer, sequence: int | None) -> Iterator[str]:
    """The certificates, those of one sequence if it is given."""
    certificates = [gap for gap in answer["certificates"] if sequence is None or _covers(gap, sequence)]
    if not certificates:
        yield f"strand {answer['strand']}: no gap that was asked for has been closed"
    for certificate in certificates:
        yield _certificate_line(certificate)


def _late_lines(answer: Answer) -> Iterator[str]:
    """The late blocks that nobody has settled."""
    if not answer["late"]:
        yield f"strand {answer['strand']}: no late block"
    for block in answer["late"]:
        what = f"sequence {block['sequence']:,}, {time_text(block['committed_at'])}, {block['bytes']:,} bytes"
        yield f"late {block['number']:d}: {what}, {block['hash']}"


def _gap_line(gap: Answer) -> str:
    asked = {0: "not asked for yet", 1: "asked for once"}.get(gap["requests"], f"asked for {gap['requests']:,} times")
    missing = f"{gap['missing']:,} missing, " if gap["missing"] != gap["last"] - gap["first"] + 1 else ""
    return f"{_span(gap)}  {gap['state']}, {missing}open for {seconds_text(gap['age_seconds'])}, {asked}"


def _certificate_line(gap: Answer) -> str:
    took = seconds_text((gap["closed_at"] - gap["opened_at"]) / 1e6)
    what = (
        f"{time_text(gap['closed_at'])}  {_span(gap)}  {gap['how']} after {took}, asked for {gap['requests']:,} times"
    )
    if gap["how"] == "waived":
        return f"{what}, by {gap['who']}: {gap['why']}"
    known = {"links": "every block names the hash of the one before"}.get(gap["known_by"], gap["known_by"])
    return f"{what}; known by: {known}"


def _span(gap: Answer) -> str:
    first, last = f"{gap['first']:,}", f"{gap['last']:,}"
    return first if first == last else f"{first} to {last}"
