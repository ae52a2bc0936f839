"""A sidecar's process that only holds a fence: ``python -m tests.cluster.fencing.sidecar DSN``. It is told by lines on
its standard input (``anchor``, ``open SECONDS``) and answers each with a line: ``done``, or the reason why not."""

from __future__ import annotations

import sys

import trio

from replicator.cluster.fencing.base import Anchor
from replicator.cluster.fencing.postgres import PostgresFence
from replicator.errors import ReplicatorError


async def main(dsn: str) -> None:
    fence = PostgresFence(dsn)
    anchor = Anchor("0")
    while line := await trio.to_thread.run_sync(sys.stdin.readline):
        try:
            match line.split():
                case ["anchor"]:
                    anchor = await fence.anchor()
                case ["open", seconds]:
                    await fence.open(1, anchor, float(seconds))
            print("done", flush=True)
        except ReplicatorError as error:
            print(error.reason, flush=True)


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
