"""Where a sidecar is, what it asks for, and whose certificate is trusted there.

Guarantee: TLS is set up here and nowhere else; a file that cannot be used is a ConfigError that names the setting; no
token is in a text.
"""

from __future__ import annotations

import dataclasses
import os
import ssl
from pathlib import Path

from replicator.config import Config
from replicator.errors import ConfigError

TOKEN_VARIABLE = "REPLICATOR_TOKEN"


@dataclasses.dataclass(frozen=True, slots=True)
class Endpoint:
    """A region's sidecar, as it is spoken to.

    ``name`` is the region's, empty if it is not known; ``token`` the bearer token, if one is asked for. ``ca_file``
    holds the authorities to trust, in PEM; None: the public ones. ``is_own``: ``ca_file`` holds the very certificate of
    the server, to be trusted whatever host it is for: it is on this machine. ``is_proxied``: the proxies that the
    environment names are used. ``token_key`` and ``ca_key`` are the settings to correct if they are wrong.
    """

    name: str
    url: str
    token: str | None = dataclasses.field(default=None, repr=False)
    ca_file: Path | None = None
    token_key: str = "[http] token"
    ca_key: str = "ca ="
    is_own: bool = False
    is_proxied: bool = False

    @property
    def place(self) -> str:
        """The sidecar in an error's words."""
        return f"region {self.name} at {self.url}" if self.name else self.url

    def tls(self) -> ssl.SSLContext | bool:
        """What httpx verifies with. Raises ConfigError if ``ca_file`` cannot be used."""
        if not self.url.startswith("https:"):
            return False  # without TLS there is nothing to verify, nor to load
        if self.ca_file is None:
            return True
        try:
            return _of_one_certificate(self.ca_file) if self.is_own else tls_context(self.ca_file)
        except (OSError, ssl.SSLError) as error:
            place, reason = f"{self.ca_key} {self.ca_file}", "bad_certificate" if self.is_own else "bad_ca"
            raise ConfigError(reason, f"it cannot be read: {error}", place=place, cure="name a PEM file") from error


def tls_context(
    ca_file: Path | None, certificate_file: Path | None = None, key_file: Path | None = None
) -> ssl.SSLContext:
    """Whom we trust, and who we are if we are asked. Raises OSError or ssl.SSLError."""
    context = ssl.create_default_context(cafile=ca_file)
    if certificate_file is not None:
        # An encrypted key would ask for its password at the terminal.
        context.load_cert_chain(certificate_file, key_file, password=lambda: b"")
    return context


def _of_one_certificate(file: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # the certificate is for the name that others use; we ask our own machine
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the authority behind it is not in the file
    context.load_verify_locations(file)
    return context


def own_endpoint(config: Config) -> Endpoint:
    """The sidecar of this configuration, on this machine."""
    token = config.http.token.reveal() if config.http.token is not None else os.environ.get(TOKEN_VARIABLE)
    certificate, key = config.http.certificate, "[http] certificate ="
    return Endpoint(config.region.name, config.url, token, certificate, ca_key=key, is_own=True)
