"""The observing part of the HTTP surface: metrics, health, role URLs, status and its page.

In Patroni's manner, so that HAProxy, a cloud's balancer or Kubernetes can use the role URLs as they are: each answers
200 or 503 to GET, HEAD and OPTIONS, with the reason as JSON to GET.

    /liveness                        200: the program runs and answers
    /health                          503 if a stage is halted, the region's part in failover is, or writes are refused
    /readiness?lag=&mode=            503 while something that is applied (mode=settled: settled) lags beyond the limit
    /primary                         200 if the region is the primary and takes writes: in a cluster, for as long as its
                                     lease lasts
    /replica?lag=                    200 if the region is a replica that is ready
    /cluster  /history  /v1/status   JSON
    /metrics                         for Prometheus
    /                                the status page

``lag`` is a duration (``10s``) or a number of blocks (``500``); without it 30 seconds are allowed. Guarantee: every
answer is made from one snapshot; nothing here does I/O or waits. Non-goal: asking for the
token (``replicator/transport/server.py``); ``ROLE_PATHS`` and ``STATUS_PATHS`` name what may be open without one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, get_args

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from replicator.config.roles import Role
from replicator.config.units import read_duration
from replicator.errors import Rejected, ReplicatorError, Unavailable
from replicator.status.json import cluster_json, history_json, status_json
from replicator.status.marks import Mode, StageCondition
from replicator.status.model import Snapshot, StatusSource
from replicator.status.page import CONTENT_SECURITY_POLICY, page
from replicator.status.readiness import READY_LAG, LagLimit, blocked, unready, writes_refused
from replicator.transport.body import AnyTextJSON

METHODS = ["GET", "HEAD", "OPTIONS"]

# Whoever may ask for nothing else may ask these: they say 200 or 503 and why.
ROLE_PATHS = frozenset({"/health", "/liveness", "/readiness", "/primary", "/replica"})
# These tell what the region holds and does.
STATUS_PATHS = frozenset({"/", "/metrics", "/cluster", "/history", "/v1/status"})

Judge = Callable[[Snapshot, Request], ReplicatorError | None]


def routes(source: StatusSource, registry: CollectorRegistry) -> list[Route]:
    """The routes of a region whose snapshots come from ``source`` and whose metrics are on ``registry``."""
    verdicts: dict[str, Judge] = {
        "/liveness": lambda snapshot, request: None,
        "/health": lambda snapshot, request: _health(snapshot),
        "/readiness": lambda snapshot, request: blocked(snapshot, _mode(request), _lag_limit(request)),
        "/primary": lambda snapshot, request: _primary(snapshot),
        "/replica": _replica,
    }
    documents: dict[str, Callable[[Snapshot], Any]] = {
        "/cluster": cluster_json,
        "/history": lambda snapshot: history_json(snapshot.history),
        "/v1/status": status_json,
    }
    return [
        *(_route(path, _verdict(source, judge)) for path, judge in verdicts.items()),
        *(_route(path, _document(source, form)) for path, form in documents.items()),
        _route("/metrics", lambda request: _metrics(request, registry)),
        _route("/", lambda request: _page(source.snapshot())),
    ]


def _route(path: str, answer: Callable[[Request], Response]) -> Route:
    async def endpoint(request: Request) -> Response:
        response = answer(request)
        response.headers["Cache-Control"] = "no-store"  # a cached 200 would send writers to who was primary
        if request.method == "GET":
            return response
        if request.method == "OPTIONS":
            response.headers["Allow"] = ", ".join(METHODS)
        # HEAD gives the length that GET's body would have, and no body.
        length = response.headers["Content-Length"] if request.method == "HEAD" else "0"
        response.body = b""
        response.headers["Content-Length"] = length
        return response

    return Route(path, endpoint, methods=METHODS)


def _verdict(source: StatusSource, judge: Judge) -> Callable[[Request], Response]:
    def answer(request: Request) -> Response:
        snapshot = source.snapshot()
        reason = judge(snapshot, request)
        body = {
            "region": snapshot.region,
            "role": snapshot.role,
            "ok": reason is None,
            "blocked": None if reason is None else reason.as_json(),
        }
        return AnyTextJSON(body, status_code=200 if reason is None else 503)

    return answer


def _document(source: StatusSource, form: Callable[[Snapshot], Any]) -> Callable[[Request], Response]:
    return lambda request: AnyTextJSON(form(source.snapshot()))


def _health(snapshot: Snapshot) -> ReplicatorError | None:
    if snapshot.failover is not None and snapshot.failover.own.state == "halted":
        return unready(snapshot.failover)
    halted = (
        stage.trouble
        for state in snapshot.strands
        for stage in state.progress.stages
        if stage.condition is StageCondition.HALTED
    )
    return next(halted, None) or writes_refused(snapshot)


def _primary(snapshot: Snapshot) -> ReplicatorError | None:
    """An embedded ledger that is halted, or has no room, takes no writes. A database whose source is halted would, but
    nobody reads them: a writer that is sent there by a balancer would write what no other region gets, for as long as
    a person does not see it."""
    return _not_role(snapshot, "primary") or _health(snapshot)


def _replica(snapshot: Snapshot, request: Request) -> ReplicatorError | None:
    return _not_role(snapshot, "replica") or blocked(snapshot, _mode(request), _lag_limit(request))


def _not_role(snapshot: Snapshot, role: Role) -> ReplicatorError | None:
    if snapshot.role == role:
        return None
    where = f"the primary is at {snapshot.primary_url}" if role == "primary" and snapshot.primary_url else ""
    state = f"a {snapshot.role}" if snapshot.failover is None else snapshot.failover.own.state
    if snapshot.failover is not None and state == role:  # it would lead, and its fence is closed
        state = f"closed: {snapshot.failover.own.report.blocked or snapshot.failover.lease_trouble or 'it waits'}"
    return Unavailable(f"not_{role}", f"this region is {state}", place=f"region {snapshot.region}", cure=where)


def _mode(request: Request) -> Mode:
    mode: str = request.query_params.get("mode", "applied")
    for known in get_args(Mode):
        if mode == known:
            return known  # type: ignore[no-any-return]  # get_args forgets that these are Mode's own values
    raise Rejected("bad_mode", "mode is settled or applied", place=request.url.path, cure="leave it out for applied")


def _lag_limit(request: Request) -> LagLimit:
    text = request.query_params.get("lag")
    if text is None:
        return READY_LAG
    if re.fullmatch(r"[0-9]{1,18}", text):
        return LagLimit(seconds=None, blocks=int(text))
    try:
        seconds = read_duration(text)
    except ValueError as error:
        cure = "write lag=10s, or lag=500 for a number of blocks"
        raise Rejected("bad_lag", str(error), place=request.url.path, cure=cure) from error
    assert isinstance(seconds, float)
    return LagLimit(seconds=seconds)


def _metrics(request: Request, registry: CollectorRegistry) -> Response:
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(registry), headers={"Content-Type": content_type})


def _page(snapshot: Snapshot) -> Response:
    html = page(snapshot).encode(errors="backslashreplace")
    return HTMLResponse(html, headers={"Content-Security-Policy": CONTENT_SECURITY_POLICY})
