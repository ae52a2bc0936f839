"""What the phases of a change of the primary take, in the product and in the model that simulated drills go by.

The model promises operators what their switchovers will take, so it must not drift from what they do take. A phase of
the product is the fastest of a drill's changes, which a busy machine moves least; of the model it is the median of a
few seeds, whose network is that of one machine. The bounds are wide, for a machine may be much slower than that on
which the model was measured, and wider on one that has to share its processors with others meanwhile.
"""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from replicator.config import load
from replicator.ops.drills.plan_file import load_plan
from replicator.ops.drills.report.form import DrillReport
from replicator.ops.drills.report.heading import DrillHeading, masked
from replicator.ops.drills.simulation import live_all, setting_of
from replicator.ops.drills.simulation_report import report_of

PHASES = ("decision", "fence", "drain", "promote", "first write")
SEEDS = range(1, 7)
ONE_MACHINE_SECONDS = 0.001  # what a message takes there
SLOWER, SLOWER_SECONDS = 2.0, 0.1
FASTER, FASTER_SECONDS = 4.0, 0.5
SAMPLE_SECONDS, SAMPLES_APART_SECONDS = 0.01, 0.2


@contextlib.contextmanager
def crowding() -> Iterator[list[float]]:
    """Measure, for the length of the block, how many times as long as alone a program takes on this machine."""
    samples: list[float] = []
    over = threading.Event()

    def sample() -> None:
        while not over.wait(SAMPLES_APART_SECONDS):
            began, end = time.monotonic(), time.thread_time() + SAMPLE_SECONDS
            while time.thread_time() < end:
                pass
            samples.append((time.monotonic() - began) / SAMPLE_SECONDS)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()


def compare(report: DrillReport, config: Path, plan: Path, crowded: Sequence[float]) -> None:
    """Hold the model of this region's configuration against what a drill on running regions has measured."""
    crowd = max(statistics.mean(crowded), 1.0)
    product = {phase: min(times) for phase, times in _phases([report]).items()}
    model = {phase: statistics.median(times) for phase, times in _phases(_simulated(config, plan)).items()}
    product["all"], model["all"] = sum(product.values()), sum(model.values())
    told = "; ".join(f"{phase} {product[phase]:.3f} s, in the model {model[phase]:.3f} s" for phase in product)
    told += f"; the machine is crowded {crowd:.1f} times"
    print(told)
    for phase, seconds in product.items():
        assert model[phase] <= SLOWER * seconds + SLOWER_SECONDS, f"the model is slow in {phase}: {told}"
        assert seconds <= crowd * (FASTER * model[phase] + FASTER_SECONDS), f"the model is fast in {phase}: {told}"


def _simulated(config: Path, plan: Path) -> list[DrillReport]:
    setting = setting_of(load(config), load_plan(plan))
    weather = dataclasses.replace(setting.weather, delay_seconds=ONE_MACHINE_SECONDS)
    setting = dataclasses.replace(setting, weather=weather)
    heading = DrillHeading("model", masked(setting.plan), "", {}, "")
    return [report_of(setting, heading, live_all(setting, range(seed, seed + 1))[0], 1.0) for seed in SEEDS]


def _phases(reports: Sequence[DrillReport]) -> dict[str, list[float]]:
    """The seconds of each phase, of all changes of the primary."""
    times: dict[str, list[float]] = {phase: [] for phase in PHASES}
    for change in (change for report in reports for change in report.changes):
        at = {step.step: step.at for step in change.steps}
        before = change.event_at
        for phase in PHASES:
            times[phase].append(at[phase] - before)
            before = at[phase]
    return times
