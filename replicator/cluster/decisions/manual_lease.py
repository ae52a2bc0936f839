"""The lease as it looks where no store keeps it: by what the regions say of themselves.

A manual lease is a file in each region's own directory. What another region holds is known from that region's report,
or from the last one that was heard: without a store a silent primary is never called gone; only a person does.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterable

from replicator.cluster.decisions.model import MemberReport
from replicator.cluster.decisions.states import RoleState
from replicator.cluster.leases.base import Holder, LeaseView

_HOLDS = (RoleState.PRIMARY, RoleState.DEMOTING)


def view_of(own: LeaseView, reports: Iterable[MemberReport], last: LeaseView | None) -> LeaseView:
    """The lease by this region's own file and the others' last reports; ``last`` is what this gave before."""
    reports = list(reports)
    epoch = max([own.epoch, *(report.epoch for report in reports), *(report.promised for report in reports)])
    holders = [Holder(r.region, r.led, f"{r.region}:{r.led}") for r in reports if r.state in _HOLDS]
    if own.holder is not None:
        holders.append(own.holder._replace(token=f"{own.holder.region}:{own.holder.epoch}"))
    if last is not None and last.holder is not None and not any(r.region == last.holder.region for r in reports):
        holders.append(last.holder)
    return LeaseView(max(holders, key=lambda holder: holder.epoch, default=None), epoch)
