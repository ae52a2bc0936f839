"""``bootstrap --replace`` makes a region whole from any state, at any interruption, and gives up nothing unasked."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import psycopg
import pytest
import trio

from replicator.cluster.failover.durable_state import DurableStateFile
from replicator.config.roles import in_role, source_of
from replicator.errors import Halted, ReplicatorError
from replicator.ops.bootstrap import bootstrap, former_life, target
from replicator.ops.bootstrap.bootstrap import Bootstrap, CopyProgress
from replicator.pipeline.copies.partial_copy import refuse_half
from replicator.pipeline.feed.client import Upstream
from replicator.runtime import service
from replicator.supervise import first_cause
from tests.ops.bootstrap.states import Deployment, Killed, Paris, states

PATIENCE_SECONDS = 60.0


@pytest.fixture(scope="module")
def deployment(postgres: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    numbers = iter(range(1000))
    made = Deployment(
        tmp_path_factory.mktemp("deployment"), lambda: postgres.create_database(f"any_state_{next(numbers)}")
    )
    yield made
    made.lima.close()


async def replace(paris: Paris, url: str, *, allow_data_loss: bool = False) -> None:
    """The verb's work."""
    settings = in_role(paris.config, "replica", 1)
    source = Upstream(url, "paris", idle_seconds=5.0)
    work = Bootstrap(
        settings,
        source,
        replace=True,
        rate=None,
        report=CopyProgress(),
        named=True,
        ledger=source_of(paris.config),
        allow_data_loss=allow_data_loss,
    )
    try:
        await work.run()
    except BaseExceptionGroup as group:
        raise (first_cause(group) if isinstance(group, ExceptionGroup) else group) from None


def rows(dsn: str) -> list[list[tuple[Any, ...]]]:
    with psycopg.connect(dsn) as connection:
        return [
            connection.execute(query).fetchall()
            for query in (
                b"SELECT id, balance FROM accounts ORDER BY 1",
                b"SELECT what, amount FROM audit ORDER BY 1, 2",
            )
        ]


def is_closed(dsn: str) -> bool:
    with psycopg.connect(dsn) as connection:
        try:
            connection.execute("INSERT INTO accounts VALUES (5000, 1)")
        except psycopg.errors.ReadOnlySqlTransaction:
            return True
    return False


async def until(condition: Callable[[], bool], what: str) -> None:
    with trio.move_on_after(PATIENCE_SECONDS) as time:
        while not await trio.to_thread.run_sync(condition):  # noqa: ASYNC110  # another region's word
            await trio.sleep(0.05)
    assert not time.cancelled_caught, f"it did not come about: {what}"


async def check_whole(paris: Paris, lima_dsn: str, *, noted: bool = True) -> None:
    """Nothing of the former life is left; the region follows, with the rows of the one that was copied. ``noted``: its
    journal could say whose the publication was."""
    files = paris.files
    assert is_closed(paris.dsn), "open to applications before its sidecar has started"
    assert not files.rewind.exists()
    assert not files.partial_copy.exists()
    assert paris.ask(f"SELECT FROM pg_replication_slots WHERE slot_name = '{paris.options.slot}'") == []
    assert not noted or paris.ask("SELECT FROM pg_publication WHERE pubname = 'replicator'") == []
    stored = DurableStateFile(files.role).read()
    assert stored is not None
    assert (stored.memory.state, stored.memory.half, stored.grant) == ("following", "replica", None)
    async with trio.open_nursery() as nursery:
        await nursery.start(service.run, paris.config)
        await until(lambda: rows(paris.dsn) == rows(lima_dsn), f"equal rows: {rows(paris.dsn)}")
        await until(lambda: paris.ask("SELECT count(*) FROM replicator.position") == [(1,)], "a position")
        nursery.cancel_scope.cancel()
    assert rows(paris.dsn) == rows(lima_dsn), "its own start has undone it"
    assert is_closed(paris.dsn)


SEALED = {"a killed primary", "back, and not rewound"}


def check_sealed(paris: Paris) -> None:
    """What only this region had is in a seal, what its log alone held, too."""
    (seal,) = paris.files.seals()
    blocks = seal.blocks.read_bytes()
    assert b"orphan" in blocks
    assert b"unread" in blocks


async def with_lima(deployment: Deployment, work: Callable[[str], Awaitable[None]]) -> None:
    """While lima leads, at this address."""
    config = deployment.lima_config
    async with trio.open_nursery() as nursery:
        url: str = await nursery.start(service.run, config)
        del url
        address = f"http://127.0.0.1:{deployment.ports['lima']}"
        await work(address)
        nursery.cancel_scope.cancel()


def test_every_state(deployment: Deployment) -> None:
    failed: dict[str, str] = {}
    found = {}
    for name, make in states().items():
        paris = deployment.paris()
        make(paris)
        paris.journal.close()
        found[name] = paris
    deployment.lima.journal.close()

    async def all_of_them(url: str) -> None:
        for name, paris in found.items():
            try:
                await replace(paris, url)
                await check_whole(paris, deployment.lima.dsn)
                if name in SEALED or name.startswith(("coming back", "going back")):
                    check_sealed(paris)
            except (AssertionError, ReplicatorError, psycopg.Error) as error:
                failed[name] = f"{type(error).__name__}: {error}"

    trio.run(with_lima, deployment, all_of_them)
    assert not failed, "\n".join(f"{name}: {why}" for name, why in failed.items())


STEPS: dict[str, tuple[Any, str]] = {
    "secure": (former_life.FormerLife, "secure"),
    "write half": (bootstrap, "write_half"),
    "close": (former_life.FormerLife, "close"),
    "give up role": (former_life.FormerLife, "give_up_role"),
    "begin": (target.CopyTarget, "begin"),
    "put away": (former_life.FormerLife, "put_away"),
    "add": (target.CopyTarget, "add"),
    "finish": (target.CopyTarget, "finish"),
    "journal": (target, "begin_journal"),
    "clear": (target.CopyTarget, "clear"),
    "remove half": (bootstrap, "remove_half"),
}


def deadly(monkeypatch: pytest.MonkeyPatch, side: str, step: str) -> None:
    """Let the process end before or behind this step."""
    owner, name = STEPS[step]
    do = getattr(owner, name)

    async def waits(*arguments: Any, **named: Any) -> Any:
        if side == "after":
            await do(*arguments, **named)
        raise Killed(step)

    def blocks(*arguments: Any, **named: Any) -> Any:
        if side == "after":
            do(*arguments, **named)
        raise Killed(step)

    monkeypatch.setattr(owner, name, waits if inspect.iscoroutinefunction(do) else blocks)


KILLS = [f"{side} {step}" for step in STEPS for side in ("before", "after")]
FROM: dict[str, Callable[[Paris], None]] = {  # the states in which most is there to be put away
    "a killed primary": Paris.led,
    "going back": lambda paris: paris.rewinding("after tables"),
}


def test_killed_at_each_step_the_same_verb_goes_on(deployment: Deployment) -> None:
    failed: dict[str, str] = {}
    found = {}
    for number, kill in enumerate(KILLS):
        paris = deployment.paris()
        list(FROM.values())[number % len(FROM)](paris)
        paris.journal.close()
        found[kill] = paris
    deployment.lima.journal.close()

    async def all_of_them(url: str) -> None:
        for kill, paris in found.items():
            with pytest.MonkeyPatch.context() as patch:
                deadly(patch, *kill.split(" ", 1))
                try:
                    await replace(paris, url)
                except* Killed:
                    pass
                else:
                    failed[kill] = "it was not reached"
            if paris.files.partial_copy.exists():
                with pytest.raises(Halted, match="half_copied"):
                    refuse_half(paris.files)
            try:
                await replace(paris, url)
                await check_whole(paris, deployment.lima.dsn)
                check_sealed(paris)
            except (AssertionError, ReplicatorError, psycopg.Error) as error:
                failed[kill] = f"{type(error).__name__}: {error}"

    trio.run(with_lima, deployment, all_of_them)
    assert not failed, "\n".join(f"{kill}: {why}" for kill, why in failed.items())


def without_slot(paris: Paris) -> None:
    paris.led()
    paris.drop_slot()


def without_journal(paris: Paris) -> None:
    paris.led()
    paris.lose(paris.path)


def damaged(paris: Paris) -> None:
    paris.led()
    paris.damage(paris.path)


def unknown(paris: Paris) -> None:
    paris.lose(paris.path)
    paris.do("DROP SCHEMA replicator CASCADE")


REFUSED: dict[str, tuple[Callable[[Paris], None], str]] = {
    "a primary whose slot is gone": (without_slot, "only_copy"),
    "a primary whose journal is gone": (without_journal, "only_copy"),
    "a primary whose journal is damaged": (damaged, "only_copy"),
    "tables of somebody": (unknown, "rows_of_others"),
}


def test_rows_that_may_be_nowhere_else_are_given_up_only_by_name(deployment: Deployment) -> None:
    found = {}
    for name, (make, reason) in REFUSED.items():
        paris = deployment.paris()
        make(paris)
        paris.journal.close()
        found[name] = paris, make, reason
    deployment.lima.journal.close()

    async def all_of_them(url: str) -> None:
        for name, (paris, make, reason) in found.items():
            before = rows(paris.dsn)
            with pytest.raises(Halted) as caught:
                await replace(paris, url)
            assert (name, caught.value.reason) == (name, reason)
            assert "--allow-data-loss" in caught.value.cure
            assert rows(paris.dsn) == before, name
            assert not paris.files.partial_copy.exists(), "the region can be started as it was"
            await replace(paris, url, allow_data_loss=True)
            await check_whole(paris, deployment.lima.dsn, noted=make is without_slot)

    trio.run(with_lima, deployment, all_of_them)
