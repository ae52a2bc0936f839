"""Reports, memories and orders as JSON, between regions and in files.

Guarantee: what is read back is of the right types and within bounds, or ValueError is raised naming the field; unknown
fields are left alone, so that regions of different versions understand each other. Pure.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from replicator.cluster.decisions.model import DurableState, MemberReport, Order
from replicator.cluster.leases.base import Holder, LeaseView
from replicator.format.json_fields import Number, first_problem

ORDER_SECONDS_AT_MOST = 3_600.0

T = TypeVar("T")

_REPORT, _MEMORY, _ORDER = TypeAdapter(MemberReport), TypeAdapter(DurableState), TypeAdapter(Order)
_SECONDS: TypeAdapter[float] = TypeAdapter(Number)


def report_json(report: MemberReport) -> dict[str, Any]:
    """A report for the wire."""
    return {**dataclasses.asdict(report), "at_risk": dict(report.at_risk)}


def report_from(fields: object) -> MemberReport:
    """The report that ``report_json`` wrote. Raises ValueError."""
    return _read(_REPORT, _object(fields, "a report"))


def memory_json(memory: DurableState) -> dict[str, Any]:
    """A memory for the file."""
    return dataclasses.asdict(memory)


def memory_from(fields: object) -> DurableState:
    """The memory that ``memory_json`` wrote. Raises ValueError."""
    return _read(_MEMORY, _object(fields, "a memory"))


def order_json(order: Order, seconds: float) -> dict[str, Any]:
    """An order for the wire: how long it still counts instead of a time of our clock. What is not set is left out."""
    fields = {**dataclasses.asdict(order), "instead_of": holder_json(order.instead_of)}
    del fields["until"]
    return {**{name: value for name, value in fields.items() if value}, "seconds": float(seconds)}


def order_from(fields: object, now: float) -> Order:
    """The order that ``order_json`` wrote. Raises ValueError."""
    given = dict(_object(fields, "an order"))
    seconds = _read(_SECONDS, given.get("seconds"))
    if given.get("instead_of") is not None:  # a tuple, which would not leave unknown fields alone
        holder = _object(given["instead_of"], "instead_of")
        given["instead_of"] = {name: holder.get(name) for name in Holder._fields}
    return _read(_ORDER, {**given, "until": now + min(seconds, ORDER_SECONDS_AT_MOST)})


def holder_json(holder: Holder | None) -> dict[str, Any] | None:
    """A holder for the wire."""
    return None if holder is None else holder._asdict()


def lease_json(view: LeaseView | None) -> dict[str, Any] | None:
    """The lease as it was seen last."""
    return None if view is None else {"holder": holder_json(view.holder), "epoch": view.epoch}


def _object(fields: object, what: str) -> dict[str, Any]:
    if not isinstance(fields, dict):
        raise ValueError(f"{what} is an object")
    return fields


def _read(form: TypeAdapter[T], fields: object) -> T:
    try:
        return form.validate_python(fields)
    except ValidationError as error:
        raise ValueError(first_problem(error)) from None
