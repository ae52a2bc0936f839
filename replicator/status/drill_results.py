"""Results of drills, kept by a region's sidecar: how long ago each kind was rehearsed last, and how it ended.

    GET  /v1/drills     what is kept, newest first
    POST /v1/drills     {"id", "kind", "name", "outcome", "seconds", "who", and what was measured}: keeps it

Guarantee: what was answered 200 is on disk; the same drill told twice is kept once; the last ``KEPT`` are kept, and
the last of each kind. A file that cannot be read is set aside, and that is logged. A result's age runs from when this
region heard of it, by this region's clock.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, get_args

import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from replicator.errors import Rejected, Unavailable
from replicator.status.model import DrillKind, DrillOutcome, DrillView
from replicator.storage.atomic_file import replace_file
from replicator.storage.data_dir import DataDir
from replicator.transport.body import AnyTextJSON, json_fields

PATH = "/v1/drills"
KEPT = 100
LIMIT_BYTES = 4_000_000

_NEEDED: dict[str, type] = {"id": str, "kind": str, "name": str, "outcome": str, "seconds": float, "who": str}
_MEASURED: dict[str, type] = {"rto_seconds": float, "rpo_blocks": float, "blocked_seconds": float}

log = logging.getLogger("replicator.drills")


@dataclasses.dataclass(frozen=True, slots=True)
class DrillResult:
    """A drill's result; ``at_us`` is when this region heard of it."""

    at_us: int
    id: str
    kind: str
    name: str
    outcome: str
    seconds: float
    who: str
    rto_seconds: float | None = None
    rpo_blocks: float | None = None
    blocked_seconds: float | None = None


class DrillResults:
    """The results that a region keeps, in ``drill_results`` of its data directory, which is read here. Any thread may
    call."""

    def __init__(self, data_dir: DataDir, clock: Callable[[], int] = lambda: time.time_ns() // 1000) -> None:
        self._path = data_dir.drill_results
        self._clock = clock
        self._lock = threading.Lock()
        self._results = self._load()

    def all(self) -> list[DrillResult]:
        """What is kept, newest first."""
        # Without the lock, which is held while a result is written to the disk: a scrape must not wait for it. The list
        # is replaced whole, never changed.
        return self._results[::-1]

    def add(self, fields: dict[str, Any]) -> DrillResult:
        """Keep a result; durable on return. Raises Rejected or Unavailable."""
        if fields["kind"] not in get_args(DrillKind) or fields["outcome"] not in get_args(DrillOutcome):
            message = "kind is that of a plan, and outcome passed, missed, stopped or failed"
            raise Rejected("bad_request", message, status=422, place=PATH)
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,100}", fields["id"]):
            raise Rejected("bad_request", "id has letters, digits, '_', '.' and '-'", status=422, place=PATH)
        with self._lock:
            for known in self._results:
                if known.id == fields["id"]:
                    return known
            result = DrillResult(self._clock(), **fields)
            after = kept([*self._results, result])
            self._store(after)
            self._results = after
        return result

    def views(self) -> tuple[DrillView, ...]:
        """The last of each kind, for a snapshot."""
        now = self._clock()
        newest = {result.kind: result for result in self.all()[::-1]}
        return tuple(
            DrillView(r.kind, r.name, r.outcome, max(now - r.at_us, 0) / 1e6, r.rto_seconds, r.rpo_blocks)
            for _, r in sorted(newest.items())
        )

    def _load(self) -> list[DrillResult]:
        try:
            with self._path.open("rb") as file:
                return [DrillResult(**fields) for fields in json.loads(file.read(LIMIT_BYTES))["results"]]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError) as error:
            aside = self._path.with_name(f"{self._path.name}.damaged-{time.time_ns()}")
            log.error("the results of drills cannot be read (%s); kept as %s", error, aside)
            try:
                self._path.replace(aside)
            except OSError as failed:
                log.error("%s cannot be set aside: %s", self._path, failed)
            return []

    def _store(self, results: Iterable[DrillResult]) -> None:
        fields = {"results": [dataclasses.asdict(result) for result in results]}
        try:
            replace_file(self._path, [json.dumps(fields)])
        except OSError as error:
            cure = "check disk and rights; then send it again"
            raise Unavailable(
                "cannot_write", f"it cannot be kept: {error}", place=str(self._path), cure=cure
            ) from error


def kept(results: list[DrillResult]) -> list[DrillResult]:
    """The last ones, and the last of each kind, oldest first. Pure."""
    newest = {result.kind: place for place, result in enumerate(results)}
    first = len(results) - KEPT
    return [result for place, result in enumerate(results) if place >= first or newest[result.kind] == place]


def routes(results: DrillResults) -> list[Route]:
    """The routes."""

    async def drills(request: Request) -> Response:
        if request.method == "POST":
            fields = await json_fields(request, _NEEDED, _MEASURED)
            result = await trio.to_thread.run_sync(results.add, fields)
            log.info("drill %s, %s: %s, told by %s", result.id, result.kind, result.outcome, result.who)
            return AnyTextJSON(dataclasses.asdict(result))
        return AnyTextJSON({"drills": [dataclasses.asdict(result) for result in results.all()]})

    return [Route(PATH, drills, methods=["GET", "POST"])]
