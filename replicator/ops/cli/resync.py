"""``replicator resync``: rewrites what was touched since a time; or builds a copy of the ledger as of a moment."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from replicator.ops.cli import example, printable

if TYPE_CHECKING:
    from replicator.config import Config


@click.command("resync")
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--from", "since", metavar="TIME", help="Rewrite what was touched since then (RFC 3339).")
@click.option("--to", "until", metavar="TIME", help="With --from: touched until then. With --into: the moment.")
@click.option("--into", metavar="PATH_OR_DSN", help="Build a copy as of --to here: a new file, or an empty database.")
@click.option("--plan", is_flag=True, help="Show what it would take; change nothing.")
@click.option("--tables", help="Only these tables, a,b.")
@click.option("--users", help="Only rows of these users, u,v.")
@click.option("--cancel", is_flag=True, help="Stop the resync that is under way; what it has written stays.")
@click.option("--who", help="Who asks for it; kept and logged. Without it user@machine.")
@click.option("--json", "as_json", is_flag=True, help="The result as JSON.")
@example(
    "replicator resync tokyo.toml --from 2026-03-01T12:00:00Z --plan",
    "replicator resync tokyo.toml --from 2026-03-01T12:00:00Z --tables wallets,payments",
    "replicator resync tokyo.toml --to 2026-03-01T12:00:00Z --into before-the-release.sqlite3",
)
def command(
    config: Path,
    since: str | None,
    until: str | None,
    into: str | None,
    plan: bool,
    tables: str | None,
    users: str | None,
    cancel: bool,
    who: str | None,
    as_json: bool,
) -> None:
    """Rewrites everything of a replica region that was touched since a time, from the region's own journal.

    --from: the running sidecar sets every key that a block since then touched to what the journal says, while
    replication goes on; --to bounds those blocks, not the values, which are always today's. It survives the end of this
    command and of the sidecar: without --from, the command shows the resync that is under way. At its end both regions
    are compared. --users takes rows that belong, or should belong, to these users. --plan counts blocks, keys and
    bytes, and conflicts: keys whose stored row is not what the journal says (of many keys, by a sample).

    --to with --into builds a copy of the ledger as of a moment, beside the live one, from the journal alone, whether
    the sidecar runs or not: every block before the first one that was committed after TIME. Run again, it goes on. The
    copy is read-only at its end.

    Exit code 0: done, and equal (--plan, --into: done). 16: divergent. 32: could not be compared. 1: failed. 2: wrong
    usage or configuration, or a primary.
    """
    from replicator.config import load
    from replicator.ops.cli.times import microseconds

    settings = load(config)
    from_us = None if since is None else microseconds("--from", since)
    to_us = None if until is None else microseconds("--to", until)
    if into is not None:
        if to_us is None or from_us is not None or tables or users or cancel:
            raise click.UsageError("--into takes --to, and neither --from, --tables, --users nor --cancel")
        from replicator.ops.cli.moments import travel

        travel(settings, to_us, into, plan=plan, as_json=as_json)
        return
    if to_us is not None and from_us is None:
        raise click.UsageError("--to takes --into, for a copy as of then; or --from, for what was touched between")
    if from_us is None and (plan or tables or users):
        raise click.UsageError("--plan, --tables and --users take --from")
    if from_us is not None and to_us is not None and to_us < from_us:
        raise click.UsageError("--to is before --from")
    request = {
        "since": from_us,
        "until": to_us,
        "tables": _names(tables),
        "users": _names(users),
        "plan": plan,
    }
    _resync(config, settings, request, who, cancel=cancel, as_json=as_json)


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _resync(
    path: Path, settings: Config, request: dict[str, Any], who: str | None, *, cancel: bool, as_json: bool
) -> NoReturn:
    from replicator.ops.cli.client import ask, sidecar, tell
    from replicator.ops.cli.common import user
    from replicator.ops.cli.resync_lines import follow, job_lines, plan_lines
    from replicator.ops.cli.verdicts import judge, replica_only

    replica_only(settings, "resync")
    whom = sidecar(path, None, None)
    if cancel:
        _end(0, tell(whom, "/v1/resync/cancel", {}), ["it stops after the keys that are under way"], as_json=as_json)
    if request["since"] is None:
        job = ask(whom, "/v1/resync")["job"]
        if job is None:
            _end(0, {"job": None}, ["there was no resync"], as_json=as_json)
    else:
        fields = {name: value for name, value in request.items() if value is not None}
        tell(whom, "/v1/resync", {**fields, "who": who or user()})
    job = follow(whom)
    if job["state"] != "done":
        _end(1, {"job": job}, job_lines(job), as_json=as_json)
    if job["plan"]:
        _end(0, {"job": job}, plan_lines(job), as_json=as_json)
    judged = judge(settings, 1)
    _end(judged.code, {"job": job, "verdict": judged.as_json()}, [*job_lines(job), judged.line], as_json=as_json)


def _end(code: int, content: dict[str, Any], lines: list[str], *, as_json: bool) -> NoReturn:
    if as_json:
        click.echo(json.dumps(content, indent=2))
    else:
        for line in lines:
            click.echo(printable(line))
    sys.exit(code)
