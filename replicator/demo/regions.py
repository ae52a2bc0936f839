"""Three regions on loopback: one embedded primary and two SQLite replicas, each a process of its own.

Guarantee: whatever happens within ``Regions`` as a context, no process is left when it is left. A region that is killed
and started again is the same region: same files, same port.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import replicator
from replicator.errors import ReplicatorError, Unavailable

PRIMARY = "paris"
REPLICAS = ("tokyo", "virginia")
NAMES = (PRIMARY, *REPLICAS)
STOP_SECONDS = 5.0
LOG_SHOWN_BYTES = 3000
# Below the range that systems take the ports of outgoing connections from: nothing sits on it after a kill.
PORTS = range(15_000, 30_000)
PORT_TRIES = 200

_COMMON = """\
# A region of `replicator demo`. It runs by itself:  replicator run config.toml

[region]
name = "{name}"
role = "{role}"
data_dir = "data"

[http]
listen = "127.0.0.1:{port}"

"""
_SOURCE = """\
[source]
kind = "embedded"

[[source.tables]]
name = "wallets"
key = "wallet_id"
user = "user_id"

[[source.tables]]
name = "payments"
key = "payment_id"
user = "user_id"
"""
_REPLICA = """\
[follow]
primary = "http://127.0.0.1:{port}"
reconnect_max = "1s"                # come back soon after the primary was killed

[replica]
kind = "sqlite"
path = "data/replica.sqlite3"
"""


class Region:
    """One region's files and process."""

    def __init__(self, directory: Path, name: str, port: int, primary_port: int) -> None:
        self.name = name
        self.role = "primary" if name == PRIMARY else "replica"
        self.url = f"http://127.0.0.1:{port}"
        self.directory = directory / name
        self.config_path = self.directory / "config.toml"
        self.is_killed = False
        self._process: subprocess.Popen[bytes] | None = None
        self.directory.mkdir()
        rest = _SOURCE if self.role == "primary" else _REPLICA.format(port=primary_port)
        self.config_path.write_text(_COMMON.format(name=name, role=self.role, port=port) + rest)

    @property
    def database_path(self) -> Path:
        """The SQLite file with the region's tables."""
        return self.directory / "data" / ("ledger.sqlite3" if self.role == "primary" else "replica.sqlite3")

    @property
    def journal_path(self) -> Path:
        """The region's journal."""
        return self.directory / "data" / "journal.sqlite3"

    def start(self) -> None:
        """Start the sidecar; does not wait for it."""
        self.is_killed = False
        command = [sys.executable, "-P", "-m", "replicator", "run", "--with-stdin", str(self.config_path)]
        with (self.directory / "log").open("ab") as log:  # the pipe ends with this process, however that ends
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=_this_program()
            )

    def kill(self) -> None:
        """SIGKILL, in the middle of whatever it does."""
        self.check_runs()
        assert self._process is not None
        self.is_killed = True
        self._gone(self._process)

    def _gone(self, process: subprocess.Popen[bytes]) -> None:
        """End the process now; nothing happens if it has ended."""
        process.kill()
        process.communicate()  # waits, and closes the pipe

    def check_runs(self) -> None:
        """Raise ReplicatorError if the process ended though nobody killed it."""
        if self._process is not None and not self.is_killed and (code := self._process.poll()) is not None:
            end = (self.directory / "log").read_bytes()[-LOG_SHOWN_BYTES:].decode(errors="replace")
            message = f"the sidecar ended with exit code {code}; its log ends with\n{end}"
            raise ReplicatorError("sidecar_ended", message, place=f"region {self.name}", cure="see the log")

    def ask_to_stop(self) -> None:
        """SIGTERM."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def end(self, deadline: float) -> None:
        """Wait until then (``time.monotonic``) for the process to end, then kill it."""
        if self._process is None:
            return
        try:
            self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            pass
        finally:
            self._gone(self._process)


def _this_program() -> dict[str, str]:
    """The environment in which Python finds this very package, not one that lies where the user happens to be."""
    paths = [str(Path(replicator.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


class Regions:
    """The three regions; nothing of them runs after the context."""

    def __init__(self, directory: Path) -> None:
        ports = free_ports(len(NAMES))
        self.all = [Region(directory, name, port, ports[0]) for name, port in zip(NAMES, ports, strict=True)]
        self.primary, *self.replicas = self.all

    def __getitem__(self, name: str) -> Region:
        return next(region for region in self.all if region.name == name)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Start all; at the end stop them in order, or hard if something was raised."""
        seconds = 0.0
        try:
            for region in self.all:
                region.start()
            yield
            for region in self.all:
                region.ask_to_stop()
            seconds = STOP_SECONDS
        finally:
            deadline = time.monotonic() + seconds
            with contextlib.ExitStack() as ends:  # each is ended, also if ending another one is interrupted
                for region in self.all:
                    ends.callback(region.end, deadline)


def free_ports(number: int) -> list[int]:
    """Loopback ports that can be listened at. Raises Unavailable if there are none."""
    found: list[int] = []
    draws = random.SystemRandom()
    for _ in range(PORT_TRIES):
        port = draws.choice(PORTS)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
        if len(found) == number:
            return found
    message = f"no {number} ports are free on 127.0.0.1 between {PORTS.start} and {PORTS.stop}"
    raise Unavailable("no_ports", message, place="127.0.0.1", cure="see why this machine lets no program listen there")
