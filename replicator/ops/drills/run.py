"""What ``replicator drill`` does, from its arguments to a report on disk and in the regions.

Order: read everything, undo what killed drills have left, note, carry out, write, tell the regions. Only what comes
before "carry out" may raise; from there on there is a report.
"""

from __future__ import annotations

import datetime
import getpass
import json
import logging
import os
import platform
import secrets
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import trio

from replicator import __version__
from replicator.config import Config, load
from replicator.errors import ConfigError, ReplicatorError
from replicator.ops.drills import live
from replicator.ops.drills.cleanup import clean_up
from replicator.ops.drills.plan_file import load_plan
from replicator.ops.drills.regions import DeploymentRegions
from replicator.ops.drills.rehearsal import rehearse, server_of
from replicator.ops.drills.report.form import DrillReport, summary
from replicator.ops.drills.report.heading import DrillHeading, fingerprint, masked
from replicator.ops.drills.report.html import page
from replicator.ops.drills.rules.plan import DrillPlan
from replicator.ops.drills.targets import target_regions
from replicator.ops.drills.undo_log import open_note
from replicator.status import drill_results
from replicator.supervise import first_cause
from replicator.transport.endpoint import Endpoint

POST_SECONDS = 10.0

log = logging.getLogger("replicator.drills")


class LiveDrillOptions(NamedTuple):
    """The arguments of a drill on a running deployment."""

    configs: tuple[Path, ...]
    addresses: tuple[str, ...]
    ca: Path | None
    plan: Path
    state: Path | None


class SimulatedDrillOptions(NamedTuple):
    """The arguments of a simulated drill."""

    configs: tuple[Path, ...]
    plan: Path | None
    seed: int
    seeds: int


def schema() -> dict[str, Any]:
    """The JSON Schema of ``report.json``."""
    return DrillReport.model_json_schema()


def carry_out(options: LiveDrillOptions) -> DrillReport:
    """The drill, and its report. Raises ReplicatorError if it cannot begin."""
    plan = load_plan(options.plan)
    configs = [load(path) for path in options.configs]
    places = target_regions(configs, options.addresses, options.ca)
    directory = state_directory(options.state, configs)
    servers = [server for config in (None, *configs) if (server := server_of(plan, config)) is not None]
    if wrong := clean_up(directory, places, servers, plan.canary):
        cure = "do by hand what could not be undone, then remove the note"
        raise ConfigError("not_undone", "; ".join(wrong), place=str(directory), cure=cure)
    wall_us = time.time_ns() // 1000
    heading = _heading(plan, configs, places, wall_us)
    report: DrillReport
    with open_note(directory, heading.id) as note:
        if plan.kind == "rehearsal":
            report = _run(rehearse, configs, places, plan, heading, note)
        else:
            report = _run(live.run_live, places, plan, heading, note, wall_us)
    notes: list[str] = _run(_post_result, places, report)
    return report.model_copy(update={"notes": [*report.notes, *notes]})


def check(options: LiveDrillOptions) -> Iterator[str]:
    """What would be done, and whether the regions are fit. Changes nothing."""
    plan = load_plan(options.plan)
    configs = [load(path) for path in options.configs]
    places = target_regions(configs, options.addresses, options.ca)
    yield f"{plan.title}: {plan.kind.replace('_', ' ')} {' and '.join(plan.target)}".rstrip()
    yield from _run(_region_lines, places)
    for command in plan.fault.inject if plan.fault else ():
        yield f"would run:  {json.dumps(list(command))}"
    for command in plan.fault.undo if plan.fault else ():
        yield f"would undo: {json.dumps(list(command))}"
    yield "nothing was done"


async def _region_lines(places: list[Endpoint]) -> list[str]:
    async with DeploymentRegions(places, trio.current_time) as regions:
        observations = [await regions.look(place.name) for place in places]
    return [
        f"{region.region}: {region.state}{', takes writes' if region.leads else ''}, block {region.sequence:,}"
        + (f"; cannot be promoted: {region.blocked}" if region.blocked else "")
        for region in observations
    ]


def simulate(options: SimulatedDrillOptions) -> DrillReport:
    """The simulated drill's report. Raises ReplicatorError."""
    from replicator.ops.drills import simulation, simulation_report  # heavy, and of no use for the other ways

    if len(options.configs) != 1 or options.plan is None:
        cure = "replicator drill --local CONFIG --plan FILE --seed N --seeds M"
        raise ConfigError("bad_usage", "a simulation takes one CONFIG and a plan", place="--local", cure=cure)
    config, plan = load(options.configs[0]), load_plan(options.plan)
    setting = simulation.setting_of(config, plan)
    heading = _heading(plan, [config], [], time.time_ns() // 1000)
    histories, seconds = simulation.live_all(setting, range(options.seed, options.seed + options.seeds))
    return simulation_report.report_of(setting, heading, histories, seconds)


def write(report: DrillReport, directory: Path) -> None:
    """``report.json`` and ``report.html``. Raises ConfigError."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "report.json").write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
        (directory / "report.html").write_text(page(report), encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        message = f"the report cannot be written: {error.strerror}"
        raise ConfigError("report_unwritable", message, place=f"--report {directory}", cure="name another") from error


def state_directory(named: Path | None, configs: list[Config]) -> Path:
    """Where notes of what is to be undone are kept: next to the region, else in this user's own directory."""
    if named is not None:
        return named
    if configs:
        return configs[0].region.files.drill_notes
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "replicator" / "drills"


def _heading(plan: DrillPlan, configs: list[Config], places: list[Endpoint], wall_us: int) -> DrillHeading:
    began = datetime.datetime.fromtimestamp(wall_us / 1e6, datetime.UTC)
    name = f"{began:%Y%m%dT%H%M%S}-{plan.kind.replace('_', '-')}-{secrets.token_hex(3)}"
    versions = {"replicator": __version__, "python": platform.python_version()}
    versions |= _run(_versions, places)
    text = began.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return DrillHeading(name, masked(plan), fingerprint(configs[0]) if configs else "", versions, text)


async def _versions(places: list[Endpoint]) -> dict[str, str]:
    versions: dict[str, str] = {}
    async with DeploymentRegions(places, trio.current_time) as regions:
        for place in places:
            try:
                status = await regions.ask(place.name, "/v1/status")
            except ReplicatorError:
                continue  # who does not answer is told of when the drill begins
            versions[place.name] = str((status or {}).get("version", ""))
    return versions


async def _post_result(places: list[Endpoint], report: DrillReport) -> list[str]:
    """Post the result to each region; gives a note for each that did not take it."""
    try:
        who = f"{getpass.getuser()}@{socket.gethostname()}"
    except (OSError, KeyError, ImportError):
        who = socket.gethostname()
    notes = []
    async with DeploymentRegions(places, trio.current_time) as regions:
        for place in places:
            try:
                answer = await regions.tell(place.name, drill_results.PATH, summary(report, who), POST_SECONDS)
                why = "" if answer is not None else "its version keeps no results"
            except ReplicatorError as error:
                why = str(error)
            if why:
                notes.append(f"{place.name} was not told of the result: {why}")
    return notes


def _run(work: Any, *arguments: Any) -> Any:
    """Run it in an event loop; a ReplicatorError leaves as itself."""
    result: Any = None
    try:
        result = trio.run(work, *arguments)
    except* ReplicatorError as group:
        raise first_cause(group) from group
    return result
