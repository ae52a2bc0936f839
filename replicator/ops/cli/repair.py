"""``replicator repair``: keys of a replica that differ, set to what the journal says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import click

from replicator.ops.cli import example
from replicator.ops.cli.common import Answer, exit_with, user_name

KEYS_LIMIT = 10_000
REPAIR_SECONDS = 600.0
_STATES = {
    "differs": ("would be written", "written"),
    "agrees": ("the journal says what is stored here: it is the primary that differs from its history",) * 2,
    "unknown": ("left alone",) * 2,
}


@click.command("repair")
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--apply", is_flag=True, help="Write. Without it nothing is changed.")
@click.option(
    "--key",
    "named",
    type=(str, str),
    multiple=True,
    metavar="TABLE KEY",
    help="This key, instead of those that verify finds; a key of several columns as a JSON list.",
)
@click.option("--report", type=click.Path(path_type=Path), help="Write the report here, too.")
@click.option("--who", help="Who does it; kept in the report. Without it user@machine.")
@click.option("--list", "listed", default=20, show_default=True, help="Keys to show.")
@click.option("--json", "as_json", is_flag=True, help="The report and the verdict as JSON.")
@example(
    "replicator repair tokyo.toml",
    "replicator repair tokyo.toml --apply --report repaired.json",
    "replicator repair tokyo.toml --key wallets w1",
)
def command(
    config: Path,
    apply: bool,
    named: tuple[tuple[str, str], ...],
    report: Path | None,
    who: str | None,
    listed: int,
    as_json: bool,
) -> None:
    """Sets the keys of a replica region that differ from its primary to what the region's journal says.

    Without --apply it shows them and changes nothing. The sidecars of both regions must run. With --apply, the keys
    are written in one transaction; what they held before is on disk by then, in a report in the region's data_dir,
    under repairs; and both regions are compared again at the end. A key is left alone if its last change is no longer
    in the journal, or if the journal says what the replica holds: then the primary differs from its own history.
    A table without a key is compared with the journal as a whole.

    Replay that stopped at a row which somebody removed goes on after repair --key and a restart of the sidecar.

    Exit code 0: equal. 16: divergent, or still so. 32: could not be compared. 1: refused or failed; nothing was changed
    unless a report says so. 2: wrong usage or configuration, or a primary.
    """
    from replicator.config import load
    from replicator.ops.cli.client import own_sidecar, post
    from replicator.ops.cli.comparison import (
        NOT_CHECKED,
        ComparisonVerdict,
        compare,
        keys_of,
        replay_halt,
        replica_only,
    )

    settings = load(config)
    replica_only(settings, "repair")
    keys, keyless = [(table, _parse_key(text)) for table, text in named], list[str]()
    comparison = None
    if not keys:
        comparison = compare(settings, KEYS_LIMIT + 1)  # one more: the sidecar refuses too many, and says so
        if comparison.verdict is None or comparison.code == 0:
            content = {"report": None, "verdict": comparison.as_json()}
            exit_with(comparison.code, content, [comparison.line], as_json=as_json)
        differing, keyless = keys_of(comparison.verdict)
        keys = [(table, list(texts)) for table, texts in differing]
    fields = {"keys": keys, "keyless": keyless, "who": who or user_name(), "apply": apply}
    sidecar = own_sidecar(settings)
    repaired: Answer = post(sidecar, "/v1/repair", fields, REPAIR_SECONDS)
    lines = list(_lines(repaired, listed))
    if report is not None:
        lines += _save_copy(report, repaired)
    if why := replay_halt(sidecar):
        line = f"replay stands still: {why}; start the sidecar anew, then verify"
        comparison = ComparisonVerdict(NOT_CHECKED, line, None)
    elif apply or comparison is None:
        comparison = compare(settings, 1)
    lines.append(comparison.line)
    if not apply and any(key["state"] == "differs" for key in repaired["keys"]):
        lines.append("nothing was changed; --apply writes what the journal says")
    exit_with(comparison.code, {"report": repaired, "verdict": comparison.as_json()}, lines, as_json=as_json)


def _save_copy(path: Path, report: Answer) -> list[str]:
    """Write the report to a file. What fails is told and not raised: the repair is done."""
    try:
        path.write_text(json.dumps(report, indent=2) + "\n")
    except OSError as error:
        return [f"the report could not be copied to {path}: {error.strerror}"]
    return []


def _parse_key(text: str) -> list[str]:
    """A key's texts: one, or a JSON list of several."""
    if not text.startswith("["):
        return [text]
    try:
        texts = json.loads(text)
    except ValueError:
        return [text]
    return [part if isinstance(part, str) else json.dumps(part) for part in texts]


def _lines(report: Answer, listed: int) -> Iterator[str]:
    applied = bool(report["applied"])
    yield f"at {report['position']}"
    for key in report["keys"][:listed]:
        why = f" ({key['why']})" if key["why"] else ""
        name = ", ".join(f"{column} = {value}" for column, value in key["key"].items())
        yield f"  {key['table']} {name}: {_STATES[key['state']][applied]}{why}"
        if key["state"] == "differs":
            block = key["block"]
            origin = f"block {block['sequence']}, {block['committed_at']}" if block else "never written"
            yield f"    before  {key['before']}"
            yield f"    journal {key['written']} ({origin})"
    if len(report["keys"]) > listed:
        yield f"  and {len(report['keys']) - listed:,} more; --json shows all"
    if any(key["state"] == "unknown" for key in report["keys"]):
        yield (
            "what was left alone is older than this region's journal: while it differs, only another region has it:"
            " stop the sidecar; replicator bootstrap CONFIG --replace"
        )
    if report["report"]:
        yield f"what was replaced is in {report['report']}"
