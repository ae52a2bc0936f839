"""What happens to the regions on a game day: each fault is made, held for a while, and ended, as a generator.

    fault(world, draws)     runs up to its ``yield``: the fault is there
    … some seconds …
    the rest of it          the fault is over, and whoever made it has put back what he may put back

What a fault leaves behind that no sidecar can put right by itself is put right by ``World.operate``: by carrying out
what the product prints. Victims are drawn; the leader as often as all others together.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator

import psycopg

from tests.e2e.cluster import ETCD, NAMES
from tests.e2e.gameday.world import World

Fault = Callable[[World, random.Random], Iterator[None]]
HOUR_SECONDS = 3_600
ROOM_BYTES = 300_000


def leader(world: World) -> str:
    """Who leads, or a region where nobody does."""
    region = world.primary()
    return NAMES[0] if region is None else region.name


def victim(world: World, draws: random.Random) -> str:
    first = leader(world)
    return first if draws.random() < 0.5 else draws.choice([name for name in NAMES if name != first])


def replica(world: World, draws: random.Random) -> str:
    first = leader(world)
    return draws.choice([name for name in NAMES if name != first])


# -- processes


def kill_sidecar(world: World, draws: random.Random) -> Iterator[None]:
    region = world.region(victim(world, draws))
    region.kill()
    yield
    region.start()


def stop_sidecar(world: World, draws: random.Random) -> Iterator[None]:
    region = world.region(victim(world, draws))
    world.stop_hard(region)
    yield
    region.start()


def freeze_sidecar(world: World, draws: random.Random) -> Iterator[None]:
    region = world.region(victim(world, draws))
    region.send(signal.SIGSTOP)
    yield
    region.send(signal.SIGCONT)


def kill_server(world: World, draws: random.Random) -> Iterator[None]:
    server = world.servers[victim(world, draws)]
    server.kill()
    yield
    server.start()


def stop_server(world: World, draws: random.Random) -> Iterator[None]:
    server = world.servers[victim(world, draws)]
    server.stop()
    yield
    server.start()


def freeze_server(world: World, draws: random.Random) -> Iterator[None]:
    server = world.servers[victim(world, draws)]
    world.freeze(server)
    yield
    world.thaw(server)


def kill_region(world: World, draws: random.Random) -> Iterator[None]:
    name = victim(world, draws)
    world.region(name).kill()
    world.servers[name].kill()
    yield
    world.servers[name].start()
    world.region(name).start()


def freeze_region(world: World, draws: random.Random) -> Iterator[None]:
    name = victim(world, draws)
    world.region(name).send(signal.SIGSTOP)
    world.freeze(world.servers[name])
    yield
    world.thaw(world.servers[name])
    world.region(name).send(signal.SIGCONT)


def kill_all(world: World, draws: random.Random) -> Iterator[None]:
    for name in NAMES:
        world.region(name).kill()
        world.servers[name].kill()
    yield
    for name in draws.sample(NAMES, len(NAMES)):
        world.servers[name].start()
        world.region(name).start()


def kill_etcd(world: World, draws: random.Random) -> Iterator[None]:
    world.etcd.kill()
    yield
    world.etcd.start()


def freeze_etcd(world: World, draws: random.Random) -> Iterator[None]:
    world.etcd.freeze()
    yield
    world.etcd.thaw()


def stop_walsender(world: World, draws: random.Random) -> Iterator[None]:
    """The source's own connection stands still: nothing is closed, and nothing comes."""
    name = leader(world)
    pids = _walsenders(world, name)
    for pid in pids:
        _signal(pid, signal.SIGSTOP)
    yield
    for pid in pids:
        _signal(pid, signal.SIGCONT)


# -- lines


def isolate(world: World, draws: random.Random) -> Iterator[None]:
    world.network.isolate(victim(world, draws))
    yield
    world.network.heal()


def isolate_one_way(world: World, draws: random.Random) -> Iterator[None]:
    out = draws.random() < 0.5
    world.network.isolate(victim(world, draws), out=out, into=not out)
    yield
    world.network.heal()


def cut_pair(world: World, draws: random.Random) -> Iterator[None]:
    world.network.part(*draws.sample(NAMES, 2))
    yield
    world.network.heal()


def cut_from_etcd(world: World, draws: random.Random) -> Iterator[None]:
    world.network.part(victim(world, draws), ETCD)
    yield
    world.network.heal()


def cut_from_sidecars(world: World, draws: random.Random) -> Iterator[None]:
    name = victim(world, draws)
    world.network.part(name, *[other for other in NAMES if other != name])
    yield
    world.network.heal()


def slow_lines(world: World, draws: random.Random) -> Iterator[None]:
    name = victim(world, draws)
    for other in NAMES:
        if other != name:
            world.network.slow(name, other, 0.15)
            world.network.slow(other, name, 0.15)
    yield
    world.network.heal()


def flapping_lines(world: World, draws: random.Random) -> Iterator[None]:
    name = victim(world, draws)
    for _ in range(6):
        world.network.isolate(name)
        world.sleep(draws.uniform(0.1, 0.8))
        world.network.heal()
        world.sleep(draws.uniform(0.1, 0.8))
    yield


# -- verbs


def switch_over(world: World, draws: random.Random) -> Iterator[None]:
    """Ordered; the target's sidecar or the leader's may be killed meanwhile."""
    first, target = leader(world), replica(world, draws)
    with contextlib.suppress(OSError):
        world.region(first).order(verb="switchover", target=target, seconds=15.0)
    killed = world.region(draws.choice([first, target])) if draws.random() < 0.5 else None
    world.sleep(draws.uniform(0.0, 0.6))
    if killed is not None:
        killed.kill()
    yield
    if killed is not None:
        killed.start()


def wipe_region(world: World, draws: random.Random) -> Iterator[None]:
    """A replica's directory is lost, or its server, too; it is made anew, and killed once in the middle of that."""
    name, first = replica(world, draws), leader(world)
    region, source = world.region(name), world.region(first)
    region.kill()
    shutil.rmtree(region.directory / "data", ignore_errors=True)
    if draws.random() < 0.5:
        server = world.servers[name]
        server.kill()
        shutil.rmtree(server.directory)
        world.make_database(name)
    yield
    world.make_anew(name, source.url, draws.uniform(0.2, 2.0) if draws.random() < 0.5 else None)


# -- catalogs


def alter_publication(world: World, draws: random.Random) -> Iterator[None]:
    """Somebody changes what the publication carries, and puts it back."""
    name = leader(world)
    publication = world.publication(name)
    if publication is None:
        yield
        return
    world.meddle(name, f"ALTER PUBLICATION {publication} SET (publish = 'insert')")
    yield
    world.meddle(name, f"ALTER PUBLICATION {publication} SET (publish = 'insert, update, delete, truncate')")


def drop_publication(world: World, draws: random.Random) -> Iterator[None]:
    name = leader(world)
    publication = world.publication(name)
    if publication is None:
        yield
        return
    world.meddle(name, f"DROP PUBLICATION {publication}")
    yield
    world.meddle(name, f"CREATE PUBLICATION {publication} FOR ALL TABLES")


def drop_slot(world: World, draws: random.Random) -> Iterator[None]:
    """Somebody frees the log's place while the sidecar is away."""
    name = leader(world)
    region = world.region(name)
    region.kill()
    world.sleep(0.5)
    world.meddle(name, "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active")
    world.sleep(0.5)
    world.meddle(name, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")
    region.start()
    yield


def unlogged(world: World, draws: random.Random) -> Iterator[None]:
    """A table leaves the log for a while, and rows are written meanwhile."""
    name = leader(world)
    world.meddle(name, "CREATE TABLE IF NOT EXISTS side (id int PRIMARY KEY)", "ALTER TABLE side SET UNLOGGED")
    world.meddle(name, "INSERT INTO side SELECT coalesce(max(id), 0) + 1 FROM side")
    yield
    world.meddle(name, "ALTER TABLE side SET LOGGED")


def add_column(world: World, draws: random.Random) -> Iterator[None]:
    """A migration at the leader, which the feed carries with the rows."""
    name = leader(world)
    column = f"note_{draws.randrange(10**6)}"
    world.meddle(name, f"ALTER TABLE accounts ADD COLUMN {column} text")
    yield


# -- machines


def fill_disk(world: World, draws: random.Random) -> Iterator[None]:
    region = world.region(victim(world, draws))
    region.limit_files(ROOM_BYTES)
    yield
    region.limit_files(-1)


def flip_bytes(world: World, draws: random.Random) -> Iterator[None]:
    """A replica's disk rots, in one of the files that its sidecar keeps."""
    region = world.region(replica(world, draws))
    paths = sorted(path for path in (region.directory / "data").glob("*.sqlite3") if path.stat().st_size > 8192)
    if paths:
        path = draws.choice(paths)
        world.say(f"{path.name} of {region.name} rots")
        with path.open("r+b") as file:
            for _ in range(40):
                file.seek(draws.randrange(4096, path.stat().st_size - 4))
                file.write(draws.randbytes(4))
    yield


def set_clock(world: World, draws: random.Random) -> Iterator[None]:
    region = world.region(victim(world, draws))
    region.clock.write_text(str(draws.choice([-HOUR_SECONDS, HOUR_SECONDS, -10, 10])))
    yield
    region.clock.unlink(missing_ok=True)


def _walsenders(world: World, name: str) -> list[int]:
    query = "SELECT pid FROM pg_stat_replication WHERE state = 'streaming' OR state = 'catchup'"
    with contextlib.suppress(psycopg.Error), psycopg.connect(world.servers[name].dsn("ledger")) as session:
        return [pid for (pid,) in session.execute(query).fetchall()]
    return []


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


FAULTS: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (
        kill_sidecar,
        stop_sidecar,
        freeze_sidecar,
        kill_server,
        stop_server,
        freeze_server,
        kill_region,
        freeze_region,
        kill_all,
        kill_etcd,
        freeze_etcd,
        stop_walsender,
        isolate,
        isolate_one_way,
        cut_pair,
        cut_from_etcd,
        cut_from_sidecars,
        slow_lines,
        flapping_lines,
        switch_over,
        wipe_region,
        alter_publication,
        drop_publication,
        drop_slot,
        unlogged,
        add_column,
        fill_disk,
        flip_bytes,
        set_clock,
    )
}
"""Every kind, by its name."""
