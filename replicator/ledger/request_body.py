"""What an HTTP request asks for: its path, its parameters, its body. Everything in it is hostile.

Guarantee: a path's segments are what the client encoded (``%2F`` is a slash within a key, not a separator); a parameter
that is unknown, doubled or malformed is refused by name; a body is refused as soon as it grows beyond its limit,
whatever its Content-Length says, and when it does not arrive in time or whole.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from urllib.parse import unquote_to_bytes

import trio
from starlette.requests import ClientDisconnect, Request

from replicator.errors import Rejected
from replicator.format.position import MAX_SEQUENCE, parse_position
from replicator.ledger.reads import PAGE_LIMIT, Freshness

PREFIX = "/v1"
BODY_SECONDS = 60
SMALL_BODY_BYTES = 1 << 20
DRAIN_BYTES = 64_000_000
DRAIN_SECONDS = 5
LARGE_BODIES = 4  # as many may be arriving at once
TIMEOUT_DEFAULT_SECONDS = 2.0
TIMEOUT_LIMIT_SECONDS = 30.0
PAGE_DEFAULT = 100
SEGMENTS_LIMIT = 64

_DURATION = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)(ms|s)", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,19}", re.ASCII)


def segments(request: Request) -> list[str]:
    """The path's segments behind ``/v1``, decoded. Raises Rejected if one is not UTF-8."""
    # Starlette's own path is decoded already: a slash within a key could not be told from one between segments.
    raw: bytes = request.scope["raw_path"].split(b"?", 1)[0]
    parts = raw.split(b"/")
    if len(parts) > SEGMENTS_LIMIT:
        raise Rejected("bad_path", "the path has too many segments", place="path")
    try:
        return [unquote_to_bytes(part).decode() for part in parts[2:]]
    except UnicodeDecodeError as error:
        message = "the path is not UTF-8 behind its percent signs"
        raise Rejected("bad_path", message, place="path", cure="encode UTF-8 bytes as %XX") from error


def parameters(request: Request, known: Sequence[str]) -> Mapping[str, str]:
    """The query's parameters, each at most once. Raises Rejected."""
    values: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in known:
            message = f"the parameter {name[:80]!r} is not known here"
            raise Rejected("unknown_parameter", message, place="query", cure=f"known are {', '.join(known)}")
        if name in values:
            raise Rejected("bad_parameter", "it stands twice", place=name)
        values[name] = value
    return values


def after_of(query: Mapping[str, str]) -> Freshness | None:
    """``after`` and ``timeout``. Raises Rejected."""
    timeout = _seconds(query["timeout"]) if "timeout" in query else TIMEOUT_DEFAULT_SECONDS
    if "after" not in query:
        return None
    try:
        return Freshness(parse_position(query["after"]), timeout)
    except ValueError as error:
        raise Rejected("bad_parameter", str(error), place="after") from error


def _seconds(text: str) -> float:
    match = _DURATION.fullmatch(text)
    seconds = float(match[1]) * {"ms": 0.001, "s": 1.0}[match[2]] if match else -1.0
    if not 0 <= seconds <= TIMEOUT_LIMIT_SECONDS:
        message = f"{text[:40]!r} is not a timeout of at most {TIMEOUT_LIMIT_SECONDS:g}s"
        raise Rejected("bad_parameter", message, place="timeout", cure="write 500ms or 2s")
    return seconds


def limit_of(query: Mapping[str, str]) -> int:
    """``limit``. Raises Rejected."""
    text = query.get("limit", str(PAGE_DEFAULT))
    if not _NUMBER.fullmatch(text) or not 1 <= int(text) <= PAGE_LIMIT:
        raise Rejected("bad_parameter", f"a page has 1 to {PAGE_LIMIT} entries", place="limit")
    return int(text)


def moment_of(text: str) -> int | datetime.datetime:
    """A sequence, or an RFC 3339 time. Raises Rejected."""
    if _NUMBER.fullmatch(text) and int(text) < MAX_SEQUENCE:
        return int(text)
    try:
        moment = datetime.datetime.fromisoformat(text.replace(" ", "+"))  # an unescaped "+" arrives as a space
        if moment.tzinfo is None:
            raise ValueError("no offset from UTC")
        return moment.astimezone(datetime.UTC)
    except (ValueError, OverflowError) as error:
        message = f"{text[:64]!r} is neither a sequence nor a time: {error}"
        raise Rejected("bad_parameter", message, place="as_of", cure="write 17 or 2026-01-31T12:00:00Z") from error


def change_cursor_of(query: Mapping[str, str]) -> tuple[int, int] | None:
    """The cursor of a page of changes: ``sequence.ordinal``. Raises Rejected."""
    if "cursor" not in query:
        return None
    parts = query["cursor"].split(".")
    if len(parts) != 2 or not all(_NUMBER.fullmatch(part) and int(part) <= MAX_SEQUENCE for part in parts):
        raise _bad_cursor()
    return int(parts[0]), int(parts[1])


def number_cursor_of(query: Mapping[str, str]) -> int:
    """The cursor of a page of numbered entries: how many came before. Raises Rejected."""
    text = query.get("cursor", "0")
    if not _NUMBER.fullmatch(text) or int(text) > MAX_SEQUENCE:
        raise _bad_cursor()
    return int(text)


def key_cursor(key: Sequence[str]) -> str:
    """The cursor behind a key."""
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode().rstrip("=")


def key_cursor_of(query: Mapping[str, str]) -> list[str] | None:
    """The key that a cursor stands behind. Raises Rejected."""
    if "cursor" not in query:
        return None
    text = query["cursor"]
    try:
        key = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, binascii.Error, RecursionError) as error:
        raise _bad_cursor() from error
    if not isinstance(key, list) or not all(isinstance(part, str) for part in key):
        raise _bad_cursor()
    return key


def _bad_cursor() -> Rejected:
    message = "this is not a cursor of this list"
    return Rejected("bad_parameter", message, place="cursor", cure="send the answer's next as it is, or nothing")


class RequestBodies:
    """Reads request bodies; only so many large ones at once, since each is held in memory."""

    def __init__(self) -> None:
        self._large = 0

    async def read(self, request: Request, limit_bytes: int) -> bytes:
        """The whole body. Raises Rejected: too large, too slow, not whole, encoded, or too many at once."""
        if request.headers.get("content-encoding", "identity") != "identity":
            message = "a body is taken as it is, not compressed"
            raise Rejected("encoded_body", message, status=415, place="Content-Encoding")
        try:
            with trio.fail_after(BODY_SECONDS):
                return await self._read(request.stream(), limit_bytes)
        except trio.TooSlowError as error:
            message = f"the body did not arrive within {BODY_SECONDS} s"
            raise Rejected("too_slow", message, status=408, place="body") from error
        except ClientDisconnect as error:
            raise Rejected("cut_off", "the body ended early", place="body") from error

    async def _read(self, stream: AsyncIterator[bytes], limit_bytes: int) -> bytes:
        is_large = False
        pieces: list[bytes] = []
        size = 0
        try:
            async for piece in stream:
                pieces.append(piece)
                size += len(piece)
                if size > limit_bytes:
                    pieces.clear()  # before draining: what is too large must not be held while more of it comes
                    await _drain(stream)
                    raise _too_large(limit_bytes)
                if size > SMALL_BODY_BYTES and not is_large:
                    is_large = self._begin_large()
        finally:
            self._large -= is_large
        return b"".join(pieces)

    def _begin_large(self) -> bool:
        if self._large >= LARGE_BODIES:
            message = f"{LARGE_BODIES} large requests are arriving already"
            raise Rejected("busy", message, status=503, retry_after=1, cure="send it again a little later")
        self._large += 1
        return True


async def _drain(stream: AsyncIterator[bytes]) -> None:
    """Throw away some of what follows: most clients read an answer only when they have sent all they had."""
    size = 0
    with trio.move_on_after(DRAIN_SECONDS):
        async for piece in stream:
            size += len(piece)
            if size > DRAIN_BYTES:
                return


def _too_large(limit_bytes: int) -> Rejected:
    message = f"the body is larger than {limit_bytes:,} bytes, the limit of requests"
    cure = "send several transactions, or raise the limit of requests in the configuration"
    return Rejected("request_too_large", message, status=413, place="body", cure=cure)
