"""Gaps over HTTP: what is missing, how gaps were closed, and what a person decides.

    GET  /v1/gaps                  open gaps, each with its state, what that means and what to do; why the strand is
                                   halted, if it is
    GET  /v1/gaps/closed           certificates: what closed a gap, and how that is known
    GET  /v1/gaps/late             late blocks that nobody has settled
    POST /v1/gaps/waive            {"first", "last", "who", "why", "halt_strand": true}
    POST /v1/gaps/discard          {"first", "last"}: forget what waits there, have it fetched again, go on
    POST /v1/gaps/resume           {}: go on after a conflict or a late block
    POST /v1/gaps/late             {"number"}: the late block has been dealt with

Guarantee: all of it asks for the token if there is one; a POST is JSON and says so (a web page elsewhere cannot send
it), is bounded, and answers only when what it did is durable. Errors are JSON: reason, message, place, cure.
"""

from __future__ import annotations

import logging

from starlette.requests import Request
from starlette.routing import Route

from replicator.errors import Rejected
from replicator.format.position import MAX_SEQUENCE
from replicator.pipeline.feed.follow import Follower
from replicator.transport.body import Fields, json_fields
from replicator.transport.replica_routes import replica_routes
from settle_buffer.entry import Entry
from settle_buffer.events import Certificate
from settle_buffer.status import GapStatus

CLOSED_LIMIT = 10_000  # certificates in an answer, the newest
log = logging.getLogger("replicator")


def routes(follower: Follower | None) -> list[Route]:
    """The routes; without a follower (on a primary) each says that nothing settles here."""
    answers = [
        ("GET", "/v1/gaps", _open),
        ("GET", "/v1/gaps/closed", _closed),
        ("GET", "/v1/gaps/late", _late),
        ("POST", "/v1/gaps/waive", _waive),
        ("POST", "/v1/gaps/discard", _discard),
        ("POST", "/v1/gaps/resume", _resume),
        ("POST", "/v1/gaps/late", _settle_late),
    ]
    message = "this region is the primary and follows nobody: nothing can be missing here"
    return replica_routes(follower, answers, message=message, strand=follower.strand if follower else None)


async def _open(request: Request, follower: Follower) -> Fields:
    status = follower.status()
    return {
        "gaps": [gap_json(gap, follower.upstream_url) for gap in status.gaps],
        "held_entries": status.held_entries,
        "halted": None if follower.halted is None else follower.halted.as_json(),
        "window_seconds": status.window_us / 1e6,
    }


async def _closed(request: Request, follower: Follower) -> Fields:
    certificates = await follower.interventions.certificates()
    return {"certificates": [_certificate_json(certificate) for certificate in certificates[-CLOSED_LIMIT:]]}


async def _late(request: Request, follower: Follower) -> Fields:
    return {"late": [_late_json(number, entry) for number, entry in await follower.interventions.late()]}


async def _waive(request: Request, follower: Follower) -> Fields:
    fields = await json_fields(request, {"first": int, "last": int, "who": str, "why": str}, {"halt_strand": bool})
    first, last = _range(fields)
    halt = bool(fields.get("halt_strand", False))
    await follower.interventions.waive(first, last, fields["who"], fields["why"], halt_strand=halt)
    return {"waived": {"first": first, "last": last}}


async def _discard(request: Request, follower: Follower) -> Fields:
    first, last = _range(await json_fields(request, {"first": int, "last": int}))
    await follower.interventions.discard(first, last)
    log.warning("strand %s: %d to %d was discarded by an operator and is fetched again", follower.strand, first, last)
    return {"discarded": {"first": first, "last": last}}


async def _resume(request: Request, follower: Follower) -> Fields:
    await json_fields(request, {})
    await follower.interventions.resume()
    log.warning("strand %s: resumed by an operator", follower.strand)
    return {"resumed": True}


async def _settle_late(request: Request, follower: Follower) -> Fields:
    fields = await json_fields(request, {"number": int})
    await follower.interventions.settle_late(fields["number"])
    log.warning("strand %s: late block %d was settled by an operator", follower.strand, fields["number"])
    return {"settled": fields["number"]}


def gap_json(gap: GapStatus, upstream_url: str) -> Fields:
    """An open gap, with what its state means and what a person can do."""
    state = "expired" if gap.expired else "requested" if gap.requests else "open"
    meaning, cure = _STATES[state]
    ask = f"{upstream_url}/feed/v1/{gap.strand}?after={gap.first - 1}&until={gap.last}"
    return {
        "first": gap.first,
        "last": gap.last,
        "missing": gap.missing,
        "state": state,
        "age_seconds": gap.age_us / 1e6,
        "requests": gap.requests,
        "meaning": meaning,
        "cure": cure.format(ask=ask),
    }


_BEHIND = "What came behind it waits and is not applied"
_STATES = {
    "open": (
        f"A later block came first. {_BEHIND}. If it does not come by itself within the window, it is asked for",
        "nothing yet",
    ),
    "requested": (
        f"It did not come by itself and is asked for, again and again. {_BEHIND}",
        "nothing yet; if it lasts, look at the log here, and at the region that should have it: {ask}",
    ),
    "expired": (
        f"It did not come in the time allowed. It is asked for still, and stays open. {_BEHIND}",
        "look whether the region that is followed has it: {ask}. If not, let [follow] primary name one that has. If "
        "nobody has it, this region cannot go on: waive it with --halt-strand, and make the region anew",
    ),
}


def _certificate_json(certificate: Certificate) -> Fields:
    fields = certificate._asdict()
    del fields["strand"]
    return fields


def _late_json(number: int, entry: Entry) -> Fields:
    return {
        "number": number,
        "sequence": entry.sequence,
        "hash": entry.digest.hex(),
        "previous": entry.link.hex(),
        "committed_at": entry.at,
        "bytes": len(entry.body),
    }


def _range(fields: Fields) -> tuple[int, int]:
    first, last = fields["first"], fields["last"]
    if not 1 <= first <= last <= MAX_SEQUENCE:
        raise Rejected("bad_request", "a range is first to last, from 1 on", status=422, place="first, last")
    return first, last
