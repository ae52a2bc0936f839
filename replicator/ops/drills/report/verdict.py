"""Whether a drill reached its targets.

Guarantee: a target is met only by a value that was measured. Regions that are not equal in the end, or could not be
compared, miss a target that every drill has: ``regions_equal``.

Pure: no clock, no I/O.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from replicator.ops.drills.report.form import TargetReport
from replicator.ops.drills.rules.plan import DrillTargets, Expect
from replicator.status.model import DrillOutcome


def target_reports(
    targets: DrillTargets,
    rpo_blocks: int | None,
    rpo_amounts: Mapping[str, float] | None,
    rto_seconds: float | None,
    blocked_seconds: float | None,
) -> list[TargetReport]:
    """Each target of the plan with what was measured, None where it was not."""
    reports: list[TargetReport] = []
    if targets.rpo_blocks is not None:
        reports.append(_at_most("rpo_blocks", targets.rpo_blocks, rpo_blocks, "blocks"))
    for currency, limit in sorted(targets.amounts.items()):
        amount = None if rpo_amounts is None else rpo_amounts.get(currency, 0.0)
        reports.append(_at_most(f"rpo {currency}", limit, amount, currency))
    if targets.rto_seconds is not None:
        reports.append(_at_most("rto", targets.rto_seconds, rto_seconds, "seconds"))
    if targets.max_blocked_seconds is not None:
        reports.append(_at_most("max_blocked", targets.max_blocked_seconds, blocked_seconds, "seconds"))
    return reports


def equal_regions(compared: Sequence[str]) -> TargetReport:
    """How many regions are not equal to the one that the others were compared with; not measured without any."""
    unequal = sum(comparison not in ("equal", "reference") for comparison in compared)
    measured = None if not compared else float(unequal)
    return TargetReport(
        name="regions_equal", target=0, measured=measured, unit="regions that are not", met=measured == 0
    )


def expected_change(expected: Expect, changed: bool) -> TargetReport | None:
    """Whether another region took over, where the plan says that it must, or must not."""
    if expected == "either":
        return None
    wanted = float(expected == "failover")
    return TargetReport(
        name=expected,
        target=wanted,
        measured=float(changed),
        unit="changes of the primary",
        met=changed == bool(wanted),
    )


def outcome_of(targets: Sequence[TargetReport], stopped: str, failed: str) -> DrillOutcome:
    """The verdict. A drill that failed or stopped itself has none over its targets."""
    if failed:
        return "failed"
    if stopped:
        return "stopped"
    return "passed" if all(target.met for target in targets) else "missed"


def _at_most(name: str, target: float, measured: float | None, unit: str) -> TargetReport:
    met = measured is not None and measured <= target
    return TargetReport(name=name, target=target, measured=measured, unit=unit, met=met)
