"""The lease in a real etcd that is killed, stopped, out of its quorum, picky or not an etcd at all."""

from __future__ import annotations

import base64
import dataclasses
import itertools
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from replicator.cluster.leases.base import Grant, LeaseLost, LeaseView, boot_seconds
from replicator.cluster.leases.etcd import EtcdLease, EtcdOptions
from replicator.errors import Halted, Unavailable
from tests.cluster.leases.network import answering, http, proxy
from tests.cluster.leases.waiting import patiently, vacant
from tests.etcd import TLS, Etcd, cluster, running
from tests.servers import free_port

TTL_SECONDS = 2
LONG_SECONDS = 60  # a lease that does not end within a test, and a budget of 20 s
_numbers = itertools.count(1)


@pytest.fixture
def options(etcd: Etcd) -> EtcdOptions:
    """A prefix of its own in the server that all share."""
    return EtcdOptions((etcd.url,), LONG_SECONDS, prefix=f"/faults-{next(_numbers)}")


# -- a claim whose answer was lost ------------------------------------------------------------------------------------


class EtcdWatch:
    """Somebody who looks past all proxies."""

    def __init__(self, options: EtcdOptions) -> None:
        self._lease = EtcdLease(options, "main")

    async def __aenter__(self) -> EtcdWatch:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._lease.aclose()

    async def once_held(self, event: trio.Event) -> None:
        """Set the event once somebody holds the lease."""
        while (await self._lease.look()).holder is None:  # noqa: ASYNC110  # the store gives no signal
            await trio.sleep(0.01)
        event.set()


def writes(request: bytes) -> bool:
    return b"/v3/kv/txn" in request and b'"compare"' in request


@pytest.mark.parametrize("what", ["claim", "keep_mine", "release"])
async def test_a_step_whose_answer_is_lost_is_done_and_seen(etcd: Etcd, options: EtcdOptions, what: str) -> None:
    direct = EtcdLease(options, "main")
    async with proxy(etcd.port) as network:
        lease = EtcdLease(dataclasses.replace(options, endpoints=(network.url,)), "main")
        if what != "claim":
            grant = await lease.claim("paris", 1)
        network.loses = lambda request: writes(request) or b"/v3/lease/revoke" in request
        with pytest.raises(Unavailable) as unknown:
            await (lease.claim("paris", 1) if what == "claim" else getattr(lease, what)(grant))
        assert unknown.value.reason == "lease_store_unreachable"
        assert network.lost == 1
        network.loses = lambda _: False
        view = await direct.look()
        if what == "claim":
            grant = await lease.claim("paris", 1)
            assert view == LeaseView(grant.holder, 1)
            assert await lease.renew(grant)
        elif what == "keep_mine":
            assert view.holder is not None
            assert view.holder.token != grant.token
            assert (await lease.renew(grant)).token == view.holder.token
        else:
            assert view == LeaseView(None, 1)
        await lease.aclose()
    await direct.aclose()


@pytest.mark.parametrize("loses", [writes, lambda request: b"/v3/lease/grant" in request], ids=["claim", "grant"])
async def test_where_one_way_loses_the_answer_the_next_one_finds_what_was_done(
    etcd: Etcd, options: EtcdOptions, loses: Callable[[bytes], bool]
) -> None:
    async with proxy(etcd.port) as network:
        lease = EtcdLease(dataclasses.replace(options, endpoints=(network.url, etcd.url)), "main")
        network.loses = loses
        grant = await lease.claim("paris", 1)
        assert network.lost == 1
        assert await lease.look() == LeaseView(grant.holder, 1)
        await lease.aclose()


async def test_a_claim_that_goes_two_ways_at_once_is_granted(etcd: Etcd, options: EtcdOptions) -> None:
    """Both have looked before either is written; the answer to the first is lost, the second finds it done."""
    second_looked, first_done = trio.Event(), trio.Event()

    async def wait_for_the_second_look(request: bytes) -> None:
        if writes(request):
            await second_looked.wait()

    async def wait_for_the_first_claim(request: bytes) -> None:
        if writes(request):
            second_looked.set()
            await first_done.wait()

    def loses(request: bytes) -> bool:
        return writes(request)

    async with proxy(etcd.port) as first, proxy(etcd.port) as second, EtcdWatch(options) as direct:
        ways = dataclasses.replace(options, ttl_seconds=12, endpoints=(first.url, second.url))
        first.meanwhile, first.loses, second.meanwhile = wait_for_the_second_look, loses, wait_for_the_first_claim
        lease = EtcdLease(ways, "main")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(direct.once_held, first_done)
            grant = await lease.claim("paris", 1)
        assert (first.lost, second.lost) == (1, 0)
        assert await lease.look() == LeaseView(grant.holder, 1)
        await lease.aclose()


# -- what happens between a claim's look and its transaction ----------------------------------------------------------


async def test_a_claim_that_a_whole_term_has_overtaken_is_lost(etcd: Etcd, options: EtcdOptions) -> None:
    """The lease is free again when the transaction arrives; only the epoch tells that it had been given away."""
    direct = EtcdLease(options, "main")

    asked: list[bytes] = []

    async def a_term_passes(request: bytes) -> None:
        if writes(request):
            network.meanwhile = None
            asked.extend(re.findall(rb'"lease": ?"(\d+)"', request))
            await direct.release(await direct.claim("lima", 5))

    async with proxy(etcd.port) as network:
        lease = EtcdLease(dataclasses.replace(options, endpoints=(network.url,)), "main")
        network.meanwhile = a_term_passes
        with pytest.raises(LeaseLost) as lost:
            await lease.claim("tokyo", 5)
        assert lost.value.view == LeaseView(None, 5)
        assert "expired" in etcd.ctl("lease", "timetolive", f"{int(asked[0]):x}"), "its etcd lease is left behind"
        assert (await lease.claim("tokyo", 6)).epoch == 6
        await lease.aclose()
    await direct.aclose()


async def test_a_claim_whose_etcd_lease_ended_on_the_way_is_not_done(etcd: Etcd, options: EtcdOptions) -> None:
    async def its_lease_ends(request: bytes) -> None:
        if writes(request):
            (lease_id,) = re.findall(rb'"lease": ?"(\d+)"', request)
            await trio.to_thread.run_sync(etcd.ctl, "lease", "revoke", f"{int(lease_id):x}")

    async with proxy(etcd.port) as network:
        lease = EtcdLease(dataclasses.replace(options, endpoints=(network.url,)), "main")
        network.meanwhile = its_lease_ends
        with pytest.raises(Unavailable) as slow:
            await lease.claim("paris", 1)
        assert slow.value.reason == "lease_store_slow"
        network.meanwhile = None
        assert await lease.look() == LeaseView(None, 0)
        await lease.aclose()


async def test_the_holders_time_begins_before_the_request_is_on_its_way(etcd: Etcd, options: EtcdOptions) -> None:
    arrived: list[float] = []

    async def note(_: bytes) -> None:
        arrived.append(boot_seconds())

    async with proxy(etcd.port) as network:
        network.meanwhile = note
        lease = EtcdLease(dataclasses.replace(options, endpoints=(network.url,)), "main")
        grant = await lease.claim("paris", 1)
        assert grant.asked_at < arrived[0]
        arrived.clear()
        assert (await lease.renew(grant)).asked_at < arrived[0]
        arrived.clear()
        assert (await lease.claim("paris", 1)).asked_at < arrived[0]
        await lease.aclose()


# -- the server's faults ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Etcd]]:
    """A cluster of three; each test leaves it whole."""
    with cluster(tmp_path_factory.mktemp("cluster")) as members:
        yield members


def of_all(members: list[Etcd], ttl_seconds: int = TTL_SECONDS) -> EtcdOptions:
    return EtcdOptions(tuple(member.url for member in members), ttl_seconds, prefix=f"/cluster-{next(_numbers)}")


async def test_what_was_granted_outlives_the_death_of_the_store(three: list[Etcd]) -> None:
    lease = EtcdLease(of_all(three, LONG_SECONDS), "main")
    grant = await lease.claim("paris", 7)
    for member in three:
        member.kill()
    with pytest.raises(Unavailable) as gone:
        await lease.look()
    assert gone.value.reason == "lease_store_unreachable"
    assert all(member.url in gone.value.message for member in three)
    for member in three:
        member.start(wait=False)
    for member in three:
        member.wait()
    assert await lease.look() == LeaseView(grant.holder, 7)
    assert (await lease.renew(grant)).epoch == 7
    await lease.release(grant)
    with pytest.raises(LeaseLost, match="7 was granted already"):
        await lease.claim("paris", 7)
    await lease.aclose()


async def test_without_a_quorum_nothing_is_granted_renewed_or_told(three: list[Etcd]) -> None:
    lease = EtcdLease(of_all(three), "main")
    grant = await patiently(lambda: lease.claim("paris", 1))
    for member in three[:2]:
        member.kill()
    steps: list[Callable[[], Any]] = [
        lease.look,
        lambda: lease.renew(grant),
        lambda: lease.claim("tokyo", 2, instead_of=grant.holder),
        lambda: lease.keep_mine(grant),
        lambda: lease.release(grant),
    ]
    try:
        for step in steps:
            begun = time.monotonic()
            with pytest.raises(Unavailable):
                await step()
            assert time.monotonic() - begun < TTL_SECONDS, "a holder must know before its time is over"
    finally:
        for member in three[:2]:
            member.start(wait=False)
        for member in three[:2]:
            member.wait()
    assert (await patiently(lease.look)).epoch == 1
    await lease.aclose()


async def test_one_member_that_hangs_costs_a_renewal_little_and_the_next_one_nothing(three: list[Etcd]) -> None:
    follower = next(member for member in three if not is_leader(member))
    others = [member for member in three if member is not follower]
    lease = EtcdLease(of_all([follower, *others], ttl_seconds=12), "main")
    share_seconds = 12 / 3 / 6
    grant = await lease.claim("paris", 1)
    follower.freeze()
    try:
        begun = time.monotonic()
        grant = await lease.renew(grant)
        first_seconds = time.monotonic() - begun
        begun = time.monotonic()
        await lease.renew(grant)
        assert share_seconds <= first_seconds < 12 / 3
        assert time.monotonic() - begun < share_seconds
    finally:
        follower.thaw()
    await lease.release(grant)
    await lease.aclose()


def is_leader(member: Etcd) -> bool:
    (status,) = json.loads(member.ctl("endpoint", "status", "--write-out=json"))
    return bool(status["Status"]["leader"] == status["Status"]["header"]["member_id"])


async def test_a_deposed_leader_of_etcd_renews_nothing(three: list[Etcd]) -> None:
    """It was stopped and does not know yet that another one leads, who lets the lease end; whatever it says first when
    it goes on, it must not be taken for a renewal."""
    stale = next(member for member in three if is_leader(member))
    others = [member for member in three if member is not stale]
    holder = EtcdLease(dataclasses.replace(of_all(three), endpoints=(stale.url,)), "main")
    watcher = EtcdLease(dataclasses.replace(holder._options, endpoints=tuple(m.url for m in others)), "main")
    grant = await patiently(lambda: holder.claim("paris", 1))
    stale.freeze()
    await vacant(watcher)  # another leader has been elected, and the lease has ended there
    successor = await patiently(lambda: watcher.claim("tokyo", 2))
    stale.thaw()
    for _ in range(20):
        try:
            await holder.renew(grant)
        except Unavailable:
            continue
        except LeaseLost:
            break
        raise AssertionError("renewed by a leader that had been deposed")
    assert (await patiently(watcher.look)).holder in (successor.holder, None)
    await holder.aclose()
    await watcher.aclose()


@pytest.mark.parametrize("name", [b"raft_term", b"member_id"])
async def test_a_renewal_by_another_leader_than_the_reads_is_none(
    etcd: Etcd, options: EtcdOptions, name: bytes
) -> None:
    """etcd's leader renews from memory, also while it does not know that it was deposed: then the read that follows is
    of a later term. The lease may end any moment, though its key is still there."""

    def of_another(answer: bytes | bytearray) -> bytes | bytearray:
        is_renewal = b'"result"' in answer
        return re.sub(rb'("%s":")(\d)' % name, rb"\g<1>9", answer) if is_renewal else answer

    async with proxy(etcd.port) as network:
        lease = EtcdLease(dataclasses.replace(options, endpoints=(network.url,)), "main")
        grant = await lease.claim("paris", 1)
        network.alters = of_another
        with pytest.raises(Unavailable) as unsettled:
            await lease.renew(grant)
        assert unsettled.value.reason == "lease_store_unsettled"
        network.alters = lambda answer: answer
        assert (await lease.renew(grant)).token == grant.token
        await lease.aclose()


async def test_an_etcd_lease_that_is_gone_proves_nothing_though_its_key_is_there(
    etcd: Etcd, options: EtcdOptions
) -> None:
    """A member that is behind the others can answer so."""
    async with proxy(etcd.port) as network:
        lease = EtcdLease(dataclasses.replace(options, endpoints=(network.url,)), "main")
        grant = await lease.claim("paris", 1)
        network.alters = lambda answer: answer.replace(b'"TTL"', b'"ttl"') if b'"result"' in answer else answer
        with pytest.raises(Unavailable) as unsettled:
            await lease.renew(grant)
        assert unsettled.value.reason == "lease_store_unsettled"
        await lease.aclose()


async def test_a_server_that_is_stopped_is_unavailable_in_time_and_well_again_later(tmp_path: Path) -> None:
    with running(Etcd(tmp_path / "server")) as server:
        lease = EtcdLease(EtcdOptions((server.url,), TTL_SECONDS), "main")
        grant = await patiently(lambda: lease.claim("paris", 1))
        server.freeze()
        begun = time.monotonic()
        with pytest.raises(Unavailable) as silent:
            await lease.look()
        assert silent.value.reason == "lease_store_silent"
        assert TTL_SECONDS / 3 <= time.monotonic() - begun < TTL_SECONDS
        for _ in range(100):  # requests that are given up leave nothing behind that would block the next
            with trio.move_on_after(0.005) as given_up:
                await lease.look()
            assert given_up.cancelled_caught
        server.thaw()
        assert (await patiently(lease.look)).epoch == grant.epoch
        assert server.process is not None
        assert server.process.poll() is None, "what was given up took the server down"
        await lease.aclose()


async def test_endpoints_of_two_clusters_are_not_mixed(etcd: Etcd, tmp_path: Path) -> None:
    with running(Etcd(tmp_path / "server")) as other:
        lease = EtcdLease(EtcdOptions((etcd.url, other.url), LONG_SECONDS, prefix="/two-clusters"), "main")
        await lease.claim("paris", 1)
        etcd.freeze()
        try:
            with trio.move_on_after(1) as waited, pytest.raises(Unavailable):
                await lease.look()
            assert waited.cancelled_caught, "the other cluster has answered"
        finally:
            etcd.thaw()
        await lease.aclose()


# -- who is asked, and as whom ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def picky(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    """A server with users: root, and one that may use its prefix only."""
    with running(Etcd(tmp_path_factory.mktemp("picky") / "server")) as server:
        server.ctl("user", "add", "root:secret")
        server.ctl("user", "add", "paris:sesame")
        server.ctl("role", "add", "replicator")
        server.ctl("role", "grant-permission", "replicator", "--prefix=true", "readwrite", "/mine/")
        server.ctl("user", "grant-role", "root", "root")
        server.ctl("user", "grant-role", "paris", "replicator")
        server.ctl("auth", "enable")
        yield server


def as_user(server: Etcd, user: str | None, password: str | None, prefix: str = "/mine") -> EtcdOptions:
    return EtcdOptions((server.url,), LONG_SECONDS, prefix, user, password)


async def test_a_user_with_the_right_to_its_prefix_does_everything(picky: Etcd) -> None:
    lease = EtcdLease(as_user(picky, "paris", "sesame"), "all")
    grant = await lease.keep_mine(await lease.renew(await lease.claim("paris", 1)))
    picky.kill()
    picky.start()  # it has forgotten all tokens
    grant = await lease.renew(grant)
    await lease.release(grant)
    assert await lease.look() == LeaseView(None, 1)
    await lease.aclose()


@pytest.mark.parametrize(
    ("user", "password", "prefix", "reason", "cure"),
    [
        ("paris", "SESAME-1", "/mine", "lease_store_unauthorised", "user and password"),
        ("nobody", "SESAME-1", "/mine", "lease_store_unauthorised", "user and password"),
        (None, None, "/mine", "lease_store_unauthorised", "user and password"),
        ("paris", "sesame", "/other", "lease_store_forbidden", "readwrite /other/"),
    ],
)
async def test_wrong_credentials_are_named_and_not_shown(
    picky: Etcd, user: str | None, password: str | None, prefix: str, reason: str, cure: str
) -> None:
    options = as_user(picky, user, password, prefix)
    lease = EtcdLease(options, "main")
    with pytest.raises(Halted) as refused:
        await lease.look()
    assert refused.value.reason == reason
    assert cure in refused.value.cure
    assert "SESAME" not in f"{refused.value} {options}"
    await lease.aclose()


async def test_a_user_is_no_trouble_where_nobody_is_asked(etcd: Etcd) -> None:
    lease = EtcdLease(as_user(etcd, "paris", "sesame", "/nobody-is-asked"), "main")
    assert await lease.look() == LeaseView(None, 0)
    await lease.aclose()


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    """A server that speaks TLS and asks its clients for a certificate."""
    with running(Etcd(tmp_path_factory.mktemp("sealed") / "server", tls=True)) as server:
        yield server


def over_tls(server: Etcd, ca: str | None = "ca.pem", who: str | None = "client", ttl: int = 30) -> EtcdOptions:
    own = (TLS / f"{who}.pem", TLS / f"{who}.key") if who else (None, None)
    return EtcdOptions((server.url,), ttl, "/tls", None, None, TLS / ca if ca else None, *own)


async def test_over_tls_with_a_certificate(sealed: Etcd) -> None:
    lease = EtcdLease(over_tls(sealed), "main")
    grant = await lease.claim("paris", 1)
    assert await lease.look() == LeaseView(grant.holder, 1)
    await lease.aclose()


@pytest.mark.parametrize(
    ("ca", "who", "error", "reason"),
    [
        ("other.pem", "client", Unavailable, "lease_store_untrusted"),
        (None, "client", Unavailable, "lease_store_untrusted"),
        ("ca.pem", None, Unavailable, "lease_store_unreachable"),
        ("nowhere.pem", "client", Halted, "lease_store_tls"),
        ("ca.pem", "other", Halted, "lease_store_tls"),
    ],
)
async def test_a_wrong_authority_or_certificate_is_named(
    sealed: Etcd, ca: str | None, who: str | None, error: type[Exception], reason: str
) -> None:
    lease = EtcdLease(over_tls(sealed, ca, who), "main")
    with pytest.raises(error) as refused:
        await lease.look()
    assert getattr(refused.value, "reason", "") == reason
    assert getattr(refused.value, "cure", "")
    await lease.aclose()


async def test_a_gateway_that_etcd_itself_refuses_is_named(tmp_path: Path) -> None:
    """etcd's certificate serves only; its gateway shows it to etcd as a client's."""
    with running(Etcd(tmp_path / "server", tls=True, certificate="narrow")) as server:
        lease = EtcdLease(over_tls(server), "main")
        with pytest.raises(Unavailable) as refused:
            await lease.look()
        assert refused.value.reason == "lease_store_unavailable"
        assert "allow client use" in refused.value.cure
        await lease.aclose()


# -- who is no etcd ---------------------------------------------------------------------------------------------------

HEADER = {"cluster_id": "1", "member_id": "2", "raft_term": "3", "revision": "4"}
EPOCH_KEY = base64.b64encode(b"/replicator/main/epoch").decode()


def said(**fields: Any) -> bytes:
    return http(json.dumps({"header": HEADER, **fields}).encode())


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        http(b"<html>"),
        http(b"Not Found\n", "404 Not Found"),
        http(b"{}", "502 Bad Gateway"),
        http(b"[]"),
        http(b"{}"),
        http(b"[" * 60_000),
        http(b'"' + b"x" * 100_000 + b'"'),
        http(b"\xff\xfe"),
        said(header={}),
        said(header={**HEADER, "raft_term": [1]}),
        said(kvs={}),
        said(kvs=["x"]),
        said(kvs=[{"value": "MQ=="}]),
        said(kvs=[{"key": EPOCH_KEY, "value": "!"}]),
        said(kvs=[{"key": EPOCH_KEY, "value": "MQ=="}, {"key": EPOCH_KEY, "value": "MQ=="}]),
        http(b'{"code": 9, "message": "for some reason"}', "400 Bad Request"),
        http(b'{"code": 14, "message": "no leader"}', "503 Service Unavailable"),
        http(b'{"error": {"grpc_code": 14, "message": "no leader"}}'),
        http(b'{"code": "many", "message": 1}', "400 Bad Request"),
    ],
    ids=lambda answer: answer[-30:].decode("latin-1"),
)
async def test_answers_of_another_form_are_unavailable(answer: bytes) -> None:
    async with answering(answer) as url:
        lease = EtcdLease(EtcdOptions((url,), LONG_SECONDS), "main")
        with pytest.raises(Unavailable) as refused:
            await lease.look()
        assert refused.value.reason.startswith("lease_store_")
        assert refused.value.cure
        assert len(str(refused.value)) < 1000
        await lease.aclose()


async def test_where_nobody_listens_is_named() -> None:
    lease = EtcdLease(EtcdOptions((f"http://127.0.0.1:{free_port()}",), LONG_SECONDS), "main")
    with pytest.raises(Unavailable, match="cannot be asked") as refused:
        await lease.look()
    assert refused.value.reason == "lease_store_unreachable"
    await lease.aclose()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epoch", "many"),
        ("epoch", "-1"),
        ("leader", "paris"),
        ("leader", '{"region": "paris"}'),
        ("leader", '{"region": "paris", "epoch": 1}'),  # no etcd lease, and no epoch beside it
    ],
)
async def test_keys_that_no_region_has_written_halt(etcd: Etcd, options: EtcdOptions, key: str, value: str) -> None:
    etcd.ctl("put", "--", f"{options.prefix}/main/{key}", value)
    lease = EtcdLease(options, "main")
    grant = Grant("main", "paris", 1, "1", "1", 0.0, 1.0)
    for step in (lease.look, lambda: lease.claim("tokyo", 9), lambda: lease.renew(grant)):
        with pytest.raises(Halted) as refused:
            await step()
        assert refused.value.reason == "lease_key_garbled"
        assert refused.value.place == f"{options.prefix}/main"
    await lease.aclose()


# -- what is left in the store ----------------------------------------------------------------------------------------


async def test_no_etcd_lease_is_left_behind_by_lost_claims_takeovers_and_releases(tmp_path: Path) -> None:
    with running(Etcd(tmp_path / "server")) as server:
        options = EtcdOptions((server.url,), LONG_SECONDS)
        old, new = EtcdLease(options, "main"), EtcdLease(options, "main")
        given = await old.claim("paris", 1)
        with pytest.raises(LeaseLost):
            await new.claim("tokyo", 2)
        taken = await new.claim("tokyo", 2, instead_of=given.holder)
        with pytest.raises(LeaseLost):
            await old.renew(given)
        assert server.ctl("lease", "list").split()[1] == "1"
        await new.release(taken)
        assert server.ctl("lease", "list").split()[1] == "0"
        assert server.ctl("get", "--prefix", "/replicator/").split() == ["/replicator/main/epoch", "2"]
        await old.aclose()
        await new.aclose()
