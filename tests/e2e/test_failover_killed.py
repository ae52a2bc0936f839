"""An embedded primary region dies under load, or is stopped for longer than its lease and wakes up again."""

from __future__ import annotations

import contextlib
import datetime
import time
from pathlib import Path

from tests.e2e.cluster import TTL_SECONDS, cluster
from tests.e2e.writers import all_acknowledged, check_one_at_a_time, writing
from tests.etcd import Etcd


def test_a_killed_primary_loses_nothing_that_another_region_has_acknowledged(tmp_path: Path, etcd: Etcd) -> None:
    """K = 1. SIGKILL under load, with blocks that no other region has: nobody was told of those, another region leads,
    and every acknowledged write is in every region exactly once."""
    with cluster(tmp_path, etcd, acknowledge=1) as three:
        writers, late = three.writers(4), three.writers(2)
        with contextlib.ExitStack() as load:
            load.enter_context(writing(writers))
            three.more(writers)
            three.network.part("paris", "tokyo", "lima")
            alone = three["paris"].report()["sequence"]
            load.enter_context(writing(late))  # those before may all be waiting for what another region has by now
            three.wait(lambda: three["paris"].report()["sequence"] > alone, "blocks that only paris has")
            three["paris"].kill()
            leader = three.leads("tokyo", "lima")
            three.network.heal()  # what was on its way arrives now: too late
            three.more(writers)
            three["paris"].start()
            three.wait(lambda: three["paris"].report().get("state") == "following", "it comes back")
        acknowledged = all_acknowledged([*writers, *late])
        check_one_at_a_time(acknowledged)
        assert {one.region for one in acknowledged} == {"paris", leader.name}
        assert three.judge(acknowledged) is leader


def test_a_primary_that_slept_through_its_lease_acknowledges_nothing_more(tmp_path: Path, etcd: Etcd) -> None:
    """SIGSTOP for longer than the lease, then SIGCONT, with clients that wait for its answers all the while: nothing is
    acknowledged in its old epoch; what only it had is sealed and listed, and it is a replica afterwards."""
    with cluster(tmp_path, etcd) as three:
        paris = three["paris"]
        loyal = three.writers(4, only="paris", patience_seconds=60.0)
        fickle = three.writers(2)
        with writing([*loyal, *fickle]):
            three.more([*loyal, *fickle])
            three.network.part("paris", "tokyo", "lima")  # from here on its blocks are received by nobody
            only_paris = paris.report()["sequence"] + 20
            three.wait(lambda: paris.report()["sequence"] >= only_paris, "blocks of its own")
            stopped = time.monotonic()
            paris.freeze()
            frozen_at = datetime.datetime.now(datetime.UTC)
            leader = three.leads("tokyo", "lima")
            three.network.heal()
            assert time.monotonic() > stopped + TTL_SECONDS - 1, "promoted before the lease can have ended"
            paris.thaw()
            continued = time.monotonic()
            three.wait(lambda: paris.report().get("state") == "following", "it follows")
            three.more(fickle)
        acknowledged = all_acknowledged([*loyal, *fickle])
        check_one_at_a_time(acknowledged)
        # An answer that was on its way out when the process was stopped is nobody's to take back: its block is older.
        late = [one for one in acknowledged if one.heard > continued and one.region == "paris" and one.sent > stopped]
        assert not late, f"acknowledged after it had slept: {late[:3]}\n{three.story()}"
        assert three.judge(acknowledged, lost=True) is leader
        lost = {one.id for one in acknowledged} - {header.txid for header in leader.headers()}
        transactions = [transaction for seal in paris.seals() for transaction in seal["transactions"]]
        sealed = {transaction["transaction"] for transaction in transactions}
        woken = {
            t["transaction"] for t in transactions if datetime.datetime.fromisoformat(t["committed_at"]) > frozen_at
        }
        assert not woken & {one.id for one in acknowledged}, "acknowledged although it was written after the sleep"
        assert lost, "this test is about blocks that nobody received"
        assert lost <= sealed, f"lost without a word: {sorted(lost - sealed)[:5]}"
