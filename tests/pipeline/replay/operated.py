"""A region's replay with statements set aside, and an operator who reaches it over HTTP and by the command line."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import trio
from click.testing import CliRunner

from replicator.format.statement import pack_define, pack_delete, pack_insert, pack_update
from replicator.ops.cli import main
from replicator.pipeline.replay.loop import ReplayHold, ReplayLoop
from replicator.pipeline.replay.quarantine import QuarantinePolicy
from replicator.pipeline.replay.quarantine_routes import QuarantineAdmin, routes
from replicator.pipeline.replicas.base import AppliedMark
from replicator.storage.journal.head import JournalHead
from replicator.transport.server import Listen, application, serve
from tests.contracts.replica_kinds import STRAND, SqliteKind, row, table
from tests.pipeline.replay.strand import EVENTS, SETS_ASIDE, WALLETS, Strand, wallet
from tests.servers import free_port

TOKEN = "the-token"
PAIRS = table([("a", "text"), ("b", "text"), ("balance", "integer")], ["a", "b"], name="pairs")


class Operated:
    """Wallet 1 has an update refused (4/0) and a delete behind it (5/0); the pair (de, 17) an insert (4/1)."""

    def __init__(self, directory: Path, policy: QuarantinePolicy = SETS_ASIDE) -> None:
        self.strand = Strand(SqliteKind(directory / "replica.db"), directory, policy)
        self.strand.define(pack_define(1, WALLETS), pack_define(2, EVENTS), pack_define(3, PAIRS))
        self.strand.write(*(pack_insert(1, wallet(number, 10)) for number in (1, 2, 3)))
        self.strand.write(pack_insert(2, row("e", "1")))
        self.strand.replay()
        self.strand.refuse()
        self.strand.refuse("pairs")
        self.strand.write(pack_update(1, wallet(1, -1)), pack_insert(3, row("de", "17", "-5")))
        self.strand.write(pack_delete(1, row("1")), pack_update(1, wallet(2, 12)))
        self.tail = JournalHead(self.strand.journal.head(STRAND))
        self.opened: list[AppliedMark] = []
        self.applied: list[AppliedMark] = []
        self._heard = trio.Event()
        replayer = self.strand.replayer
        self.replay = ReplayLoop(replayer, self.tail, ReplayHold(), self._on_applied, self.opened.append)
        self.desk = QuarantineAdmin(STRAND, self.replay, self.strand.kind.reader, self.strand.journal)
        self.port = free_port()
        self.config = directory / "region.toml"
        self.config.write_text(
            '[region]\nname = "eu"\nrole = "replica"\ndata_dir = "eu"\n'
            f'[http]\nlisten = "127.0.0.1:{self.port}"\ntoken = "{TOKEN}"\n'
            '[follow]\nprimary = "http://127.0.0.1:1"\n[replica]\nkind = "sqlite"\npath = "replica.db"\n'
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The loop runs and the routes answer; everything is applied or set aside."""
        app = application(routes(self.desk), TOKEN)
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                await nursery.start(serve, app, Listen("127.0.0.1", self.port), trio.sleep_forever)
                nursery.start_soon(self.replay.run_once)
                await self.caught_up()
                yield
                nursery.cancel_scope.cancel()

    async def caught_up(self) -> None:
        """Wait until the loop has applied the whole journal."""
        while not self.applied or self.applied[-1].position != self.strand.journal.head(STRAND):
            await self._heard.wait()

    def _on_applied(self, applied: AppliedMark) -> None:
        self.applied.append(applied)
        self._heard.set()
        self._heard = trio.Event()

    def write(self, *statements: bytes) -> None:
        """A transaction that the loop hears of."""
        self.strand.write(*statements)
        head = self.strand.journal.head(STRAND)
        self.tail.moved(head, 0)

    async def get(self, path: str) -> Any:
        answer = await self.request("GET", path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def post(self, path: str, **fields: object) -> httpx.Response:
        return await self.request("POST", path, json=fields)

    async def request(self, method: str, path: str, token: str = TOKEN, **content: Any) -> httpx.Response:
        async with httpx.AsyncClient(trust_env=False) as client:
            headers = {"Authorization": f"Bearer {token}"}
            url = f"http://127.0.0.1:{self.port}/v1/quarantine{path}"
            return await client.request(method, url, headers=headers, **content)

    async def run(self, verb: str, *arguments: str, code: int = 0) -> str:
        """``replicator quarantine VERB CONFIG …``"""

        def invoke() -> tuple[int, str]:
            command = ["quarantine", verb, str(self.config), *arguments]
            result = CliRunner().invoke(main, command, env={"COLUMNS": "160"}, catch_exceptions=False)
            return result.exit_code, result.output

        exit_code, output = await trio.to_thread.run_sync(invoke)
        assert exit_code == code, output
        return output
