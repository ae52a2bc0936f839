"""Who is to lead: the region that has the most, among those that may be promoted.

Guarantee: every region that has heard the same reports ranks the candidates alike. A region that is not among the best
still gets its turn, later, for the best may be unable to reach the lease store; what it lacks it fetches from them.

Pure. Chains compare by the epoch of their end, then by length, as in Raft (Ongaro and Ousterhout, 2014, 5.4.1): a long
tail of orphans of an old epoch never wins over a newer epoch.
"""

from __future__ import annotations

from replicator.cluster.decisions.model import FailoverRules, MemberReport, Observation
from replicator.cluster.decisions.states import RoleState
from replicator.config.roles import Role

NEAR_MS = 20  # two regions that are nearer than this are alike


def candidates(seen: Observation, rules: FailoverRules) -> list[MemberReport]:
    """Those who may be promoted, the best first."""
    reports = [seen.me, *(report for name, report in seen.fresh(rules).items() if name in rules.regions)]
    fit = [report for report in reports if report.able and not report.blocked]
    return sorted(fit, key=_merit)


def _merit(report: MemberReport) -> tuple[float | str, ...]:
    """The better, the smaller: who has more, whom the configuration prefers, who led last, who is near the region that
    led, in steps of twice as far; and last the name, so that two never come out alike."""
    farness = (report.distance_ms // NEAR_MS).bit_length()
    return (*_negative(report.rank), -report.priority, -report.led, farness, report.region)


def my_turn(seen: Observation, rules: FailoverRules, red_seconds: float) -> bool:
    """Whether this region is to stand now that the primary has been lost for so long."""
    names = [report.region for report in candidates(seen, rules)]
    return rules.me in names and red_seconds >= names.index(rules.me) * rules.stand_seconds


def _negative(rank: tuple[int, int]) -> tuple[int, int]:
    return -rank[0], -rank[1]


def why_not_without_copy(half: Role, source_trouble: str, *, is_copying: bool) -> str:
    """Why a region may not be promoted whose journal does not hold the ledger's first copy; empty if it may: the region
    that the ledger is in begins, and copies as primary, once its source has shown that it can."""
    if half == "replica":
        return "the ledger's first copy has not reached it: it has nothing to lead with"
    if is_copying:
        return ""
    return f"its source has not begun the first copy{f': {source_trouble}' if source_trouble else ' yet'}"


def why_not_in(state: RoleState) -> str:
    """Why a region in this state may not be promoted, whatever else it says; empty if it may."""
    if state is RoleState.PAUSED:
        return "paused by an operator: replicator resume CONFIG"
    return f"it is {state.value}" if state in (RoleState.REJOINING, RoleState.HALTED) else ""
