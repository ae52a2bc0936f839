"""Where the region listens: the address is free, its certificate is good, and it is not open to everybody unawares."""

from __future__ import annotations

import contextlib
import ipaddress
import ssl
import time
from collections.abc import Iterator

from replicator.config.finding import Finding, failed
from replicator.errors import ConfigError
from replicator.transport.server import Listen, check_address

SOON_SECONDS = 30 * 86_400.0


def check_listener(listen: Listen, *, running: bool = False, host: str | None = None) -> Iterator[Finding]:
    """Address, TLS and who may come in. ``running``: a sidecar runs on the region's directory, and listens already.
    ``host`` is the name under which other regions ask it over TLS."""
    try:
        check_address(listen)
        yield Finding("ok", f"[http] listen = {listen.address} is free")
    except ConfigError as error:
        if running and error.reason == "cannot_listen":
            yield Finding(
                "ok", f"[http] listen = {listen.address} is taken, and a sidecar runs on this region's data_dir"
            )
        else:
            yield failed(error)
    if listen.certificate_file is not None:
        yield from _check_certificate(listen, host)
    if is_local(listen.host):
        return
    if listen.token is None:
        what = f"[http] listen = {listen.address}: whoever reaches it may read the ledger, and write where it is"
        yield Finding("warn", what, "set [http] token, or listen on 127.0.0.1 behind a proxy that asks who comes")
    elif listen.certificate_file is None:
        what = f"[http] listen = {listen.address}: rows and token travel without encryption"
        yield Finding("warn", what, "set [http] certificate and key, or leave TLS to a proxy")


def is_local(host: str) -> bool:
    """Whether only this machine reaches the host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_certificate(listen: Listen, host: str | None) -> Iterator[Finding]:
    place = f"[http] certificate = {listen.certificate_file}, key = {listen.key_file}"
    assert listen.certificate_file is not None
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # An encrypted key would ask for its password at the terminal; the server has none to give, either.
        server.load_cert_chain(listen.certificate_file, listen.key_file, password=lambda: b"")
    except (OSError, ssl.SSLError) as error:
        cure = "name PEM files that belong together, readable by the sidecar's user, the key without a password"
        yield Finding("fail", f"{place}: {_reason(error)}", cure)
        return
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # its own issuer is not asked: only its dates and its form
    client.load_verify_locations(listen.certificate_file)
    try:
        until = _shake_hands(server, client)
    except ssl.SSLError as error:
        yield Finding("fail", f"{place}: clients refuse it: {_reason(error)}", "renew the certificate")
        return
    if ssl.cert_time_to_seconds(until) - time.time() < SOON_SECONDS:
        yield Finding("warn", f"{place}: valid until {until}", "renew the certificate, and start the sidecar again")
    else:
        yield Finding("ok", f"{place} belong together, valid until {until}")
    if host is None:
        return
    client.check_hostname = True
    try:
        _shake_hands(server, client, host)
    except ssl.SSLError as error:
        cure = f"a certificate for {host}, or in [cluster] regions a name that it is for"
        yield Finding("fail", f"{place}: the other regions refuse it: {_reason(error)}", cure)


def _shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, host: str | None = None) -> str:
    """A handshake in memory; until when the client takes the certificate. ``host`` is whom it means to speak with.
    Raises SSLError."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    caller = client.wrap_bio(to_client, to_server, server_hostname=host)
    listener = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(10):  # more rounds than any version of TLS takes
        with contextlib.suppress(ssl.SSLWantReadError):  # the other side's turn
            caller.do_handshake()
            certificate = caller.getpeercert()
            assert certificate is not None, "the client asked for one"
            return str(certificate["notAfter"])
        with contextlib.suppress(ssl.SSLWantReadError):
            listener.do_handshake()
    raise ssl.SSLError("the handshake does not come to its end")


def _reason(error: Exception) -> str:
    """What OpenSSL says, without its own line numbers."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError):
        return (error.reason or "not PEM, or not a certificate and a key").lower().replace("_", " ")
    return getattr(error, "strerror", None) or str(error)
