"""Asking an etcd cluster, through the JSON gateway that every member has beside gRPC.

    https://etcd.io/docs/v3.5/dev-guide/api_grpc_gateway/

Guarantee: an answer is one of this cluster, of bounded size and of the form that etcd gives; or there is a named error
within the budget, however many members are down, silent or cut off. No secret is in a message.

The idea: a question goes to the member that answered last; if it fails, or is silent for a share of the budget, the
next one is asked *too*, and the first answer counts. A member that hangs costs a share once, not every time. So each
question must be one that may arrive twice.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import ssl
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import httpx
import trio

from replicator.errors import Halted, Rejected, ReplicatorError, Unavailable
from replicator.leases.etcd.answers import Header, read_header

ANSWER_LIMIT_BYTES = 64 * 1024
IDLE_CONNECTION_SECONDS = 120.0  # longer than the pause between renewals: they find the connection open
INVALID_ARGUMENT, NOT_FOUND, PERMISSION_DENIED, FAILED_PRECONDITION, UNAUTHENTICATED = 3, 5, 7, 9, 16  # codes of gRPC
_DECIDED = {INVALID_ARGUMENT, NOT_FOUND, PERMISSION_DENIED, FAILED_PRECONDITION, UNAUTHENTICATED}
_STALE_TOKEN = ("invalid auth token", "revision of auth store is old", "user name is empty")

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class EtcdOptions:
    """How to reach the cluster, and whom it shall take us for. ``prefix`` is what our keys begin with."""

    endpoints: tuple[str, ...]
    ttl_seconds: int
    prefix: str = "/replicator"
    user: str | None = None
    password: str | None = dataclasses.field(default=None, repr=False)
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None

    @property
    def budget_seconds(self) -> float:
        """How long a question may take: a renewal that fails can be tried once more before the lease ends."""
        return self.ttl_seconds / 3


class Refused(Rejected):
    """etcd has decided against a request; ``code`` is gRPC's."""

    def __init__(self, code: int, message: str, place: str) -> None:
        super().__init__("lease_store_refused", message, place=place)
        self.code = code


class Gateway:
    """All members. The connections open with the first question."""

    def __init__(self, options: EtcdOptions) -> None:
        self.options = options
        self._http: httpx.AsyncClient | None = None
        self._cluster_id: int | None = None
        self._members = [Member(self, endpoint) for endpoint in options.endpoints]

    @property
    def members(self) -> Sequence[Member]:
        """The one that answered last comes first."""
        return self._members

    @property
    def http(self) -> httpx.AsyncClient:
        """The client of all. Raises Halted if the files of TLS cannot be used."""
        if self._http is None:
            self._http = httpx.AsyncClient(
                verify=tls_context(self.options),
                trust_env=False,
                timeout=None,  # the budget of the question ends every request
                limits=httpx.Limits(keepalive_expiry=IDLE_CONNECTION_SECONDS),
                headers={"Accept-Encoding": "identity"},
            )
        return self._http

    async def aclose(self) -> None:
        """Close the connections."""
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    async def ask(self, step: Callable[[Member], Awaitable[T]]) -> T:
        """The first outcome of ``step`` that is no Unavailable, whichever member gives it. Raises what it raised, or
        Unavailable that tells of every member."""
        members = list(self._members)
        outcome = await _first(members, step, self.options.budget_seconds)
        if outcome.member is not None:
            self._members.sort(key=lambda member: member is not outcome.member)
        return cast(T, outcome.result())

    def check_cluster(self, header: Header, place: str) -> None:
        """Two clusters would each give the lease away: only the one that answered first is heard."""
        if self._cluster_id is None:
            self._cluster_id = header.cluster_id
        if header.cluster_id != self._cluster_id:
            message = f"it is of the cluster {header.cluster_id:x}, the lease is kept in {self._cluster_id:x}"
            cure = "name the members of one cluster in [lease] endpoints; restart the sidecar if it was made anew"
            raise Unavailable("lease_store_other_cluster", message, place=place, cure=cure)


class Member:
    """One endpoint, and the token that it knows us by."""

    def __init__(self, gateway: Gateway, endpoint: str) -> None:
        self.endpoint = endpoint
        self._gateway = gateway
        self._token: str | None = None

    async def call(self, path: str, fields: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request. Raises Unavailable, Halted (credentials), or Refused."""
        if self._gateway.options.user is not None and self._token is None:
            await self._authenticate()
        try:
            return await self._post(path, fields)
        except Refused as refusal:
            stale = any(text in refusal.message for text in _STALE_TOKEN)
            if not stale or self._gateway.options.user is None:
                raise self._halted(refusal) from refusal
        await self._authenticate()  # tokens end, and go with a member's restart
        try:
            return await self._post(path, fields)
        except Refused as refusal:
            raise self._halted(refusal) from refusal

    async def _authenticate(self) -> None:
        options = self._gateway.options
        self._token = None
        try:
            answer = await self._post("/v3/auth/authenticate", {"name": options.user, "password": options.password})
        except Refused as refusal:
            if "not enabled" in refusal.message:
                self._token = ""  # it asks nobody; if that changes, the answer tells
                return
            cure = "correct [lease] user and password; etcdctl user get shows who is known"
            raise Halted("lease_store_unauthorised", refusal.message, place=self.endpoint, cure=cure) from refusal
        with garbled(self.endpoint):
            self._token = str(answer["token"])

    def _halted(self, refusal: Refused) -> ReplicatorError:
        """What trying again cannot cure; what the caller has to tell apart stays as it is."""
        text = refusal.message
        if refusal.code in (NOT_FOUND, FAILED_PRECONDITION):
            return refusal
        if refusal.code == PERMISSION_DENIED:
            prefix = self._gateway.options.prefix
            cure = f"etcdctl role grant-permission ROLE --prefix=true readwrite {prefix}/"
            return Halted("lease_store_forbidden", text, place=self.endpoint, cure=cure)
        if any(stale in text for stale in _STALE_TOKEN):
            cure = "set [lease] user and password, as etcd's auth asks for"
            return Halted("lease_store_unauthorised", text, place=self.endpoint, cure=cure)
        return Halted("lease_store_refused", text, place=self.endpoint, cure="use etcd 3.4 or newer")

    async def _post(self, path: str, fields: dict[str, Any]) -> dict[str, Any]:
        headers = {"Authorization": self._token} if self._token else {}
        with self._translated():
            request = self._gateway.http.stream("POST", self.endpoint + path, json=fields, headers=headers)
            async with request as response:
                content = await _bounded(response)
        with garbled(self.endpoint):
            answer = _read_json(content)
            if response.status_code != 200 or "error" in answer:
                raise self._refusal(answer)
            header = answer.get("result", answer).get("header")
            if header is not None:
                self._gateway.check_cluster(read_header(header), self.endpoint)
            return answer

    def _refusal(self, answer: dict[str, Any]) -> ReplicatorError:
        """gRPC's code and message: at the top, or in the ``error`` of a stream."""
        fields = answer["error"] if isinstance(answer.get("error"), dict) else answer
        code = int(fields.get("code", fields.get("grpc_code", 0)))
        message = str(fields["message"])[:500]
        if code in _DECIDED:
            return Refused(code, message, self.endpoint)
        cure = "look at etcd's health: etcdctl endpoint status --cluster"
        return Unavailable("lease_store_unavailable", message, place=self.endpoint, cure=cure)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (httpx.HTTPError, ssl.SSLError) as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                message = f"its certificate is not trusted: {error}"
                cure = "name the authority that signed it in [lease] ca, and the endpoint as the certificate does"
                raise Unavailable("lease_store_untrusted", message, place=self.endpoint, cure=cure) from error
            message = f"it cannot be asked: {error or type(error).__name__}"
            cure = "check [lease] endpoints, the network and etcd"
            raise Unavailable("lease_store_unreachable", message, place=self.endpoint, cure=cure) from error


@contextlib.contextmanager
def garbled(place: str) -> Iterator[None]:
    """An answer of another form is not etcd's."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        message = f"this is no answer of etcd's JSON gateway: {str(error)[:200]}"
        cure = "name the client addresses of etcd 3.4 or newer in [lease] endpoints"
        raise Unavailable("lease_store_garbled", message, place=place, cure=cure) from error


def tls_context(options: EtcdOptions) -> ssl.SSLContext:
    """Whom we trust, and who we are. Raises Halted."""
    try:
        context = ssl.create_default_context(cafile=options.ca_file)
        if options.certificate_file is not None:
            # An encrypted key would ask for its password at the terminal.
            context.load_cert_chain(options.certificate_file, options.key_file, password=lambda: b"")
    except (OSError, ssl.SSLError) as error:
        cure = "name readable PEM files that belong together, the key without a password"
        raise Halted(
            "lease_store_tls", f"they cannot be used: {error}", place="[lease] ca, certificate", cure=cure
        ) from error
    return context


@dataclasses.dataclass(slots=True)
class _Outcome:
    """What became of a question: an answer or a decided error of ``member``, or each member's fault."""

    member: Member | None = None
    answer: Any = None
    error: ReplicatorError | None = None
    faults: dict[str, Unavailable] = dataclasses.field(default_factory=dict)

    def result(self) -> Any:
        if self.error is not None:
            raise self.error
        if self.member is not None:
            return self.answer
        faults = list(self.faults.values())
        reasons = {fault.reason for fault in faults}
        message = "; ".join(f"{fault.place}: {fault.message}" for fault in faults)
        raise Unavailable(
            reasons.pop() if len(reasons) == 1 else "lease_store_unreachable",
            message,
            place="[lease] endpoints",
            cure=faults[0].cure,
        )


async def _first(
    members: Sequence[Member], step: Callable[[Member], Awaitable[Any]], budget_seconds: float
) -> _Outcome:
    outcome = _Outcome()
    share_seconds = budget_seconds / (2 * len(members))
    for member in members:
        message = f"no answer within {budget_seconds:.2g} s"
        outcome.faults[member.endpoint] = Unavailable(
            "lease_store_silent", message, place=member.endpoint, cure="check etcd and the network to it"
        )
    with trio.move_on_after(budget_seconds):
        async with trio.open_nursery() as nursery:

            async def attempt(member: Member, failed: trio.Event) -> None:
                try:
                    outcome.answer = await step(member)
                except Unavailable as fault:
                    outcome.faults[member.endpoint] = fault
                    failed.set()
                    return
                except ReplicatorError as error:
                    outcome.error = error
                outcome.member = member
                nursery.cancel_scope.cancel()

            for member in members:
                failed = trio.Event()
                nursery.start_soon(attempt, member, failed)
                with trio.move_on_after(share_seconds):
                    await failed.wait()
    return outcome


def _read_json(content: bytes) -> dict[str, Any]:
    if len(content) > ANSWER_LIMIT_BYTES:
        raise ValueError(f"more than {ANSWER_LIMIT_BYTES} bytes")
    try:
        answer = json.loads(content)
    except RecursionError:
        raise ValueError("JSON of such depth") from None
    if not isinstance(answer, dict):
        raise ValueError("an object is needed")
    return answer


async def _bounded(response: httpx.Response) -> bytes:
    """As much of the body as a sane server sends."""
    content = b""
    async for piece in response.aiter_raw():
        content += piece
        if len(content) > ANSWER_LIMIT_BYTES:
            break
    return content
