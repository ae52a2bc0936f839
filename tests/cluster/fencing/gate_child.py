"""An embedded ledger behind a gate whose permit is renewed until a renewal comes too late; run as a module by tests.

Prints its address, and ``appending`` when an append has been under way for a moment.
"""

from __future__ import annotations

import sys
from pathlib import Path

import trio

from replicator.cluster.fencing.embedded import Gate, boottime
from replicator.ledger.ledger import Ledger
from tests.ledger.region import WALLETS, Clock, Region, api, options, served

PERMIT_SECONDS = 1.0


async def renew(gate: Gate) -> None:
    """As with a lease store, what has run out is not renewed."""
    renewed_at = boottime()
    while boottime() - renewed_at < PERMIT_SECONDS:
        anchor, renewed_at = await gate.anchor(), boottime()
        await gate.open(1, anchor, PERMIT_SECONDS)
        await trio.sleep(0.05)


async def main(directory: Path) -> None:
    gate = Gate()
    region = Region(directory, Clock())
    region.ledger = Ledger(region.journal, "main", 1, options(directory), region._applied, permits=gate)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(renew, gate)
        await nursery.start(lambda task_status: region.ledger.run((WALLETS,), task_status=task_status))
        async with served(api(region)) as client:
            print(client.base_url, flush=True)
            was_locked = False
            while True:
                is_locked = gate.appends
                if is_locked and was_locked:
                    print("appending", flush=True)
                    await trio.sleep_forever()
                was_locked = is_locked
                await trio.sleep(0.1)


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]))
