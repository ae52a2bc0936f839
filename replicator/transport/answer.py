"""What an answer means: the same for everybody who asks.

    2xx        what was asked for
    401, 403   Halted: the token is missing or wrong, which needs a person
    429, 5xx   Unavailable: it can get better
    others     Rejected, with the answer's status; redirects, too: nobody is followed to another address with a token

Guarantee: a sidecar's own reason, message and cure are kept; a good answer that says that it is of another type, or is
packed, or cannot be read is Corrupt, whatever it holds. Pure.
"""

from __future__ import annotations

import json
import math
import re
import ssl
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

import httpx
import trio

from replicator.errors import Corrupt, Halted, Rejected, ReplicatorError, Unavailable
from replicator.transport.endpoint import Endpoint

JSON = "application/json"
FOREIGN_CURE = "check the address: is it that of a replicator sidecar, of this version?"
DIGITS_LIMIT = 300  # what has more is no number that could be calculated with
FOREIGN = "refused"  # the reason of a refusal that is not a sidecar's own
TEXT_LIMIT_CHARACTERS = 2_000

_TOLD = ("reason", "message", "place", "cure")
_SLUG = re.compile(r"[a-z][a-z0-9_]{0,63}")


class Answer(NamedTuple):
    """A whole answer, its content as it came."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def is_good(self) -> bool:
        """Whether it is what was asked for."""
        return is_good(self.status)


class ExchangeReasons(NamedTuple):
    """What the faults of a connection are called: nobody is there, nothing is heard in time, the token is wrong."""

    unreachable: str = "unreachable"
    silent: str = "unreachable"
    unauthorised: str = "unauthorised"


def is_good(status: int) -> bool:
    """Whether a status announces what was asked for."""
    return 200 <= status < 300


def read_json(content: bytes) -> Any:
    """The value. Raises ValueError for what is no JSON, is nested too deep, or has numbers that are none."""
    try:
        return json.loads(content, parse_constant=_refuse_number, parse_float=_float, parse_int=_int)
    except RecursionError as error:
        raise ValueError("JSON of such depth") from error


def _float(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse_number(text)


def _int(text: str) -> int:
    return int(text) if len(text) <= DIGITS_LIMIT else _refuse_number(text)


def _refuse_number(text: str) -> NoReturn:
    raise ValueError(f"{text[:40]} is no number")


def read_object(answer: Answer, place: str) -> dict[str, Any]:
    """The JSON object of a good answer. Raises Corrupt."""
    value = read_value(answer, place)
    if not isinstance(value, dict):
        raise bad_answer(place, "an object is needed")
    return value


def read_value(answer: Answer, place: str) -> Any:
    """The JSON value of a good answer. Raises Corrupt."""
    check_type(answer.headers, JSON, place)
    try:
        return read_json(answer.content)
    except ValueError as error:
        raise bad_answer(place, f"it is not JSON: {str(error)[:200]}") from error


def check_type(headers: Mapping[str, str], media_type: str, place: str) -> None:
    """Raise Corrupt if an answer says that it is of another type; one that does not say so is read."""
    said = headers.get("Content-Type", media_type).partition(";")[0].strip().lower()
    if said != media_type:
        raise bad_answer(place, f"it is {said[:100]!r}, not {media_type}")


def check_plain(headers: Mapping[str, str], place: str) -> None:
    """Raise Corrupt if the content is packed: nobody asked for that, and few bytes could become gigabytes."""
    said = headers.get("Content-Encoding", "identity").strip().lower()
    if said not in ("", "identity"):
        raise bad_answer(place, f"it is packed ({said[:40]!r})")


def bad_answer(place: str, what: str) -> Corrupt:
    """The error for an answer that is not what was asked for."""
    return Corrupt("bad_answer", f"the answer cannot be read: {what}", place=place, cure=FOREIGN_CURE)


def connection_fault(error: Exception, endpoint: Endpoint, reasons: ExchangeReasons) -> Unavailable:
    """The error for an exchange that failed on the way, or was not over in time."""
    if isinstance(error, httpx.TimeoutException | trio.TooSlowError):
        message = f"no answer, or not all of it, came in time ({type(error).__name__})"
        cure = "start the sidecar there, or see in its log what it waits for"
        return Unavailable(reasons.silent, message, place=endpoint.place, cure=cure)
    if (cause := distrust(error)) is not None:
        message = f"its certificate is not trusted: {cause}"
        cure = f"name the authority that signed it in {endpoint.ca_key.rstrip(' =')}, and the address as it does"
        return Unavailable(reasons.unreachable, message, place=endpoint.place, cure=cure)
    if (fault := tls_fault(error)) is not None:
        message = f"TLS cannot be agreed upon: {fault}"
        cure = "let the address begin as that port is served, http:// or https://; see what its certificate asks for"
        return Unavailable(reasons.unreachable, message, place=endpoint.place, cure=cure)
    if isinstance(error, httpx.RemoteProtocolError) and endpoint.url.startswith("http:"):
        message = f"it does not answer as HTTP should: {error}"
        cure = "if that port is served with a certificate, write https:// in the address; else see what stands between"
        return Unavailable(reasons.unreachable, message, place=endpoint.place, cure=cure)
    message = f"it cannot be reached: {_first_words(error)}"
    cure = "start the sidecar there, or correct the address; see that nothing between blocks the way"
    return Unavailable(reasons.unreachable, message, place=endpoint.place, cure=cure)


def distrust(error: BaseException | None) -> ssl.SSLCertVerificationError | None:
    """The reason behind a failed connection, if it is the other side's certificate."""
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return error


def tls_fault(error: BaseException | None) -> ssl.SSLError | None:
    """The reason behind a failed connection, if it is TLS itself."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return error


def _first_words(error: BaseException) -> str:
    """What an error, or else what it comes from, says; a library's own often says nothing."""
    cause: BaseException | None = error
    while cause is not None and not str(cause):
        cause = cause.__cause__ or cause.__context__
    return str(cause) if cause is not None else type(error).__name__


def refusal(answer: Answer, endpoint: Endpoint, reasons: ExchangeReasons) -> ReplicatorError:
    """The error that an answer stands for which is not good."""
    place = endpoint.place
    if answer.status in (401, 403):
        message = "it refuses the token" if endpoint.token else "it refuses the token, for none is set"
        cure = f"set {endpoint.token_key} to the [http] token of that region"
        return Halted(reasons.unauthorised, message, place=place, cure=cure)
    told = _refusal_fields(answer)
    place = f"{place}: {told['place']}" if told["place"] else place
    reason, message, cure = told["reason"], told["message"], told["cure"]
    if answer.status >= 500 or answer.status == 429:
        return Unavailable(reason, message, place=place, cure=cure or "see that region's log")
    return Rejected(reason, message, status=answer.status, place=place, cure=cure or FOREIGN_CURE)


def _refusal_fields(answer: Answer) -> dict[str, str]:
    """What a sidecar says; a refusal of another form did not come from one."""
    try:
        fields = read_json(answer.content)
        told = {name: str(fields.get(name) or "")[:TEXT_LIMIT_CHARACTERS] for name in _TOLD}
        if _SLUG.fullmatch(told["reason"]) and told["message"]:
            return told
    except (ValueError, AttributeError):
        pass
    return {"reason": FOREIGN, "message": f"HTTP {answer.status}, and no sidecar's reason", "place": "", "cure": ""}
