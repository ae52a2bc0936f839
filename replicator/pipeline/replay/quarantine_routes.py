"""The quarantine over HTTP: what is set aside, and what a person does about it.

    GET  /v1/quarantine                             what is open, the oldest first, and how many keys wait
    GET  /v1/quarantine/closed                      what was replayed, dropped or made void, the newest first
    GET  /v1/quarantine/keys                        the keys that wait, by table: where the replica has older rows
    GET  /v1/quarantine/statements/SEQUENCE/ORDINAL one statement: its block's header, its row, why it is set aside
    POST /v1/quarantine/replay                      {"who", "table", "keys": [["k1"]], "apply": true}: try again what is
                                                    asked for, all without "table"; a dry run without "apply"
    POST /v1/quarantine/drop                        {"sequence", "ordinal", "who", "why"}: give a statement up

Guarantee: all of it asks for the token if there is one; a POST is a bounded JSON object and answers only when what it
did is durable. A replay runs between two steps of the replay loop, also while that is halted.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import trio
from starlette.requests import Request
from starlette.routing import Route

from replicator.errors import Rejected
from replicator.format.position import MAX_SEQUENCE
from replicator.format.statement import DELETE, TRUNCATE, unpack_statements
from replicator.pipeline.replay import quarantine_replay
from replicator.pipeline.replay.blocked_keys import UNREADABLE
from replicator.pipeline.replay.loop import ReplayLoop
from replicator.pipeline.replay.row_translation import shown
from replicator.pipeline.replicas.base import Reader
from replicator.pipeline.replicas.quarantine import QuarantineClosing, QuarantinedStatement, QuarantineTable
from replicator.storage.journal.reading import JournalReader
from replicator.transport.body import Fields, json_fields
from replicator.transport.replica_routes import replica_routes

LISTED = 1000  # statements in an answer
KEYS_LIMIT = 1000  # in a request
log = logging.getLogger("replicator")


class QuarantineAdmin:
    """What an operator may ask of a replica region's quarantine, and do about it; answers are JSON fields."""

    def __init__(
        self, strand: str, replay: ReplayLoop, open_reader: Callable[[], Reader], journal: JournalReader
    ) -> None:
        self.strand = strand
        self._replay = replay
        self._open_reader = open_reader
        self._journal = journal

    async def open(self) -> Fields:
        """The statements that are open, the oldest first, with how many there are and how many keys wait."""
        statements = await self._read(lambda table: table.open(self.strand))
        keys = {(each.label, key) for each in statements for key in (each.key, each.key_before) if key is not None}
        return {
            "open": len(statements),
            "held_keys": len(keys),
            "statements": [_listed(statement) for statement in statements[:LISTED]],
        }

    async def closed(self) -> Fields:
        """The statements that were closed last, the newest first."""
        statements = await self._read(lambda table: table.closed(self.strand, LISTED))
        return {"statements": [_listed(statement) for statement in statements]}

    async def keys(self) -> Fields:
        """The keys that wait, by table."""
        by_table = await self._read(lambda table: table.keys(self.strand))
        return {"keys": {label: sorted(keys) for label, keys in by_table.items()}}

    async def statement(self, sequence: int, ordinal: int) -> Fields:
        """One statement, with its block's header and its row. Raises Rejected if it was never set aside."""
        quarantined = await self._read(lambda table: table.one(self.strand, (sequence, ordinal)))
        if quarantined is None:
            place = f"sequence {sequence}, ordinal {ordinal}"
            message = "this statement was never set aside"
            raise Rejected("not_set_aside", message, status=404, place=place, cure="see replicator quarantine CONFIG")
        block, row = await trio.to_thread.run_sync(self._from_journal, quarantined)
        return {"statement": _listed(quarantined), "block": block, **row}

    async def replay(self, wanted: quarantine_replay.GroupFilter, who: str, *, for_good: bool) -> Fields:
        """Try again what is asked for, as a dry run unless ``for_good``; gives the outcome of each group."""
        closing = QuarantineClosing("replayed", _now_us(), who, "replayed once cured") if for_good else None
        outcomes = await self._replay.between_steps(
            functools.partial(quarantine_replay.replay, wanted=wanted, closing=closing)
        )
        replayed = [outcome for outcome in outcomes if outcome.outcome == "replayed"]
        if for_good and replayed:
            count = sum(len(outcome.places) for outcome in replayed)
            log.warning("strand %s: %d statements that were set aside were replayed by %s", self.strand, count, who)
        return {"applied": for_good, "groups": [outcome._asdict() for outcome in outcomes]}

    async def drop(self, sequence: int, ordinal: int, who: str, why: str) -> Fields:
        """Give a statement up, durably."""
        closing = QuarantineClosing("dropped", _now_us(), who, why)
        work = functools.partial(quarantine_replay.drop, place=(sequence, ordinal), closing=closing)
        await self._replay.between_steps(work)
        log.warning(
            "strand %s: sequence %d, ordinal %d was dropped by %s: %s", self.strand, sequence, ordinal, who, why
        )
        return {"dropped": {"sequence": sequence, "ordinal": ordinal}}

    async def _read(self, read: Callable[[QuarantineTable], Any]) -> Any:
        def reading() -> Any:
            reader = self._open_reader()
            try:
                return read(reader.quarantine())
            finally:
                reader.close()

        return await trio.to_thread.run_sync(reading)

    def _from_journal(self, quarantined: QuarantinedStatement) -> tuple[Fields | None, Fields]:
        """The header of the statement's block, if the journal has it, and the statement's row."""
        block = self._journal.block(self.strand, quarantined.sequence)
        header = None
        if block is not None:
            header = {
                "sequence": block.header.sequence,
                "epoch": block.header.epoch,
                "txid": block.header.txid,
                "committed_at": block.header.committed_at,
                "statements": block.header.statements,
                "hash": block.hash.hex(),
            }
        (statement,) = unpack_statements(quarantined.statement)
        if statement[0] in (DELETE, TRUNCATE):
            return header, {"row": None}
        definition = self._journal.definitions(self.strand).get(quarantined.relation)
        try:
            if definition is None:
                raise ValueError("the journal does not have its table's definition")
            return header, {"row": shown(definition, statement[2])}
        except UNREADABLE as error:
            return header, {"row": None, "unreadable": str(error), "image": statement[2].hex()}


def routes(admin: QuarantineAdmin | None) -> list[Route]:
    """The routes; without an admin (on a primary) each says that nothing is replayed here."""

    async def open_(request: Request, admin: QuarantineAdmin) -> Fields:
        return await admin.open()

    async def closed(request: Request, admin: QuarantineAdmin) -> Fields:
        return await admin.closed()

    async def keys(request: Request, admin: QuarantineAdmin) -> Fields:
        return await admin.keys()

    async def statement(request: Request, admin: QuarantineAdmin) -> Fields:
        return await admin.statement(*_place(request.path_params))

    async def replay(request: Request, admin: QuarantineAdmin) -> Fields:
        fields = await json_fields(request, {"who": str}, {"table": str, "keys": list, "apply": bool})
        wanted = quarantine_replay.GroupFilter(fields.get("table"), _keys(fields.get("keys", [])))
        return await admin.replay(wanted, fields["who"], for_good=fields.get("apply", False))

    async def drop(request: Request, admin: QuarantineAdmin) -> Fields:
        fields = await json_fields(request, {"sequence": int, "ordinal": int, "who": str, "why": str})
        return await admin.drop(*_place(fields), fields["who"], fields["why"])

    answers = [
        ("GET", "/v1/quarantine", open_),
        ("GET", "/v1/quarantine/closed", closed),
        ("GET", "/v1/quarantine/keys", keys),
        ("GET", "/v1/quarantine/statements/{sequence:int}/{ordinal:int}", statement),
        ("POST", "/v1/quarantine/replay", replay),
        ("POST", "/v1/quarantine/drop", drop),
    ]
    message = "this region is the primary: it replays nothing, so nothing is set aside here"
    return replica_routes(admin, answers, message=message, strand=admin.strand if admin else None)


def _listed(statement: QuarantinedStatement) -> Fields:
    fields = statement._asdict()
    for name in ("namespace", "relation", "statement"):
        del fields[name]
    return {**fields, "table": statement.label}


def _place(fields: Mapping[str, Any]) -> tuple[int, int]:
    sequence, ordinal = fields["sequence"], fields["ordinal"]
    if not (1 <= sequence <= MAX_SEQUENCE and 0 <= ordinal <= MAX_SEQUENCE):
        message = "a statement's place is its sequence from 1 and its ordinal from 0"
        raise Rejected("bad_request", message, status=422, place="sequence, ordinal")
    return sequence, ordinal


def _keys(given: list[Any]) -> tuple[tuple[str, ...], ...]:
    """Keys as lists of texts, one text per column of the key."""
    is_key = [isinstance(key, list) and key != [] and all(isinstance(text, str) for text in key) for key in given]
    if len(given) > KEYS_LIMIT or not all(is_key):
        message = f"keys is a list of at most {KEYS_LIMIT} lists of texts"
        raise Rejected("bad_request", message, status=422, place="keys")
    return tuple(tuple(key) for key in given)


def _now_us() -> int:
    return time.time_ns() // 1000
