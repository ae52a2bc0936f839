"""One member of the cluster, asked through the JSON gateway that etcd has beside gRPC.

    https://etcd.io/docs/v3.5/dev-guide/api_grpc_gateway/

Guarantee: what comes back is an answer of etcd's form and of bounded size, from the cluster that was heard first; or a
named error: Unavailable for what can get better, Halted for credentials and rights, ``EtcdRefusal`` for what the caller
has to tell apart. No secret is in a message. How long it takes is the caller's part: nothing here ends by itself.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from typing import Any

import httpx

from replicator.cluster.leases.etcd.answers import ResponseHeader, read_header
from replicator.cluster.leases.etcd.options import EtcdOptions, tls_context
from replicator.errors import Halted, Rejected, ReplicatorError, Unavailable
from replicator.transport.answer import distrust, read_json
from replicator.transport.client import read_bounded

ANSWER_LIMIT_BYTES = 64 * 1024
IDLE_CONNECTION_SECONDS = 120.0  # longer than the pause between renewals: they find the connection open
INVALID_ARGUMENT, NOT_FOUND, PERMISSION_DENIED, FAILED_PRECONDITION, UNAUTHENTICATED = 3, 5, 7, 9, 16  # codes of gRPC
RESOURCE_EXHAUSTED = 8
_DECIDED = {INVALID_ARGUMENT, NOT_FOUND, PERMISSION_DENIED, FAILED_PRECONDITION, UNAUTHENTICATED}
_NEEDS_TOKEN = ("invalid auth token", "revision of auth store is old", "user name is empty")


class EtcdRefusal(Rejected):
    """etcd has decided against a request; ``code`` is gRPC's."""

    def __init__(self, code: int, message: str, place: str) -> None:
        super().__init__("lease_store_refused", message, place=place, cure="use etcd 3.4 or newer")
        self.code = code

    @property
    def needs_token(self) -> bool:
        """Whether it was refused for want of a token that is known there."""
        return any(text in self.message for text in _NEEDS_TOKEN)


class EtcdCluster:
    """What the members have in common: the connections, and which cluster it is."""

    def __init__(self, options: EtcdOptions) -> None:
        self.options = options
        self._http: httpx.AsyncClient | None = None
        self._id: int | None = None

    @property
    def http(self) -> httpx.AsyncClient:
        """The client, made with the first question. Raises Halted if the files of TLS cannot be used."""
        if self._http is None:
            # Without an https endpoint nobody's certificate is looked at: then there is nothing to load.
            has_tls = any(endpoint.startswith("https:") for endpoint in self.options.endpoints)
            self._http = httpx.AsyncClient(
                verify=tls_context(self.options) if has_tls else False,
                trust_env=False,
                timeout=None,  # the caller's budget bounds each question, over all members
                limits=httpx.Limits(keepalive_expiry=IDLE_CONNECTION_SECONDS),
                headers={"Accept-Encoding": "identity"},  # what comes is what is bounded: nothing unpacks
            )
        return self._http

    async def aclose(self) -> None:
        """Close the connections."""
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    def check(self, header: ResponseHeader, place: str) -> None:
        """Two clusters would each give the lease away: only the one that answered first is heard."""
        if self._id is None:
            self._id = header.cluster_id
        if header.cluster_id != self._id:
            message = f"it is of the cluster {header.cluster_id:x}, the lease is kept in {self._id:x}"
            cure = "name the members of one cluster in [lease] endpoints; restart the sidecar if it was made anew"
            raise Unavailable("lease_store_other_cluster", message, place=place, cure=cure)


class EtcdMember:
    """One endpoint, and the token that it knows us by."""

    def __init__(self, cluster: EtcdCluster, endpoint: str) -> None:
        self.endpoint = endpoint
        self._cluster = cluster
        self._token: str | None = None

    async def call(self, path: str, fields: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request. Raises Unavailable, Halted or EtcdRefusal."""
        has_user = self._cluster.options.user is not None
        try:
            if has_user and self._token is None:
                await self._authenticate()
            try:
                return await self._post(path, fields)
            except EtcdRefusal as refusal:
                if not (refusal.needs_token and has_user):
                    raise
            await self._authenticate()  # tokens end, and go with a member's restart
            return await self._post(path, fields)
        except EtcdRefusal as refusal:
            raise _translated_refusal(refusal, self._cluster.options.prefix) from refusal

    async def _authenticate(self) -> None:
        options = self._cluster.options
        self._token = None
        try:
            answer = await self._post("/v3/auth/authenticate", {"name": options.user, "password": options.password})
        except EtcdRefusal as refusal:
            if refusal.code == FAILED_PRECONDITION:  # auth is not enabled: it asks nobody. If that changes, it says so
                self._token = ""
                return
            cure = "correct [lease] user and password"
            raise Halted("lease_store_unauthorised", refusal.message, place=self.endpoint, cure=cure) from refusal
        with garbled(self.endpoint):
            self._token = str(answer["token"])

    async def _post(self, path: str, fields: dict[str, Any]) -> dict[str, Any]:
        headers = {"Authorization": self._token} if self._token else {}
        with self._translated():
            request = self._cluster.http.stream("POST", self.endpoint + path, json=fields, headers=headers)
            async with request as response:
                content = await read_bounded(response, ANSWER_LIMIT_BYTES)
        with garbled(self.endpoint):
            answer = _read_json(content)
            if response.status_code != 200 or "error" in answer:
                raise self._refusal(answer)
            # Keepalive is a stream in gRPC: the gateway wraps what it says in ``result``.
            self._cluster.check(read_header(answer.get("result", answer)["header"]), self.endpoint)
            return answer

    def _refusal(self, answer: dict[str, Any]) -> ReplicatorError:
        """gRPC's code and message: at the top, or in the ``error`` of a stream."""
        fields = answer["error"] if isinstance(answer.get("error"), dict) else answer
        code = int(fields["code"] if "code" in fields else fields["grpc_code"])
        message = str(fields["message"])[:500]
        if code in _DECIDED:
            return EtcdRefusal(code, message, self.endpoint)
        if code == RESOURCE_EXHAUSTED:
            cure = "make room in etcd: etcdctl compact, etcdctl defrag, then etcdctl alarm disarm; or raise its quota"
            return Unavailable(
                "lease_store_full", f"it grants nobody a lease: {message}", place=self.endpoint, cure=cure
            )
        cure = "look at etcd's health: etcdctl endpoint status --cluster"
        if "tls: " in message:
            cure = "its gateway is a client of etcd itself: let etcd's own certificate allow client use, too"
        return Unavailable("lease_store_unavailable", message, place=self.endpoint, cure=cure)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (httpx.HTTPError, ssl.SSLError) as error:
            if (cause := distrust(error)) is not None:
                message = f"its certificate is not trusted: {cause.verify_message}"
                cure = "name the authority that signed it in [lease] ca, and the endpoint as the certificate does"
                raise Unavailable("lease_store_untrusted", message, place=self.endpoint, cure=cure) from error
            message = f"it cannot be asked: {str(error) or type(error).__name__}"
            cure = "check [lease] endpoints, the network, and that etcd runs there"
            raise Unavailable("lease_store_unreachable", message, place=self.endpoint, cure=cure) from error


def _translated_refusal(refusal: EtcdRefusal, prefix: str) -> ReplicatorError:
    """What trying again cannot cure, by name; what the caller has to tell apart stays as it is."""
    if refusal.code in (NOT_FOUND, FAILED_PRECONDITION):
        return refusal
    reason, cure = "lease_store_refused", refusal.cure
    if refusal.code == PERMISSION_DENIED:
        reason, cure = "lease_store_forbidden", f"etcdctl role grant-permission ROLE --prefix=true readwrite {prefix}/"
    elif refusal.needs_token:
        reason, cure = "lease_store_unauthorised", "set [lease] user and password, as etcd's auth asks for"
    return Halted(reason, refusal.message, place=refusal.place, cure=cure)


@contextlib.contextmanager
def garbled(place: str) -> Iterator[None]:
    """An answer of another form is not etcd's."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        message = f"this is no answer of etcd's JSON gateway: {str(error)[:200]}"
        cure = "name the client addresses of etcd 3.4 or newer, with its gRPC gateway enabled, in [lease] endpoints"
        raise Unavailable("lease_store_garbled", message, place=place, cure=cure) from error


def _read_json(content: bytes) -> dict[str, Any]:
    if len(content) > ANSWER_LIMIT_BYTES:
        raise ValueError(f"more than {ANSWER_LIMIT_BYTES} bytes")
    answer = read_json(content)
    if not isinstance(answer, dict):
        raise ValueError("an object is needed")
    return answer
