"""``replicator resync``: rewrites what was touched since a time; or builds a copy of the ledger as of a moment."""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from replicator.errors import ConfigError, ReplicatorError, Unavailable
from replicator.ops.cli import FAILED, example
from replicator.ops.cli.common import Answer, exit_with, readable, user_name
from replicator.ops.terminal import progress_bar

if TYPE_CHECKING:
    from replicator.config import Config
    from replicator.transport.endpoint import Endpoint

LOOK_SECONDS = 0.2
PATIENCE_SECONDS = 120.0  # for a sidecar that is being started again
LOOKS_PER_CHECK = 15  # between two looks at whether replay is halted
ACTIVE = ("scanning", "rewriting")
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


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

    settings = load(config)
    from_us = None if since is None else microseconds("--from", since)
    to_us = None if until is None else microseconds("--to", until)
    if into is not None:
        if to_us is None or from_us is not None or tables or users or cancel:
            raise click.UsageError("--into takes --to, and neither --from, --tables, --users nor --cancel")
        from replicator.ops.cli.point_in_time import build_copy

        build_copy(settings, to_us, into, plan=plan, as_json=as_json)
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
    _resync(settings, request, who, cancel=cancel, as_json=as_json)


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def microseconds(option: str, text: str) -> int:
    """The option's time, RFC 3339 with its offset, as µs since 1970. Raises ConfigError."""
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        cure = "write it like 2026-03-01T12:00:00Z, with its offset"
        raise ConfigError("bad_time", f"{text[:80]!r} is not a time", place=option, cure=cure)
    return (moment - _EPOCH) // datetime.timedelta(microseconds=1)


def _resync(settings: Config, request: Answer, who: str | None, *, cancel: bool, as_json: bool) -> NoReturn:
    from replicator.ops.cli.client import get, own_sidecar, post
    from replicator.ops.cli.comparison import compare, replica_only

    replica_only(settings, "resync")
    sidecar = own_sidecar(settings)
    if cancel:
        answer = post(sidecar, "/v1/resync/cancel", {})
        exit_with(0, answer, ["it stops after the keys that are under way"], as_json=as_json)
    if request["since"] is None:
        if get(sidecar, "/v1/resync")["job"] is None:
            exit_with(0, {"job": None}, ["there was no resync"], as_json=as_json)
    else:
        fields = {name: value for name, value in request.items() if value is not None}
        post(sidecar, "/v1/resync", {**fields, "who": who or user_name()})
    job = _follow(sidecar)
    if job["state"] != "done":
        exit_with(FAILED, {"job": job}, _job_lines(job), as_json=as_json)
    if job["plan"]:
        exit_with(0, {"job": job}, _plan_lines(job), as_json=as_json)
    comparison = compare(settings, 1)
    content = {"job": job, "verdict": comparison.as_json()}
    exit_with(comparison.code, content, [*_job_lines(job), comparison.line], as_json=as_json)


def _follow(sidecar: Endpoint) -> Answer:
    """Show the resync that is under way until it has ended; gives its job. A sidecar that is gone for a while is waited
    for: it goes on with the resync when it starts."""
    with progress_bar("resync") as show:
        looks = 0
        while (job := _job(sidecar))["state"] in ACTIVE:
            if job["state"] == "scanning":
                show(job["blocks"], job["last"] - job["first"], "blocks read")
            else:
                show(job["compared"], job["keys"], "keys compared")
            if not (looks := looks + 1) % LOOKS_PER_CHECK:
                _check_replay(sidecar)
            time.sleep(LOOK_SECONDS)
    return job


def _check_replay(sidecar: Endpoint) -> None:
    """Raise ReplicatorError if replay is halted: the resync, which waits for it, would be waited for in vain."""
    from replicator.ops.cli.comparison import replay_halt

    with contextlib.suppress(Unavailable):
        if why := replay_halt(sidecar):
            cure = (
                "cure that first (replicator status CONFIG says how), then start the sidecar anew: the resync goes on"
            )
            raise ReplicatorError("replay_halted", f"replay stands still: {why}", place=sidecar.url, cure=cure)


def _job(sidecar: Endpoint) -> Answer:
    """The job as the sidecar shows it. Raises Unavailable if it does not come back in time."""
    from replicator.ops.cli.client import get, unreadable

    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            with readable(sidecar):
                job = get(sidecar, "/v1/resync")["job"]
            if isinstance(job, dict) and isinstance(job.get("state"), str):
                return job
            if job is not None:
                raise unreadable(sidecar.url, TypeError("no job"))
        except Unavailable:
            if time.monotonic() > deadline:
                raise
        time.sleep(LOOK_SECONDS)


def _job_lines(job: Answer) -> Iterator[str]:
    span = f"sequences {job['first'] + 1} to {job['last']}"
    seconds = job["scan_seconds"] + job["rewrite_seconds"]
    yield f"resync {job['state']}: {span}, {job['blocks']:,} blocks, {job['bytes']:,} bytes, in {seconds:.1f} s"
    yield f"  {job['compared']:,} of {job['keys']:,} keys compared, {job['differing']:,} were not as the journal says"
    if job["users"] is not None:
        yield f"  {job['other_users']:,} of them belong to other users and were left alone"
    if job["unknown"]:
        yield f"  {job['unknown']:,} keys were left alone: the journal does not hold their values any more"
    if job["error"]:
        yield f"  {job['error']['place']}: {job['error']['message']} (cure: {job['error']['cure']})"


def _plan_lines(job: Answer) -> Iterator[str]:
    from replicator.ledger.presentation import show_time

    expected = job["expected_seconds"]
    rate = job["compared"] / job["rewrite_seconds"] if job["rewrite_seconds"] else 0
    about = "about " if job["sampled"] else ""
    yield f"since {show_time(job['since'])}: sequences {job['first'] + 1} to {job['last']}"
    yield f"  blocks     {job['blocks']:,}"
    yield f"  bytes      {job['bytes']:,} of those blocks"
    yield f"  keys       {job['keys'] - job['other_users']:,}"
    yield f"  conflicts  {about}{job['conflicts']:,} keys are not as the journal says and would be written"
    if job["unknown"]:
        yield f"  unknown    {job['unknown']:,} keys that the journal cannot tell"
    yield f"  duration   about {expected or 0:.1f} s, by {rate:,.0f} keys/s: {job['compared']:,} were compared just now"
    yield "nothing was changed"
