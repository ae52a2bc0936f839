"""The controller over HTTP: for peers, and for an operator's verbs.

    GET  /v1/failover              the report, the memory, the detector's level and views, the lease, what has happened
    POST /v1/failover/promise      {"epoch"}: durable before it is answered with a report
    POST /v1/failover/orders       {"verb": "switchover" | "failover" | "take" | "rejoin" | "pause" | "resume", …}

Guarantee: an order that is answered with 202 is being carried out; what becomes of it is seen in the report. Bounds and
errors are those of ``body``: hostile input is refused by name.
"""

from __future__ import annotations

from typing import Any

import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from replicator.cluster.decisions.detector import signals
from replicator.cluster.decisions.loss import loss, refused
from replicator.cluster.decisions.states import RoleEvent, RoleState
from replicator.cluster.failover.controller import Controller
from replicator.cluster.failover.membership import Membership
from replicator.cluster.failover.observe import look
from replicator.cluster.failover.peers import SILENT_SECONDS
from replicator.cluster.failover.wire import lease_json, memory_json, order_from, order_json, report_json
from replicator.cluster.leases.base import boot_seconds
from replicator.cluster.rejoin.orphan_receiver import OrphanReceiver
from replicator.cluster.rejoin.serve import routes as orphan_routes
from replicator.config import Config, EtcdLeaseSettings
from replicator.config.roles import source_of
from replicator.errors import Rejected
from replicator.format.json_fields import TEXT_LIMIT
from replicator.transport.body import AnyTextJSON, json_fields

_PAUSES = {"pause": RoleEvent.PAUSE, "resume": RoleEvent.RESUME}
DEFAULT_SECONDS = 30.0
_ORDER_FIELDS = {
    "target": str,
    "instead_of": dict,
    "sequence": int,
    "allow_data_loss": bool,
    "primary_is_fenced": bool,
    "reason": str,
    "seconds": float,
    "undo": list,
}


def routes(controller: Controller) -> list[BaseRoute]:
    """Reports, promises, orders and sealed orphans."""
    member = controller.member

    def orphan_receiver() -> OrphanReceiver:
        # The sidecar's own session passes the fence at any time: that this region leads is asked here.
        if member.memory.state is not RoleState.PRIMARY or not member.lease.is_open:
            place, cure = f"region {member.rules.me}", "ask the primary region; replicator status CONFIG names it"
            raise Rejected("not_primary", "this region does not lead", status=409, place=place, cure=cure)
        return member.region.orphan_receiver()

    async def show(request: Request) -> Response:
        return AnyTextJSON(await shown(member))

    async def promise(request: Request) -> Response:
        fields = await json_fields(request, {"epoch": int})
        epoch = fields["epoch"]
        if not 0 < epoch < 2**53:
            raise Rejected("bad_request", "an epoch is a number above zero", place="epoch")
        return AnyTextJSON({"report": report_json(await controller.promised(epoch))})

    async def order(request: Request) -> Response:
        fields = await json_fields(request, {"verb": str}, _ORDER_FIELDS)
        if fields["verb"] in _PAUSES:
            await controller.pause(_PAUSES[fields["verb"]], str(fields.get("reason") or "an operator")[:TEXT_LIMIT])
            return AnyTextJSON({"accepted": fields["verb"]}, status_code=202)
        target = fields.get("target")
        if fields["verb"] == "switchover" and target in member.peers.urls:
            with trio.move_on_after(SILENT_SECONDS):  # who does not answer is judged by what it said last
                await member.peers.look(target)  # what that was may be over by now, or not be true any more
        try:
            taken = order_from({"seconds": DEFAULT_SECONDS, **fields}, boot_seconds())
        except (ValueError, TypeError, KeyError) as error:
            raise Rejected("bad_request", f"this is no order: {error}", place=request.url.path) from error
        controller.take_order(taken)
        return AnyTextJSON({"accepted": taken.verb}, status_code=202)

    return [
        Route("/v1/failover", show, methods=["GET"]),
        Route("/v1/failover/promise", promise, methods=["POST"]),
        Route("/v1/failover/orders", order, methods=["POST"]),
        *orphan_routes(member.orphans, orphan_receiver),
    ]


def cluster_json(config: Config) -> dict[str, Any]:
    """What must be the same in every region of a cluster; ``preflight`` compares it."""
    source = source_of(config)
    return {
        "strand": config.region.strand,
        "regions": sorted(config.cluster.regions) if config.cluster else [],
        "ledger": None if source is None else source.kind,
        "mode": config.failover.mode,
        "acknowledge": config.failover.acknowledge,
        "lease": f"etcd, {config.lease.prefix}" if isinstance(config.lease, EtcdLeaseSettings) else "static",
        "ttl_seconds": None if config.lease is None else config.lease.ttl_seconds,
    }


async def shown(member: Membership) -> dict[str, Any]:
    """All that the controller knows, as JSON."""
    seen = look(member)  # a peer's look must not ask the ledger what only a decision needs
    await trio.lowlevel.checkpoint()
    found, lost = signals(seen, member.rules), loss(seen, member.rules)
    order = member.order
    return {
        "report": report_json(seen.me),
        "memory": memory_json(member.memory),
        "mode": member.rules.mode,
        "cluster": cluster_json(member.config),
        "level": found.level.value,
        "why": member.why or found.why,
        "views": found.views,
        "lease": lease_json(seen.lease),
        "lease_remaining_seconds": member.lease.remaining_seconds,
        "lease_trouble": None if member.lease.trouble is None else member.lease.trouble.as_json(),
        "refused": refused(seen, member.rules, None),
        "would_lose": lost._asdict(),
        "peers": {
            name: {"report": report_json(heard.report), "age_seconds": max(seen.now - heard.at, 0.0)}
            for name, heard in seen.peers.items()
        },
        "order": None if order is None else order_json(order, max(order.until - boot_seconds(), 0.0)),
        "history": [event._asdict() for event in member.transitions],
    }
