"""Cleaning up behind drills that were killed, before another one begins.

Guarantee: a note goes only when all that it tells of is undone: the fault's commands, the fork, and the primary, which
is where it was before the drill.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import trio

from replicator.errors import ReplicatorError, Unavailable
from replicator.ops.drills import faults
from replicator.ops.drills.canary_writers import canary_writer
from replicator.ops.drills.fork_place import discard
from replicator.ops.drills.regions import DeploymentRegions
from replicator.ops.drills.rules.observations import RegionObservations
from replicator.ops.drills.rules.plan import CanaryPlan
from replicator.ops.drills.rules.safety import not_well
from replicator.ops.drills.undo_log import DrillLeftover, leftovers
from replicator.supervise import first_cause
from replicator.transport.endpoint import Endpoint

SLACK_BLOCKS = 1_000
BACK_SECONDS = 120.0
LOOK_SECONDS = 0.2
REMOVE_SECONDS = 30.0

log = logging.getLogger("replicator.drills")


def clean_up(
    directory: Path, places: Sequence[Endpoint] = (), servers: Sequence[str] = (), plan: CanaryPlan | None = None
) -> list[str]:
    """Undo what killed drills have left; gives what could not be undone. ``servers`` are dsns whose passwords may be
    needed; ``plan`` says how canaries are reached. Raises Unavailable while another drill lives."""
    wrong: list[str] = []
    with leftovers(directory) as notes:
        for leftover in notes:
            problems = _clean(leftover, places, servers)
            wrong += [f"{leftover.path}: {problem}" for problem in problems]
            if not problems:
                _remove_canaries(leftover.fields, places, plan or CanaryPlan())
                leftover.clear()
    return wrong


def _clean(leftover: DrillLeftover, places: Sequence[Endpoint], servers: Sequence[str]) -> list[str]:
    fields = leftover.fields
    if not fields:
        return []  # killed before there was anything to undo
    log.warning("a drill was killed (%s): undoing what it did", leftover.path.name)
    try:
        if "fork" in fields:
            discard(fields["fork"], servers)
        wrong: list[str] = trio.run(faults.undo, *_commands(fields))
        if not wrong and fields.get("leader"):
            trio.run(_switch_back, places, str(fields["leader"]))
    except* ReplicatorError as group:
        wrong = [str(first_cause(group))]
    except* (KeyError, TypeError, ValueError) as group:
        wrong = [f"the note cannot be read: {group.exceptions[0]!r}"]
    return wrong


def _remove_canaries(fields: dict[str, Any], places: Sequence[Endpoint], plan: CanaryPlan) -> None:
    """Those that are left harm nobody: it is tried once, and told if it fails."""
    drill, table = str(fields.get("drill", "")), str(fields.get("canaries", ""))
    if table and places:
        try:
            trio.run(_remove, drill, plan.model_copy(update={"table": table}), places)
        except* ReplicatorError as group:
            log.warning("canaries of %s are left in table %s: %s", drill, table, first_cause(group))


async def _remove(drill: str, plan: CanaryPlan, places: Sequence[Endpoint]) -> None:
    async with DeploymentRegions(places, trio.current_time) as regions:
        leading = [place.name for place in places if (await regions.look(place.name)).leads]
        if len(leading) != 1:
            raise Unavailable("not_fit", f"{len(leading)} regions take writes", place="the regions")
        writer = canary_writer(drill, plan, regions)
        try:
            with trio.fail_after(REMOVE_SECONDS):
                await writer.remove(leading[0])
        except trio.TooSlowError as error:
            raise Unavailable("slow", "it took too long", place=leading[0]) from error
        finally:
            await writer.close()


def _commands(fields: dict[str, Any]) -> tuple[list[list[str]], float]:
    commands = [[str(word) for word in command] for command in fields.get("undo", ())]
    return commands, float(fields.get("timeout_seconds", 30.0))


async def _switch_back(places: Sequence[Endpoint], leader: str) -> None:
    """Have the region lead again that led before. Raises ReplicatorError."""
    if leader not in {place.name for place in places}:
        cure = "name its regions, or remove the note"
        raise Unavailable("not_back", f"a drill has left another primary than {leader}", place="the regions", cure=cure)
    observations = RegionObservations(0)
    async with DeploymentRegions(places, trio.current_time) as regions:

        async def well(wanted: str | None) -> bool:
            for place in places:
                observations.add(await regions.look(place.name))
            if wanted is None and observations.leader != leader and observations.latest[leader].blocked:
                return False  # it follows, and may yet have to look whether its ledger could be a primary's
            return not not_well(observations.latest, SLACK_BLOCKS) and wanted in (None, observations.leader)

        with trio.move_on_after(BACK_SECONDS):
            # First all has to be well, whoever leads: only a primary that is open takes the order.
            while not await well(None):  # noqa: ASYNC110  # it is other machines that change
                await trio.sleep(LOOK_SECONDS)
            if observations.leader == leader:
                return
            assert observations.leader is not None
            log.warning("the primary is in %s, and goes back to %s", observations.leader, leader)
            fields = {"target": leader, "seconds": BACK_SECONDS / 2, "reason": "back from a drill that was killed"}
            await regions.order(observations.leader, verb="switchover", **fields)
            while not await well(leader):  # noqa: ASYNC110
                await trio.sleep(LOOK_SECONDS)
            return
    trouble = not_well(observations.latest, SLACK_BLOCKS) or f"{observations.leader} leads"
    cure = f"replicator switchover CONFIG --to {leader}, then call the drill again"
    raise Unavailable("not_back", f"the primary is not back in {leader}: {trouble}", place="the regions", cure=cure)
