"""A report in lines, for a terminal. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from replicator.ops.drills.report.form import DrillReport, SimulationReport, SpreadReport
from replicator.ops.drills.report.svg import lengths
from replicator.status.text import seconds_text


def lines(report: DrillReport) -> list[str]:
    """What was measured, step by step, and the verdict last."""
    return list(_lines(report))


def _lines(report: DrillReport) -> Iterator[str]:
    for change in report.changes:
        if change.new and change.new != change.old:
            yield f"{change.name}: {change.old} to {change.new}"
            for step, since, took in lengths(change):
                yield f"  {step.step:<12} {since * 1000:>9,.0f} ms  (+{took * 1000:,.0f} ms)  {step.region}"
        if change.blocked_seconds is not None:
            yield f"  longest without an acknowledged write {change.blocked_seconds * 1000:,.0f} ms"
    if report.canaries is not None:
        yield f"canaries: {report.canaries.written:,} written, {report.canaries.acknowledged:,} acknowledged"
    for region in report.regions:
        missing = "not known what is" if region.missing_blocks is None else f"{region.missing_blocks:,} canaries"
        yield f"{region.region}: {missing} missing, {region.compared}"
    if report.simulation is not None:
        yield from _simulation(report.simulation)
    yield from report.notes
    for target in report.targets:
        figure = "not measured" if target.measured is None else f"{target.measured:,.6g}"
        word = "ok  " if target.met else "MISS"
        yield f"{word} {target.name}: {figure} {target.unit}, at most {target.target:,.6g}"
    yield f"{report.outcome}: {report.why or report.name}. {report.id} took {seconds_text(report.seconds)}"


def _simulation(simulation: SimulationReport) -> Iterator[str]:
    yield f"{simulation.seeds:,} seeds from {simulation.first_seed} on, {simulation.seeds_per_second:,.0f} seeds/s"
    yield from _spread("RTO", simulation.rto_seconds, "s")
    yield from _spread("without a writer", simulation.blocked_seconds, "s")
    yield from _spread("RPO", simulation.rpo_blocks, "blocks")
    yield from _spread("not carried on", simulation.lost_blocks, "blocks")
    for what, seeds in (
        ("did not converge", simulation.not_converged),
        ("no writer in the end", simulation.without_writer),
    ):
        if seeds:
            yield f"{what}: seeds {', '.join(map(str, seeds[:20]))}"
    if simulation.missed_count:
        shown = ", ".join(map(str, simulation.missed[:20]))
        yield f"{simulation.missed_count:,} seeds missed a target: {shown}; replay one alone with --seed"


def _spread(name: str, spread: SpreadReport | None, unit: str) -> Iterator[str]:
    if spread is not None:
        seed = "" if spread.max_seed is None else f" (seed {spread.max_seed})"
        yield f"  {name:<22} p50 {spread.p50:,.3f}  p99 {spread.p99:,.3f}  max {spread.max:,.3f} {unit}{seed}"
