"""What a snapshot says, in words for people: for the page, for JSON's summaries and for the commands. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Mapping

from replicator.cluster.failover.status import FailoverView
from replicator.pipeline.acknowledge.view import AcknowledgeView
from replicator.status.model import JournalView, StrandState

QUARANTINE_CURE = "replicator quarantine CONFIG says why; cure that, then replicator quarantine replay CONFIG"
ORPHANS_CURE = "replicator orphans CONFIG shows them; what is clean can be re-applied, and a person settles the rest"


def seconds_text(seconds: float) -> str:
    """A duration for people: ``0.0 s``, ``40 ms``, ``3.2 s``, ``5 min 20 s``, ``2 h 5 min``, ``3 d 4 h``."""
    if 0 < seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    for size, name, smaller, smaller_name in (
        (86_400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            return f"{whole // size} {name} {whole % size // smaller} {smaller_name}"
    raise AssertionError("60 seconds and more are minutes")


def time_text(at_us: int) -> str:
    """RFC 3339 in UTC. Times that no calendar has read as 1970 or the year 9999."""
    bounded = min(max(at_us, 0), 253_402_300_799_999_999)
    moment = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(microseconds=bounded)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def quarantine_text(statements: int, keys: Mapping[str, int]) -> str:
    """What is set aside and what waits behind it, in one line for people."""
    count = "1 statement is" if statements == 1 else f"{statements:,} statements are"
    names = {0: "no key that is known", 1: "1 key"}
    tables = ", ".join(f"{table} ({names.get(number, f'{number:,} keys')})" for table, number in keys.items())
    return f"{count} set aside, and readers do not see what {'it does' if statements == 1 else 'they do'}: {tables}"


def journal_text(journal: JournalView) -> str:
    """How much is kept, and what holds back what should go, in one line for people."""
    report, age = journal.report, journal.oldest_age_seconds
    size = f"{report.bytes / 1e6:,.1f} MB from sequence {report.begins_behind + 1:,}"
    words = [size + ("" if age is None else f", up to {seconds_text(max(age, 0.0))} old")]
    if report.lost:
        words.append(f"its budget was used up: {', '.join(report.lost)} must be made anew, or forgotten")
    if (hold := report.held_by) is not None:
        words.append(f"more should go; held back by {hold.who}, which is at sequence {hold.sequence:,}")
    if report.trouble:
        words.append(f"it cannot be pruned: {report.trouble}")
    return "; ".join(words)


def acknowledge_text(view: AcknowledgeView) -> str:
    """Whether writers wait for other regions, and for how long, in one line for people."""
    others, have, do = (
        ("1 other region", "has", "it does") if view.count == 1 else (f"{view.count} other regions", "have", "they do")
    )
    if view.degraded:
        return f"DEGRADED: writers are answered although fewer than {others} have what they wrote"
    words = f"writers are answered when {others} {have} what they wrote"
    if not view.oldest_seconds:
        return words
    return f"{words}; the oldest that {do} not have waits since {seconds_text(view.oldest_seconds)}"


def at_risk_words(state: StrandState) -> list[str]:
    """What no other region has, for people."""
    words = [f"{state.at_risk_blocks or 0:,} blocks"]
    words += [
        f"{amount:,.2f} {currency} of {table}" for (table, currency), amount in sorted(state.at_risk_amounts.items())
    ]
    if state.at_risk_unknown:
        words.append(f"{state.at_risk_unknown:,} changes of unknown amount")
    return words


def drill_text(kind: str, outcome: str, age_seconds: float, rto_seconds: float | None) -> str:
    """The last drill of a kind, in one line for people."""
    rto = "" if rto_seconds is None else f", RTO {seconds_text(rto_seconds)}"
    return f"{kind.replace('_', ' ')}: {outcome} {seconds_text(age_seconds)} ago{rto}"


def lease_text(view: FailoverView) -> str:
    """Who may be primary, and for how long yet."""
    if not view.is_lease_known:
        return f"its store does not answer: {view.lease_trouble}" if view.lease_trouble else "not known yet"
    trouble = f"; but {view.lease_trouble}" if view.lease_trouble else ""
    if view.holder is None:
        return "held by nobody" + trouble
    text = f"held by {view.holder} in epoch {view.holder_epoch}"
    left = view.lease_remaining_seconds
    return (text if left is None else f"{text}, for {left:.1f} s without renewal") + trouble


def lost_text(view: FailoverView) -> str:
    """What would be lost if the primary were gone now."""
    if not view.is_copied:
        return "the whole ledger: its first copy has reached no other region yet"
    words = [f"{view.lost_blocks:,} blocks"]
    words += [f"{amount:,.2f} of {name.strip()}" for name, amount in sorted(view.lost_amounts.items())]
    words += [f"{view.lost_unknown:,} changes of unknown amount"] if view.lost_unknown else []
    return ", ".join(words) + (f"; that refuses a promotion: {view.refused}" if view.refused else "")


def orphans_text(count: int) -> str:
    """How much is sealed and waits for a person."""
    which = "1 transaction that only this region had is" if count == 1 else f"{count:,} that only this region had are"
    return f"{which} sealed and not handled"
