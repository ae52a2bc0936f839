"""``replicator repair``: keys of a replica that differ, set to what the journal says."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from replicator.ops.cli import example, printable

KEYS_LIMIT = 10_000
REPAIR_SECONDS = 600.0


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
    from replicator.ops.cli.client import sidecar, tell
    from replicator.ops.cli.common import user
    from replicator.ops.cli.verdicts import NOT_CHECKED, ComparisonVerdict, judge, keys_of, replica_only, stopped

    settings = load(config)
    replica_only(settings, "repair")
    keys, keyless = [(table, _key(text)) for table, text in named], list[str]()
    judged = None
    if not keys:
        judged = judge(settings, KEYS_LIMIT + 1)
        if judged.verdict is None or judged.code == 0:
            _end(judged.code, {"report": None, "verdict": judged.as_json()}, [judged.line], as_json=as_json)
        found, keyless = keys_of(judged.verdict)
        keys = [(table, list(texts)) for table, texts in found]
    fields = {"keys": keys, "keyless": keyless, "who": who or user(), "apply": apply}
    whom = sidecar(config, None, None)
    told: dict[str, Any] = tell(whom, "/v1/repair", fields, REPAIR_SECONDS)
    lines = list(_lines(told, listed))
    if report is not None:
        lines += _copied(report, told)
    if why := stopped(whom):
        judged = ComparisonVerdict(
            NOT_CHECKED, f"replay stands still: {why}; start the sidecar anew, then verify", None
        )
    elif apply or judged is None:
        judged = judge(settings, 1)
    assert judged is not None
    lines.append(judged.line)
    if not apply and any(key["state"] == "differs" for key in told["keys"]):
        lines.append("nothing was changed; --apply writes what the journal says")
    _end(judged.code, {"report": told, "verdict": judged.as_json()}, lines, as_json=as_json)


def _copied(path: Path, told: dict[str, Any]) -> list[str]:
    try:
        path.write_text(json.dumps(told, indent=2) + "\n")
    except OSError as error:
        return [f"the report could not be copied to {path}: {error.strerror}"]
    return []


def _key(text: str) -> list[str]:
    """A key's texts: one, or a JSON list of several."""
    if not text.startswith("["):
        return [text]
    try:
        texts = json.loads(text)
    except ValueError:
        return [text]
    return [one if isinstance(one, str) else json.dumps(one) for one in texts]


def _end(code: int, content: dict[str, Any], lines: list[str], *, as_json: bool) -> NoReturn:
    if as_json:
        click.echo(json.dumps(content, indent=2))
    else:
        for line in lines:
            click.echo(printable(line))
    sys.exit(code)


_STATES = {
    "differs": ("would be written", "written"),
    "agrees": ("the journal says what is stored here: it is the primary that differs from its history",) * 2,
    "unknown": ("left alone",) * 2,
}


def _lines(told: dict[str, Any], listed: int) -> list[str]:
    applied = bool(told["applied"])
    lines = [f"at {told['position']}"]
    for key in told["keys"][:listed]:
        why = f" ({key['why']})" if key["why"] else ""
        name = ", ".join(f"{column} = {value}" for column, value in key["key"].items())
        lines.append(f"  {key['table']} {name}: {_STATES[key['state']][applied]}{why}")
        if key["state"] == "differs":
            block = key["block"]
            origin = f"block {block['sequence']}, {block['committed_at']}" if block else "never written"
            lines += [f"    before  {key['before']}", f"    journal {key['written']} ({origin})"]
    if len(told["keys"]) > listed:
        lines.append(f"  and {len(told['keys']) - listed:,} more; --json shows all")
    if told["report"]:
        lines.append(f"what was replaced is in {told['report']}")
    return lines
