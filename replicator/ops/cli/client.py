"""Asking a running sidecar over HTTP: where it is, and its answers as JSON.

Guarantee: whatever happens on the way is a ReplicatorError that names the address and the cure. Answers are bounded in
size and time.
"""

from __future__ import annotations

import json
import os
import ssl
import urllib.parse
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from replicator.config import Config, load
from replicator.errors import ConfigError, ReplicatorError, Unavailable

ANSWER_LIMIT_BYTES = 16_000_000
TIMEOUT_SECONDS = 5.0
TELL_SECONDS = 30.0  # what changes something is durable before it is answered
TOKEN_VARIABLE = "REPLICATOR_TOKEN"


class SidecarAddress(NamedTuple):
    """Whom to ask, and with what. ``local`` is the sidecar of a configuration that is at hand."""

    url: str
    token: str | None
    tls: ssl.SSLContext | bool
    local: bool


def sidecar(config_path: Path | None, url: str | None, ca: Path | None) -> SidecarAddress:
    """The sidecar that the command line names: by its configuration, by its address, or by both."""
    config = None if config_path is None else load(config_path)
    if config is None and url is None:
        cure = "replicator status CONFIG, or replicator status --url URL"
        raise ConfigError("nobody_to_ask", "neither CONFIG nor --url is given", cure=cure)
    token = os.environ.get(TOKEN_VARIABLE)
    if config is not None and config.http.token is not None:
        token = config.http.token.reveal()
    if url is not None:
        return SidecarAddress(_checked(url), token, _trusting(ca), local=False)
    assert config is not None
    own = own_sidecar(config)
    return own if ca is None else own._replace(tls=_trusting(ca))


def own_sidecar(config: Config) -> SidecarAddress:
    """The sidecar of this configuration, on this machine."""
    token = config.http.token.reveal() if config.http.token is not None else os.environ.get(TOKEN_VARIABLE)
    return SidecarAddress(config.url, token, _own_certificate(config), local=True)


def of_cluster(config: Config, ca: Path | None) -> dict[str, SidecarAddress]:
    """Every sidecar of the configuration's cluster, by the region's name."""
    assert config.cluster is not None
    token = config.cluster.token.reveal() if config.cluster.token else os.environ.get(TOKEN_VARIABLE)
    tls = _trusting(ca or config.cluster.ca)
    found = {name: SidecarAddress(url, token, tls, local=True) for name, url in config.cluster.regions.items()}
    return {**found, config.region.name: own_sidecar(config)}


def _checked(url: str) -> str:
    try:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return url.rstrip("/")
    except ValueError:
        pass
    raise ConfigError("bad_url", "this is no address", place=f"--url {url}", cure="write it like http://127.0.0.1:7400")


def _trusting(ca: Path | None) -> ssl.SSLContext | bool:
    if ca is None:
        return True
    try:
        return ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            "bad_ca", "the certificates cannot be read", place=f"--ca {ca}", cure="name a PEM file"
        ) from error


def _own_certificate(config: Config) -> ssl.SSLContext | bool:
    """Trust the very certificate that the configuration names, whatever host it is for: we ask our own machine."""
    if config.http.certificate is None:
        return True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(config.http.certificate)
    except (OSError, ssl.SSLError) as error:
        place = f"[http] certificate = {config.http.certificate}"
        raise ConfigError("bad_certificate", "it cannot be read", place=place, cure="name a PEM file") from error
    return context


def ask(whom: SidecarAddress, path: str) -> Any:
    """The JSON that the sidecar answers to GET ``path``. Raises Unavailable, or ReplicatorError for another answer."""
    return _exchange(whom, "GET", path, None, TIMEOUT_SECONDS)


def tell(whom: SidecarAddress, path: str, fields: dict[str, Any], seconds: float = TELL_SECONDS) -> Any:
    """The JSON that the sidecar answers to POST ``path`` with these fields; raises as ``ask`` does."""
    return _exchange(whom, "POST", path, fields, seconds)


def _exchange(whom: SidecarAddress, method: str, path: str, fields: dict[str, Any] | None, seconds: float) -> Any:
    place = whom.url + path
    headers = {"Authorization": f"Bearer {whom.token}"} if whom.token else {}
    tls = whom.tls if place.startswith("https:") else False  # without TLS there is nothing to verify, nor to load
    try:
        with (
            httpx.Client(verify=tls, timeout=seconds, trust_env=not whom.local) as client,
            client.stream(method, place, headers=headers, json=fields) as response,
        ):
            body = bytearray()
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) > ANSWER_LIMIT_BYTES:
                    raise _no_sidecar(place, f"the answer has more than {ANSWER_LIMIT_BYTES} bytes")
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        cure = "start the sidecar with replicator run, or correct the address"
        raise Unavailable("unreachable", str(error) or type(error).__name__, place=place, cure=cure) from error
    return _read(place, response.status_code, bytes(body))


def _read(place: str, status: int, body: bytes) -> Any:
    if status == 401:
        cure = f"set [http] token in CONFIG, or the environment variable {TOKEN_VARIABLE}"
        raise ReplicatorError("unauthorised", "the token is missing or wrong", place=place, cure=cure)
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _no_sidecar(place, f"HTTP {status}, and the answer is not JSON") from error
    if status not in (200, 202):
        raise _refusal(place, status, answer)
    return answer


def _refusal(place: str, status: int, answer: Any) -> ReplicatorError:
    """What the sidecar says that is wrong; anything else did not come from a sidecar."""
    fields = answer if isinstance(answer, dict) else {}
    told = [fields.get(name) for name in ("reason", "message", "place", "cure")]
    if not all(isinstance(text, str) for text in told) or fields["reason"] == "not_found":
        return _no_sidecar(place, f"HTTP {status}")
    reason, message, where, cure = map(str, told)
    return ReplicatorError(reason, message, place=f"{place}: {where}" if where else place, cure=cure)


def _no_sidecar(place: str, message: str) -> ReplicatorError:
    return ReplicatorError(
        "bad_answer", message, place=place, cure="check that the address is that of a replicator sidecar"
    )


def unreadable(place: str, error: Exception) -> ReplicatorError:
    """For an answer that is JSON, but not what was asked for."""
    return _no_sidecar(place, f"the answer is another one than expected: {type(error).__name__} {error}")
