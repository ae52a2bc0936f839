"""The page of the metrics, from the catalogue that the collector itself goes by."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from docs.generate.markdown import cell, head, table
from replicator.status.metrics import CATALOGUE, PREFIX, Metrics
from replicator.status.model import Snapshot

INTRODUCTION = """\
`GET /metrics` answers in Prometheus' text format, or OpenMetrics if it is asked for. Every scrape is made from one
snapshot: its figures belong to one moment. A figure that is not known is left out, never shown as zero. Every metric
has the label `region`; those of the process itself (`process_…`) have none.

What to alert on is in [monitoring](../operating/monitoring.md).
"""


def page() -> str:
    """The whole page."""
    rows: list[tuple[str, ...]] = [
        (f"`{_shown_name(family.name, family.kind)}`", family.kind, _labels(family.labels), cell(family.help))
        for family in CATALOGUE
    ]
    rows += [
        (f"`{metric.name}`", metric.type, "`strand`", cell(metric.documentation))
        for metric in Metrics(CollectorRegistry(), _NoSnapshot()).describe()
        if metric.type == "histogram"
    ]
    return (
        head("Metrics", "the catalogue of metrics")
        + INTRODUCTION
        + "\n"
        + table(("name", "kind", "labels, beside region", "meaning"), rows)
    )


class _NoSnapshot:
    """A region that is never asked: names and meanings are in the catalogue."""

    def snapshot(self) -> Snapshot:
        raise AssertionError("a description reads no snapshot")


def _shown_name(name: str, kind: str) -> str:
    """As a scrape shows it: Prometheus' client ends counters with ``_total``."""
    return PREFIX + (name if kind == "gauge" or name.endswith("_total") else f"{name}_total")


def _labels(labels: tuple[str, ...]) -> str:
    return ", ".join(f"`{label}`" for label in labels)
