"""Whom a replica follows: reachable, willing, on the same chain, and with a clock that agrees.

The feed itself is asked, in the way that following will ask it, for nothing behind the region's own position: its
answer is a heartbeat or the refusal that following would meet.
"""

from __future__ import annotations

import time
import urllib.parse
from collections.abc import Iterator
from typing import NamedTuple

import trio

from replicator.config.finding import Finding, failed
from replicator.errors import Rejected, ReplicatorError, Unavailable
from replicator.format.position import Position
from replicator.format.wire import Heartbeat
from replicator.ops.preflight.listener import is_local
from replicator.pipeline.feed.client import FeedClient, Frames, Upstream

MICROSECONDS = 1_000_000
CLOCK_TOLERANCE_SECONDS = 1.0
ANSWER_SECONDS = 15.0
_CURES = {
    "diverged": "find out which history is right before anything else; then make the other region anew:"
    " replicator bootstrap CONFIG --replace",
    "ahead": "the primary was set back, or it is another one: find out before anything else",
    "pruned": "replicator bootstrap CONFIG --replace: a copy from a region that has everything",
    "unknown_strand": "check [region] strand on both sides",
}


class _UpstreamAnswer(NamedTuple):
    """A heartbeat, and this machine's clock before it was asked for and after it came."""

    heartbeat: Heartbeat
    sent_us: int
    heard_us: int


async def check_feed(upstream: Upstream, head: Position) -> list[Finding]:
    """Ask the feed behind ``head``, the end of the region's own journal."""
    place = f"[follow] primary = {upstream.url}"
    findings = list(_encryption(upstream, place))
    try:
        answer = await _ask(upstream, head)
    except Rejected as refusal:
        cure = _CURES.get(refusal.reason, "check [follow] and the primary's version")
        return [*findings, Finding("fail", f"{place}: {refusal.message} [{refusal.reason}]", cure)]
    except ReplicatorError as error:
        return [*findings, failed(error)]
    theirs = answer.heartbeat.position.sequence
    behind = f"this region's sequence {head.sequence:,} is on its chain, which is at {theirs:,}"
    clock = clock_finding(answer.heartbeat.now, answer.sent_us, answer.heard_us)
    return [*findings, Finding("ok", f"{place} answers; {behind}"), clock]


async def _ask(upstream: Upstream, head: Position) -> _UpstreamAnswer:
    async with FeedClient(upstream) as client:
        sent_us = time.time_ns() // 1000
        with trio.move_on_after(ANSWER_SECONDS):
            # Nothing lies behind the end: the feed sends a heartbeat, or refuses as it would refuse to be followed.
            async with client.stream(head.strand, head, until=head.sequence) as frames:
                heartbeat = await _first_heartbeat(frames)
                return _UpstreamAnswer(heartbeat, sent_us, time.time_ns() // 1000)
    message = f"no heartbeat came within {ANSWER_SECONDS:.0f} s"
    raise Unavailable("feed_silent", message, place=upstream.url, cure="check that region's sidecar")


async def _first_heartbeat(frames: Frames) -> Heartbeat:
    async for batch in frames.batches():
        for frame in batch:
            if isinstance(frame, Heartbeat):
                return frame
    raise Unavailable("feed_closed", "the feed ended without a heartbeat", cure="check that region's sidecar")


def clock_finding(theirs_us: int, sent_us: int, heard_us: int) -> Finding:
    """The primary's clock was read between this machine's ``sent_us`` and ``heard_us``: what lies outside of that is a
    difference of the clocks."""
    seconds = max(theirs_us - heard_us, sent_us - theirs_us, 0) / MICROSECONDS
    if seconds <= CLOCK_TOLERANCE_SECONDS:
        return Finding("ok", f"the primary's clock and this one agree within {CLOCK_TOLERANCE_SECONDS:g} s")
    direction = "ahead of" if theirs_us > heard_us else "behind"
    what = f"the primary's clock is {seconds:,.1f} s {direction} this one: lag in seconds will be off by that"
    return Finding("warn", what, "let NTP or chrony keep both clocks; order does not depend on them")


def _encryption(upstream: Upstream, place: str) -> Iterator[Finding]:
    parts = urllib.parse.urlsplit(upstream.url)
    if parts.scheme == "http" and not is_local(parts.hostname or ""):
        what = f"{place}: rows{' and token' if upstream.token else ''} travel without encryption"
        yield Finding("warn", what, "use https, with a certificate at the primary, or a private network")
