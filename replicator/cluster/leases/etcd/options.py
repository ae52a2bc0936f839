"""How a cluster is reached, and whom its members and we take each other for."""

from __future__ import annotations

import dataclasses
import ssl
from pathlib import Path

from replicator.errors import Halted
from replicator.transport import endpoint


@dataclasses.dataclass(frozen=True, slots=True)
class EtcdOptions:
    """``prefix`` is what our keys begin with. etcd counts leases in whole seconds, and may grant more than is asked."""

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


def tls_context(options: EtcdOptions) -> ssl.SSLContext:
    """Whom we trust, and who we are. Raises Halted."""
    try:
        return endpoint.tls_context(options.ca_file, options.certificate_file, options.key_file)
    except (OSError, ssl.SSLError) as error:
        cure = "name readable PEM files that belong together, the key without a password"
        place = f"[lease] ca = {options.ca_file}, certificate = {options.certificate_file}, key = {options.key_file}"
        raise Halted("lease_store_tls", f"they cannot be used: {error}", place=place, cure=cure) from error
