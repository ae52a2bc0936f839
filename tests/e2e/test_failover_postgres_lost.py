"""A PostgreSQL primary whose sidecar sleeps through its lease, and one that comes back with commits of its own."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.postgres_cluster import APP, PostgresCluster, postgres_cluster, terms
from tests.e2e.writers import Acknowledged, all_acknowledged, writing
from tests.etcd import Etcd


def test_the_database_refuses_while_its_sidecar_sleeps_and_comes_back_without_its_orphans(
    tmp_path: Path, etcd: Etcd
) -> None:
    """SIGSTOP: the database itself ends the application's and a superuser's writes when the lease can have ended. What
    it had committed and nobody received is sealed, its keys are rewound, it follows, and can lead again."""
    with postgres_cluster(tmp_path, etcd) as three:
        paris = three["paris"]
        loyal, fickle = three.writers(2, only="paris"), three.writers(2)
        with writing([*loyal, *fickle]):
            three.more([*loyal, *fickle])
            three.network.part("paris", "tokyo", "lima")  # from here on its commits are received by nobody
            three.more([*loyal, *fickle])
            paris.freeze()
            leader = three.leads("tokyo", "lima")
            assert three.is_refused("paris", APP), "an application wrote beside the new primary"
            assert three.is_refused("paris", "postgres"), "a superuser wrote beside the new primary"
            three.network.heal()
            three.more(fickle)
            assert three.is_refused("paris", APP)
            paris.thaw()
            three.wait(lambda: paris.report().get("state") == "following", "it comes back")
            three.more(fickle)
        acknowledged = all_acknowledged([*loyal, *fickle])
        assert terms(acknowledged) == ["paris", leader.name]
        assert three.judge(acknowledged, lost=True) is leader
        check_orphans(three, acknowledged, leader.name)
        back_again(three)


def check_orphans(three: PostgresCluster, acknowledged: list[Acknowledged], leader: str) -> None:
    """What was lost was sealed, and nothing else."""
    there = {write for write, *_ in three.rows(leader)}
    lost = {one.id for one in acknowledged} - there
    sealed = {
        statement["after"]["write"]
        for seal in three["paris"].seals()
        for transaction in seal["transactions"]
        for statement in transaction["statements"]
        if (statement["table"] or "").endswith("payments") and statement["after"]
    }
    assert lost, "this test is about commits that nobody received"
    assert lost <= sealed, f"lost without a word: {sorted(lost - sealed)[:5]}"


def back_again(three: PostgresCluster) -> None:
    """The region that was rewound leads again, by a switchover; numbers go on."""
    writers = three.writers(2)
    with writing(writers):
        three.more(writers)
        three.switch_over("paris")
        three.leads("paris")
        three.more(writers)
    assert three.judge(all_acknowledged(writers)).name == "paris"
