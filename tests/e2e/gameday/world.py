"""Three PostgreSQL regions, etcd, lines that can be cut, and a bank that works there; with whoever watches them.

A sidecar that ends by itself is started again, as a service manager does, and that it ended is told. ``operate`` is an
operator who does what the product tells him to: he carries out the cures that it prints, and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psycopg

from tests.e2e.cluster import NAMES, Cluster
from tests.e2e.gameday.bank import ROLE, SCHEMA, UNIQUE, Books, Receipt, Teller
from tests.e2e.gameday.claims import Witness
from tests.e2e.gameday.probes import Probe
from tests.e2e.region import Region
from tests.etcd import Etcd
from tests.servers import Postgres

STANDBY = '"replicator replicator"'
TTL_SECONDS = 4
CURE_SECONDS = 15.0  # what may get well by itself is left alone for so long
GIVE_UP_SECONDS = 120.0
COMMAND = re.compile(r"\breplicator ([a-z]+)((?: (?:--?[a-z][a-z-]*|CONFIG|[A-Z]+\b|[\w./:-]+\.toml))*)")


class GameRegion(Region):
    """A region whose process has a clock that can be set and a disk that can be full."""

    is_wanted = False  # whether it is to run: who ends by itself meanwhile is started again

    @property
    def clock(self) -> Path:
        return self.directory / "clock"

    def start(self, *options: str) -> None:
        self.is_wanted = True
        with (self.directory / "log").open("ab") as log:
            command = [sys.executable, "-m", "tests.e2e.gameday.sidecar", str(self.clock), str(self.config)]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def kill(self) -> None:
        self.is_wanted = False
        super().end()

    def stop(self) -> int:
        self.is_wanted = False
        return super().stop()

    def send(self, number: signal.Signals) -> None:
        """A signal to the process, if it runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def limit_files(self, size: int) -> None:
        """No file of the process may grow beyond ``size`` bytes; -1 frees the disk."""
        assert self.process is not None
        if self.process.poll() is None:
            _, hard = resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (size if size >= 0 else hard, hard))

    def run(self, *arguments: str, seconds: float = 120) -> subprocess.CompletedProcess[str]:
        """The command line with this region's configuration."""
        command = [sys.executable, "-m", "replicator", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=seconds, cwd=self.directory)


class World(Cluster):
    """One day's regions. ``say`` takes what happens, line by line."""

    region_kind = GameRegion

    def __init__(self, directory: Path, etcd: Etcd, say: Callable[[str], None], *, acknowledge: int) -> None:
        self.etcd, self.say, self.acknowledge = etcd, say, acknowledge
        self.began = time.monotonic()
        self.directory = directory
        self.servers = {name: Postgres(directory / f"{name}-server", {"shared_buffers": "32MB"}) for name in NAMES}
        self.dsns: dict[str, str] = {}
        for name in NAMES:
            self.make_database(name)
        self.sql(NAMES[0], *SCHEMA)
        settings = '[verify]\nscrub = "5s"\n'
        super().__init__(
            directory, etcd, self._section, acknowledge=acknowledge, ttl_seconds=TTL_SECONDS, failover=f"\n{settings}"
        )
        self.probes = {name: Probe(name, self.servers[name].port) for name in NAMES}
        self.witnesses = {name: Witness(name, self.regions[name].address) for name in NAMES}
        self.receipts: list[Receipt] = []
        self.ended: list[str] = []  # sidecars that ended by themselves
        self.cures: list[str] = []  # what the operator was told to do, and did
        self._tellers: list[Teller] = []
        self._rounds = 0

    def make_database(self, name: str) -> None:
        """An empty server with an empty database and the application's role."""
        server = self.servers[name]
        server.create()
        server.start()
        self.dsns[name] = server.create_database("ledger")
        self.sql(name, *ROLE)
        if self.acknowledge:
            with server.connect() as session:
                session.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{STANDBY}'".encode())

    def _section(self, name: str) -> str:
        kind = "source" if name == NAMES[0] else "replica"
        more = 'sequences = "500ms"\nheartbeat = "200ms"\n' if kind == "source" else ""
        return f'[{kind}]\nkind = "postgres"\ndsn = "{self.dsns[name]}"\n{more}'

    def sql(self, name: str, *statements: str) -> None:
        """Statements in a region's database, each by itself, as its superuser."""
        with psycopg.connect(self.servers[name].dsn("ledger"), autocommit=True) as session:
            for statement in statements:
                session.execute(statement.encode())

    def meddle(self, name: str, *statements: str) -> None:
        """The same, by somebody who does not wait long, and goes away where the database does not let him. No timeout
        of the database ends a commit's wait for other regions, so that is not begun."""
        patience = "SET synchronous_commit = local", "SET statement_timeout = '2s'", "SET lock_timeout = '2s'"
        with contextlib.suppress(psycopg.Error):
            self.sql(name, *patience, *statements)

    def region(self, name: str) -> GameRegion:
        region = self.regions[name]
        assert isinstance(region, GameRegion)
        return region

    # -- a day

    def open(self) -> None:
        """Everything runs, and is watched, from before its first copy on."""
        for thread in (*self.probes.values(), *self.witnesses.values()):
            thread.start()
        for region in self.regions.values():
            region.start()

    def finish_first_copy(self) -> None:
        """One leads and all follow; what no block carries is made by whoever migrates, and commits wait (K = 1)."""
        self.converge()
        for name in NAMES:
            with psycopg.connect(self.servers[name].dsn("ledger"), autocommit=True) as session:
                session.execute("SET replicator.writer = on")
                session.execute("SET synchronous_commit = local")
                session.execute(UNIQUE.replace("INDEX", "INDEX IF NOT EXISTS").encode())
        if self.acknowledge:
            for server in self.servers.values():
                with server.connect() as session:
                    session.execute("SELECT pg_reload_conf()")

    def close(self) -> None:
        self.stop_tellers()
        for name in NAMES:
            self.probes[name].end()
            self.witnesses[name].end()
        for name in NAMES:
            self.region(name).is_wanted = False
            self.region(name).send(signal.SIGCONT)
        super().close()
        for server in self.servers.values():
            self.thaw(server)
            if server.process is not None and server.process.poll() is None:
                server.kill()
            shutil.rmtree(server.directory, ignore_errors=True)

    # -- its bank

    def start_tellers(self, number: int = 4) -> None:
        """New clients for a new round."""
        self._rounds += 1
        ports = {name: server.port for name, server in self.servers.items()}
        self._tellers = [Teller(f"r{self._rounds}t{n}", ports, seed=self._rounds * 100 + n) for n in range(number)]
        for teller in self._tellers:
            teller.start()

    def stop_tellers(self) -> list[str]:
        """They end; what they may not have been told."""
        for teller in self._tellers:
            teller.end()
        for teller in self._tellers:
            teller.join(10)
        faults = [fault for teller in self._tellers for fault in teller.faults]
        self.receipts += [receipt for teller in self._tellers for receipt in teller.receipts]
        self._tellers = []
        return faults

    # -- its servers

    def freeze(self, server: Postgres) -> None:
        """SIGSTOP to all of a server's processes."""
        self._signal(server, signal.SIGSTOP)

    def thaw(self, server: Postgres) -> None:
        self._signal(server, signal.SIGCONT)

    def _signal(self, server: Postgres, number: signal.Signals) -> None:
        """To the postmaster and its children, each of which leads a session of its own."""
        if server.process is None or server.process.poll() is not None:
            return
        children = subprocess.run(["pgrep", "-P", str(server.process.pid)], capture_output=True, text=True).stdout
        for pid in [str(server.process.pid), *children.split()]:
            try:
                os.kill(int(pid), number)
            except ProcessLookupError:
                continue

    # -- its operator

    def tend(self) -> None:
        """Start again who ended by itself."""
        for name in NAMES:
            region = self.region(name)
            if region.is_wanted and region.process is not None and (code := region.process.poll()) is not None:
                self.ended.append(f"{name} ended by itself with {code} at {self.now:.1f}: {region.log()[-300:]}")
                self.say(self.ended[-1])
                region.start()

    @property
    def now(self) -> float:
        return time.monotonic() - self.began

    def sleep(self, seconds: float) -> None:
        """Let the world go on: a fault is held, or nobody acts yet."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.tend()
            time.sleep(0.1)

    def wait(self, done: Callable[[], object], what: str, seconds: float = GIVE_UP_SECONDS) -> None:
        """Poll, tend, and after a while do what the product says that is to be done. Raises AssertionError."""
        begin, next_cure = time.monotonic(), time.monotonic() + CURE_SECONDS
        while not done():
            self.tend()
            if time.monotonic() > next_cure:
                self.operate()
                next_cure = time.monotonic() + CURE_SECONDS
            assert time.monotonic() - begin < seconds, f"{what}: not reached in {seconds:.0f} s\n{self.story()}"
            time.sleep(0.1)

    def converge(self) -> str:
        """Until one region leads and all follow it, and nothing is on its way any more; who leads.

        What a region says of itself is not enough: how far each database is, is asked of the databases. Tellers are at
        rest, or it never ends.
        """
        self.settled()
        self.wait(lambda: len(set(map(self._extent, NAMES))) == 1, "all databases are at one place")
        return self.settled().name

    def _extent(self, name: str) -> object:
        """How much of the bank a database has; a value of its own while it does not answer."""
        with contextlib.suppress(psycopg.Error), psycopg.connect(self.dsns[name], connect_timeout=2) as session:
            query = "SELECT (SELECT count(*) FROM transfers), (SELECT sum(done) FROM tellers)"
            return session.execute(query).fetchone()
        return object()

    def operate(self) -> None:
        """Carry out each cure that names a command."""
        for name in NAMES:
            for cure in self.told(name):
                if "in a cluster instead: stop the sidecar" in cure:
                    self.begin_anew(name)
                    continue
                for verb, rest in COMMAND.findall(cure):
                    self.carry_out(name, verb, rest.split(), cure)

    def told(self, name: str) -> list[str]:
        """The cures that a region shows now."""
        status = self.region(name).status() or {}
        texts = [trouble["cure"] for trouble in _troubles(status)]
        if (blocked := status.get("blocked")) and blocked.get("cure"):
            texts.append(blocked["cure"])
        failover = status.get("failover", {})
        return list(dict.fromkeys([*texts, failover.get("why", "")]))

    def carry_out(self, name: str, verb: str, rest: Sequence[str], cure: str) -> None:
        """One command, as printed, with the region's own configuration."""
        region = self.region(name)
        if verb in ("status", "preflight", "run", "history", "verify"):
            return
        arguments = [str(region.config) if word == "CONFIG" or word.endswith(".toml") else word for word in rest]
        if str(region.config) not in arguments:
            arguments.append(str(region.config))
        if verb in ("bootstrap", "rebuild"):
            self.stop_hard(region)
            if verb == "bootstrap" and "--from" not in arguments:
                other = self.primary()
                if other is not None:
                    arguments += ["--from", other.url]
        if "--reason" in arguments or verb in ("copy", "rejoin"):
            arguments = [word for word in arguments if word != "--reason"] + ["--reason", "game day"]
        run = region.run(verb, *arguments)
        self.cures.append(f"{self.now:.1f} {name}: replicator {verb} {' '.join(rest)} -> {run.returncode}")
        self.say(f"{self.cures[-1]} ({cure[:160]}) {run.stdout[-200:]}{run.stderr[-300:]}".replace("\n", " "))
        if verb in ("bootstrap", "rebuild"):
            region.start()

    def stop_hard(self, region: GameRegion) -> None:
        try:
            region.stop()
        except subprocess.TimeoutExpired:
            region.kill()

    def begin_anew(self, name: str) -> None:
        """A region whose stream cannot go on lets another one lead, and is made anew from that; what only it had goes,
        if it says that there is something."""
        self.say(f"{self.now:.1f} {name} cannot go on with its stream: another region is to lead")
        self.stop_hard(self.region(name))
        self.wait(lambda: self.primary() is not None, "another region leads")
        leader = self.primary()
        assert leader is not None
        self.make_anew(name, leader.url, None, "--allow-data-loss")
        self.cures.append(f"{self.now:.1f} {name}: another region leads, made anew")

    def make_anew(self, name: str, source: str, kill_after_seconds: float | None, *options: str) -> None:
        """``replicator bootstrap`` of a stopped region, killed once on its way if that is given, until it is whole."""
        region = self.region(name)
        verb = ["bootstrap", str(region.config), *options, "--replace", "--from", source]
        command = [sys.executable, "-m", "replicator", *verb]
        if kill_after_seconds is not None:
            running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            self.sleep(kill_after_seconds)
            running.kill()
            running.wait()
        deadline = time.monotonic() + GIVE_UP_SECONDS
        while (run := subprocess.run(command, capture_output=True, text=True)).returncode != 0:
            assert time.monotonic() < deadline, f"{name} cannot be made anew: {run.stdout[-500:]}{run.stderr[-1000:]}"
            self.sleep(2.0)
            leader = self.primary()
            command[-1] = source if leader is None else leader.url
        region.start()

    # -- what there is

    def publication(self, name: str) -> str | None:
        """The publication that the sidecar of this region reads."""
        with contextlib.suppress(psycopg.Error), psycopg.connect(self.servers[name].dsn("ledger")) as session:
            row = session.execute("SELECT pubname FROM pg_publication WHERE pubname LIKE 'replicator%'").fetchone()
            return None if row is None else f'"{row[0]}"'
        return None

    def books(self, name: str) -> Books:
        return Books.read(self.dsns[name])

    def is_sealed(self, request: str) -> bool:
        """Whether a region's sealed orphans hold this request."""
        needle = request.encode()
        for region in self.regions.values():
            for path in region.directory.glob("data/orphans/*/*"):
                if path.is_file() and re.search(re.escape(needle) + rb"(?!\d)", path.read_bytes()):
                    return True
        return False


def _troubles(status: dict[str, Any]) -> list[dict[str, Any]]:
    """What halts or holds up a stage."""
    stages = [stage for strand in status.get("strands", []) for stage in strand["stages"]]
    return [stage["trouble"] for stage in stages if stage["trouble"] is not None and stage["condition"] == "halted"]
