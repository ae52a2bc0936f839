"""Reports, memories and orders as JSON, between regions and in files.

Guarantee: what is read back is of the right types and within bounds, or ValueError is raised naming the field; unknown
fields are left alone, so that regions of different versions understand each other. Pure.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from replicator.cluster.decisions.model import DurableState, MemberReport, Order
from replicator.cluster.decisions.states import RoleState
from replicator.cluster.leases.base import Holder, LeaseView

TEXT_LIMIT = 2_000
NAMES_LIMIT = 100

T = TypeVar("T")


def report_json(report: MemberReport) -> dict[str, Any]:
    """A report for the wire."""
    return {**dataclasses.asdict(report), "at_risk": dict(report.at_risk)}


def report_from(fields: object) -> MemberReport:
    """The report that ``report_json`` wrote. Raises ValueError."""
    known = _known(fields, MemberReport)
    return MemberReport(**_read(known, _REPORT))


def memory_json(memory: DurableState) -> dict[str, Any]:
    """A memory for the file."""
    return dataclasses.asdict(memory)


def memory_from(fields: object) -> DurableState:
    """The memory that ``memory_json`` wrote. Raises ValueError."""
    return DurableState(**_read(_known(fields, DurableState), _MEMORY))


def order_json(order: Order, seconds: float) -> dict[str, Any]:
    """An order for the wire: how long it still counts instead of a time of our clock. What is not set is left out."""
    fields = {**dataclasses.asdict(order), "instead_of": holder_json(order.instead_of)}
    del fields["until"]
    return {**{name: value for name, value in fields.items() if value}, "seconds": float(seconds)}


def order_from(fields: object, now: float) -> Order:
    """The order that ``order_json`` wrote. Raises ValueError."""
    if not isinstance(fields, dict):
        raise ValueError("an order is an object")
    seconds = _number(fields.get("seconds"))
    known = {name: value for name, value in _known(fields, Order).items() if name != "until"}
    return Order(until=now + min(seconds, 3_600.0), **_read(known, _ORDER))


def holder_json(holder: Holder | None) -> dict[str, Any] | None:
    """A holder for the wire."""
    return None if holder is None else holder._asdict()


def lease_json(view: LeaseView | None) -> dict[str, Any] | None:
    """The lease as it was seen last."""
    return None if view is None else {"holder": holder_json(view.holder), "epoch": view.epoch}


def _known(fields: object, kind: type[Any]) -> dict[str, Any]:
    if not isinstance(fields, dict):
        raise ValueError(f"a {kind.__name__.lower()} is an object")
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: value for name, value in fields.items() if name in names}


def _read(fields: Mapping[str, Any], readers: Mapping[str, Callable[[Any], Any]]) -> dict[str, Any]:
    found = {}
    for name, value in fields.items():
        try:
            found[name] = readers[name](value)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{name}: {error}") from error
    return found


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > TEXT_LIMIT:
        raise ValueError("a text is needed")
    return value


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise ValueError("a whole number is needed")
    return value


def _number(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError("a number is needed")
    return float(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false is needed")
    return value


def _maybe(read: Callable[[Any], T]) -> Callable[[Any], T | None]:
    return lambda value: None if value is None else read(value)


def _amounts(value: Any) -> dict[str, float]:
    if not isinstance(value, dict) or len(value) > NAMES_LIMIT:
        raise ValueError("amounts by name are needed")
    return {_text(name): _number(amount) for name, amount in value.items()}


def _holder(value: Any) -> Holder:
    if not isinstance(value, dict):
        raise ValueError("a holder is an object")
    return Holder(_text(value.get("region")), _count(value.get("epoch")), _text(value.get("token")))


def _one_of(*words: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in words:
            raise ValueError(f"one of {', '.join(words)} is needed")
        return str(value)

    return read


_REPORT: dict[str, Callable[[Any], Any]] = {
    "region": _text,
    "state": RoleState,
    "epoch": _count,
    "promised": _count,
    "head_epoch": _count,
    "sequence": _count,
    "hash": _text,
    "applied": _count,
    "verified": _count,
    "open": _flag,
    "priority": _number,
    "blocked": _text,
    "heard_seconds": _maybe(_number),
    "heard_head": _count,
    "at_risk": _amounts,
    "at_risk_unknown": _count,
    "led": _count,
}
_MEMORY: dict[str, Callable[[Any], Any]] = {
    "state": RoleState,
    "half": _one_of("primary", "replica"),
    "epoch": _count,
    "promised": _count,
    "led": _count,
    "mine": _count,
    "closed_at": _maybe(_count),
    "handed_to": _text,
    "changed_at": _maybe(_number),
    "approved": _flag,
    "reopening": _flag,
    "why": _text,
}
_ORDER: dict[str, Callable[[Any], Any]] = {
    "verb": _one_of("switchover", "failover", "take", "rejoin"),
    "target": _text,
    "instead_of": _maybe(_holder),
    "sequence": _count,
    "allow_data_loss": _flag,
    "primary_is_fenced": _flag,
    "reason": _text,
}
