"""Bringing a failure about, and undoing it, by the commands that the plan names.

Guarantee: no shell is involved; each command is bounded in time and killed at its end; undoing goes through all of them
whatever becomes of one, and is shielded from whatever ends the drill. Noting it is for whoever calls.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import signal
import subprocess
from collections.abc import Sequence

import trio

from replicator.errors import Halted, ReplicatorError
from replicator.ops.drills.rules.plan import FaultCommands

SHOWN_BYTES = 400
OUTPUT_LIMIT_BYTES = 64_000
KILL_SECONDS = 2.0

log = logging.getLogger("replicator.drills")


async def inject(fault: FaultCommands) -> None:
    """Bring the failure about; how to undo it has been noted before. Raises Halted if a command fails."""
    for command in fault.inject:
        await run(command, fault.timeout_seconds)


async def undo(commands: Sequence[Sequence[str]], timeout_seconds: float) -> list[str]:
    """Run all commands that undo the failure; gives what went wrong."""
    wrong = []
    with trio.CancelScope(shield=True):
        for command in commands:
            try:
                await run(command, timeout_seconds)
            except ReplicatorError as error:
                log.error("undoing: %s", error)
                wrong.append(str(error))
    return wrong


async def run(command: Sequence[str], timeout_seconds: float) -> None:
    """Run one command. Raises Halted if it fails or takes too long."""
    shown = shlex.join(command)
    log.info("runs: %s", shown)
    output = bytearray()
    try:
        async with trio.open_nursery() as nursery:
            process: trio.Process = await nursery.start(_started, command)
            code: int | None = None
            with trio.move_on_after(timeout_seconds):
                async with trio.open_nursery() as reading:
                    reading.start_soon(_read, process, output)
                    code = await process.wait()
                    # A grandchild that was left behind may hold the pipe open for ever: the rest is read for a while.
                    reading.cancel_scope.deadline = min(
                        reading.cancel_scope.deadline, trio.current_time() + KILL_SECONDS
                    )
            nursery.cancel_scope.cancel()
    except* OSError as group:
        cause = group.exceptions[0]
        cure = "name a program that is there"
        raise Halted("command_failed", f"it cannot be run: {cause}", place=shown, cure=cure) from cause
    text = bytes(output[-SHOWN_BYTES:]).decode(errors="replace").strip()
    if code is None:
        cure = "give it more time: [fault] timeout"
        raise Halted("command_slow", f"it did not end within {timeout_seconds:g} s", place=shown, cure=cure)
    if code:
        message = f"it ended with {code}" + (f": {text}" if text else "")
        raise Halted("command_failed", message, place=shown, cure="run it by hand to see why")


async def _started(command: Sequence[str], task_status: trio.TaskStatus[trio.Process]) -> None:
    await trio.run_process(
        list(command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        start_new_session=True,  # a Ctrl-C for the drill is not one for its commands
        deliver_cancel=_kill,
        task_status=task_status,
    )


async def _kill(process: trio.Process) -> None:
    """Kill the process with all that it has started: it leads a session of its own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


async def _read(process: trio.Process, output: bytearray) -> None:
    assert process.stdout is not None
    async for piece in process.stdout:
        output += piece
        del output[:-OUTPUT_LIMIT_BYTES]  # read on and dropped: a full pipe would block the command
