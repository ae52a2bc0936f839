"""Reporting to the region that is followed what is durable here.

Guarantee: one report at a time is on its way, each says where the journal ends when it leaves; so what became durable
meanwhile is in the next one, and the number of reports follows the round trip, not the writes. Where the upstream asks
for prompt reports one leaves as soon as something is durable, else every two seconds if there is news; without any,
every half a minute. An upstream that takes no reports is left alone.
"""

from __future__ import annotations

import logging

import trio

from replicator.errors import Corrupt, Halted, Rejected, Unavailable
from replicator.pipeline.feed.client import FeedClient
from replicator.storage.journal.head import JournalHead

REPORT_SECONDS = 2.0
REPORT_IDLE_REPORTS = 15  # so many reports in a row are left out while nothing comes
AGAIN_SECONDS = 0.2  # after a report that did not arrive, where it is waited for

log = logging.getLogger("replicator")


async def report_for_ever(client: FeedClient, journal_head: JournalHead) -> None:
    """Report until the upstream says that it takes no reports."""
    reported, idle = -1, 0
    while True:
        await _wait_until_due(client, journal_head, reported)
        head = journal_head.position
        idle = idle + 1 if head.sequence == reported else 0
        if head.sequence == reported and idle < REPORT_IDLE_REPORTS:
            continue
        try:
            await client.report(head)
            reported, idle = head.sequence, 0
        except Rejected as refusal:
            if refusal.reason == "not_found":
                return  # an older version, or another program: it does not count reports
            log.info("the position was not taken: %s", refusal)  # the stream says what it means
            await trio.sleep(REPORT_SECONDS)
        except (Unavailable, Corrupt, Halted) as error:
            log.debug("the position was not told: %s", error)
            await trio.sleep(min(AGAIN_SECONDS, REPORT_SECONDS))


async def _wait_until_due(client: FeedClient, journal_head: JournalHead, reported: int) -> None:
    """Wait for the next report's time; for less than that if reports are asked for, and there is news."""
    with trio.move_on_after(REPORT_SECONDS):
        # One after the other: without a wish for prompt reports, news waits for the next ordinary one.
        await client.reports_wanted.wait()
        await journal_head.beyond(reported)
