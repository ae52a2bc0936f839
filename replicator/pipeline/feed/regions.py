"""Known regions over HTTP: who follows this one, what is kept for each, and an operator's word that one is gone.

    GET  /v1/regions               every region that was ever known: how far it is, when it last said so, its state
    POST /v1/regions/forget        {"region", "who", "why"}: nothing is kept for it any more

Guarantee: a region that is connected is not forgotten: it would be known again at once. Bounds and errors are those of
``gaps.py``.
"""

from __future__ import annotations

import logging
import time
from typing import Any, Protocol

import trio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from replicator.errors import Rejected
from replicator.pipeline.feed.publish import Publisher
from replicator.storage.journal.keeper import JournalKeeper
from replicator.storage.journal.regions import KnownRegion, KnownRegions
from replicator.transport.body import json_fields

log = logging.getLogger("replicator")


class RegionParts(Protocol):
    """What runs in this region."""

    publisher: Publisher | None
    keeper: JournalKeeper | None


def routes(regions: KnownRegions, parts: RegionParts) -> list[Route]:
    """The routes."""

    def connected() -> set[str]:
        return {stream.region for stream in parts.publisher.followers.values()} if parts.publisher else set()

    async def known(request: Request) -> Response:
        retention = parts.keeper.report if parts.keeper else None
        base = retention.begins_behind if retention else 0
        known_regions = [region_json(region, base, connected(), time.time_ns() // 1000) for region in regions.all()]
        held_by = None if retention is None or retention.held_by is None else retention.held_by._asdict()
        return JSONResponse({"regions": known_regions, "begins_behind": base, "held_by": held_by})

    async def forget(request: Request) -> Response:
        fields = await json_fields(request, {"region": str, "who": str, "why": str})
        name, why = fields["region"], f"{fields['who']}: {fields['why']}"
        if name in connected():
            message = f"region {name} is connected, and would be known again at once"
            cure = "stop its sidecar first"
            raise Rejected("region_connected", message, status=409, place=request.url.path, cure=cure)
        region = await trio.to_thread.run_sync(regions.forget, name, why)
        log.warning("region %s, at sequence %d, is forgotten by %s", name, region.sequence, why)
        return JSONResponse({"forgotten": name, "sequence": region.sequence})

    return [
        Route("/v1/regions", known, methods=["GET"]),
        Route("/v1/regions/forget", forget, methods=["POST"]),
    ]


def region_json(region: KnownRegion, base: int, connected: set[str], wall_us: int) -> dict[str, Any]:
    """A region beside a journal that begins behind ``base``."""
    state = region.state(base)
    presence = "connected" if region.name in connected else "away"
    return {
        "region": region.name,
        "sequence": region.sequence,
        "reported_age_seconds": round(region.reported_age_seconds(wall_us), 3),
        "state": presence if state == "known" else state,
        "forgotten": region.forgotten,
    }
