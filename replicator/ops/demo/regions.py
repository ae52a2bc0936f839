"""Three regions on loopback, each a process of its own: embedded ledgers that may take over from each other.

Guarantee: whatever happens within ``DemoRegions`` as a context, no process is left when it is left. A region that is
killed and started again is the same region: same files, same port. ``primary`` is who leads as far as the customers
know.
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
from replicator.storage.data_dir import DataDir
from replicator.transport.endpoint import Endpoint

FIRST = "paris"  # begins as primary, and is switched back to
NAMES = (FIRST, "tokyo", "virginia")
STOP_SECONDS = 5.0
LOG_SHOWN_BYTES = 3000
# Below the range that systems take the ports of outgoing connections from: nothing sits on it after a kill.
PORTS = range(15_000, 30_000)
PORT_TRIES = 200

_CONFIG = """\
# A region of `replicator demo`. It runs by itself:  replicator run config.toml

[region]
name = "{name}"
role = "{role}"
data_dir = "data"

[http]
listen = "127.0.0.1:{port}"

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

[cluster]
regions = {{ {regions} }}

[lease]
kind = "static"                     # a file that the three share: they are on one machine
path = "../lease.json"
ttl = "2s"
margin = "200ms"

[failover]
mode = "automatic"
acknowledge = 1                     # a customer is answered when another region has the write, too
acknowledge_timeout = "2s"
suspect = "1s"
quiet = "1s"
"""


class DemoRegion:
    """One region's files and process."""

    def __init__(self, directory: Path, name: str, urls: dict[str, str]) -> None:
        self.name = name
        self.role = "primary" if name == FIRST else "replica"  # that it begins in
        self.url = urls[name]
        self.endpoint = Endpoint(name, self.url)
        self.directory = directory / name
        self.config_path = self.directory / "config.toml"
        self.is_killed = False
        self._process: subprocess.Popen[bytes] | None = None
        self.directory.mkdir()
        port, regions = self.url.rpartition(":")[2], ", ".join(f'{region} = "{url}"' for region, url in urls.items())
        self.config_path.write_text(_CONFIG.format(name=name, role=self.role, port=port, regions=regions))

    @property
    def files(self) -> DataDir:
        """The paths in the region's data directory."""
        return DataDir(self.directory / "data")

    def start(self) -> None:
        """Start the sidecar; does not wait for it."""
        self.is_killed = False
        command = [sys.executable, "-P", "-m", "replicator", "run", "--with-stdin", str(self.config_path)]
        with (self.directory / "log").open("ab") as log:  # the pipe ends with this process, however that ends
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=_this_program()
            )

    def kill(self) -> None:
        """Send SIGKILL, in the middle of whatever it does."""
        self.check_runs()
        assert self._process is not None
        self.is_killed = True
        self._kill_process(self._process)

    def _kill_process(self, process: subprocess.Popen[bytes]) -> None:
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
        """Send SIGTERM."""
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
            self._kill_process(self._process)


def _this_program() -> dict[str, str]:
    """The environment in which Python finds this very package, not one that lies where the user happens to be."""
    paths = [str(Path(replicator.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


class DemoRegions:
    """The three regions; nothing of them runs after the context."""

    def __init__(self, directory: Path) -> None:
        urls = {name: f"http://127.0.0.1:{port}" for name, port in zip(NAMES, free_ports(len(NAMES)), strict=True)}
        self.all = [DemoRegion(directory, name, urls) for name in NAMES]
        self.primary = self.all[0]

    @property
    def replicas(self) -> list[DemoRegion]:
        """All but who leads."""
        return [region for region in self.all if region is not self.primary]

    def at(self, url: str) -> DemoRegion | None:
        """The region with this address."""
        return next((region for region in self.all if region.url == url), None)

    def behind(self, region: DemoRegion) -> DemoRegion:
        """Whom to ask next where one does not lead."""
        return self.all[(self.all.index(region) + 1) % len(self.all)]

    def __getitem__(self, name: str) -> DemoRegion:
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
    ports: list[int] = []
    draws = random.SystemRandom()
    for _ in range(PORT_TRIES):
        port = draws.choice(PORTS)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in ports:
            ports.append(port)
        if len(ports) == number:
            return ports
    message = f"no {number} ports are free on 127.0.0.1 between {PORTS.start} and {PORTS.stop}"
    raise Unavailable("no_ports", message, place="127.0.0.1", cure="see why this machine lets no program listen there")
