"""A resync as it goes, and how it ended, in words."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, Any

from replicator.ledger.presentation import show_time

if TYPE_CHECKING:
    from replicator.transport.endpoint import Endpoint

LOOK_SECONDS = 0.2
PATIENCE_SECONDS = 120.0  # for a sidecar that is being started again
STOPPED_LOOKS = 15
ACTIVE = ("scanning", "rewriting")

Job = dict[str, Any]


def follow(whom: Endpoint) -> Job:
    """Show the resync that is under way until it has ended; gives its job. A sidecar that is gone for a while is waited
    for: it goes on with the resync when it starts."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
        task, looks = progress.add_task("resync", total=None), 0
        while (job := _job(whom))["state"] in ACTIVE:
            if job["state"] == "scanning":
                done, total, what = job["blocks"], job["last"] - job["first"], "blocks read"
            else:
                done, total, what = job["compared"], job["keys"], "keys compared"
            progress.update(task, description=what, completed=done, total=total)
            if not (looks := looks + 1) % STOPPED_LOOKS:
                _check(whom)
            time.sleep(LOOK_SECONDS)
    return job


def _check(whom: Endpoint) -> None:
    """A replay that is halted is waited for in vain."""
    from replicator.errors import ReplicatorError, Unavailable
    from replicator.ops.cli.verdicts import stopped

    with contextlib.suppress(Unavailable):
        if why := stopped(whom):
            cure = "cure that first (replicator status says how), then start the sidecar anew: the resync goes on"
            raise ReplicatorError("replay_halted", f"replay stands still: {why}", place=whom.url, cure=cure)


def _job(whom: Endpoint) -> Job:
    from replicator.errors import Unavailable
    from replicator.ops.cli.client import ask, unreadable

    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            answer = ask(whom, "/v1/resync")
            job = answer["job"]
            if isinstance(job, dict) and isinstance(job.get("state"), str):
                return job
            if job is not None:
                raise unreadable(whom.url, TypeError("no job"))
        except Unavailable:
            if time.monotonic() > deadline:
                raise
        except (KeyError, TypeError) as error:
            raise unreadable(whom.url, error) from error
        time.sleep(LOOK_SECONDS)


def job_lines(job: Job) -> list[str]:
    """How it ended."""
    span = f"sequences {job['first'] + 1} to {job['last']}"
    seconds = job["scan_seconds"] + job["rewrite_seconds"]
    lines = [
        f"resync {job['state']}: {span}, {job['blocks']:,} blocks, {job['bytes']:,} bytes, in {seconds:.1f} s",
        f"  {job['compared']:,} of {job['keys']:,} keys compared, {job['differing']:,} were not as the journal says",
    ]
    if job["users"] is not None:
        lines.append(f"  {job['other_users']:,} of them belong to other users and were left alone")
    if job["unknown"]:
        lines.append(f"  {job['unknown']:,} keys were left alone: the journal does not hold their values any more")
    if job["error"]:
        lines.append(f"  {job['error']['place']}: {job['error']['message']} (cure: {job['error']['cure']})")
    return lines


def plan_lines(job: Job) -> list[str]:
    """What a resync would take."""
    expected = job["expected_seconds"]
    rate = job["compared"] / job["rewrite_seconds"] if job["rewrite_seconds"] else 0
    about = "about " if job["sampled"] else ""
    return [
        f"since {show_time(job['since'])}: sequences {job['first'] + 1} to {job['last']}",
        f"  blocks     {job['blocks']:,}",
        f"  bytes      {job['bytes']:,} of those blocks",
        f"  keys       {job['keys'] - job['other_users']:,}",
        f"  conflicts  {about}{job['conflicts']:,} keys are not as the journal says and would be written",
        *([f"  unknown    {job['unknown']:,} keys that the journal cannot tell"] if job["unknown"] else []),
        f"  duration   about {expected or 0:.1f} s, by {rate:,.0f} keys/s: {job['compared']:,} were compared just now",
        "nothing was changed",
    ]
