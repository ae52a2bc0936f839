"""Virtual time: a queue of what happens next, and tasks that are generators.

A task yields a number of seconds (it sleeps) or a ``Reply`` (it waits for an answer, up to the reply's own time limit;
then the answer is None). A task belongs to a process that can be killed or frozen between any two of its steps, or to
the world. What happens at the same instant happens in the order in which it was planned.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from heapq import heappop, heappush
from typing import Any

Task = Generator["float | Reply", Any, Any]


class Process:
    """Something that runs: it is up or not, and it may be frozen until some time."""

    incarnation = 0
    up = True
    frozen_until = 0.0


class Reply:
    """An answer that is waited for, up to a time. Whoever asks sees to it that it is given then."""

    __slots__ = ("limit", "resume")

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.resume: Callable[[Any], None] | None = None

    def give(self, value: Any) -> None:
        """Answer; what comes a second time, or too late, goes nowhere."""
        resume, self.resume = self.resume, None
        if resume is not None:
            resume(value)


class Schedule:
    """The queue."""

    def __init__(self) -> None:
        self.now = 0.0
        self.steps = 0
        self.on_step: Callable[[Process], bool] | None = None  # whether the process dies here
        self._queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._number = 0

    def at(self, when: float, call: Callable[..., Any], *arguments: Any) -> None:
        """Call then."""
        self._number += 1
        heappush(self._queue, (when, self._number, call, arguments))

    def pass_time(self, until: float, is_over: Callable[[], bool] | None = None) -> None:
        """Let everything happen that is due up to ``until``."""
        queue = self._queue
        while queue and queue[0][0] <= until:
            when, _, call, arguments = heappop(queue)
            self.now = when
            self.steps += 1
            call(*arguments)
            if is_over is not None and is_over():
                return
        self.now = max(self.now, until)

    def spawn(self, process: Process, task: Task, after: float = 0.0) -> None:
        """Run a task of a process; it ends with the process's present life."""
        self.at(self.now + after, self._step, process, process.incarnation, task, None)

    def deliver(self, process: Process, call: Callable[..., Any], *arguments: Any) -> None:
        """Have a process take something in, once it runs; while it is down it takes nothing."""
        if process.frozen_until > self.now:
            self.at(process.frozen_until, self.deliver, process, call, *arguments)
        elif process.up:
            call(*arguments)

    def _step(self, process: Process, incarnation: int, task: Task, value: Any) -> None:
        if process.incarnation != incarnation:
            return
        if process.frozen_until > self.now:
            self.at(process.frozen_until, self._step, process, incarnation, task, value)
            return
        if self.on_step is not None and self.on_step(process):
            return
        try:
            waits_for = task.send(value)
        except StopIteration:
            return
        if isinstance(waits_for, Reply):
            waits_for.resume = partial(self._step, process, incarnation, task)
        else:
            self._number += 1
            entry = (self.now + waits_for, self._number, self._step, (process, incarnation, task, None))
            heappush(self._queue, entry)
