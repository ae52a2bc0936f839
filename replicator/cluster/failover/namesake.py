"""Whether a sidecar of this region's name runs already, in a cluster.

The lease is given by name: two regions of one name could both believe that they lead. Before a region listens, nobody
answers at its own address in ``[cluster] regions``, unless another one has that name and that address: a copy of its
machine, say. Guarantee: bounded, and a region that cannot be asked keeps nobody from starting. Not found: one that is
started at the same moment, or that this region's configuration gives another address.
"""

from __future__ import annotations

import contextlib

from replicator.cluster.failover.peers import ANSWER_LIMIT_BYTES, ANSWER_SECONDS, CONNECT_SECONDS, REASONS
from replicator.cluster.failover.wire import report_from
from replicator.config import Config
from replicator.errors import ConfigError, ReplicatorError
from replicator.format.wire import NAME_TAKEN
from replicator.transport.client import Bounds, Client
from replicator.transport.endpoint import Endpoint


async def refuse_namesake(config: Config) -> None:
    """Raise ConfigError if a region of this name answers at this region's address; nobody listens there yet."""
    name = config.region.name
    if config.cluster is None or (url := config.cluster.regions.get(name)) is None:
        return
    token = config.cluster.token.reveal() if config.cluster.token else None
    endpoint = Endpoint(name, url, token, config.cluster.ca, "[cluster] token", "[cluster] ca =")
    client = Client(endpoint, Bounds(ANSWER_SECONDS, ANSWER_LIMIT_BYTES), REASONS, connect_seconds=CONNECT_SECONDS)
    answering = None
    try:
        with contextlib.suppress(ReplicatorError, ValueError):  # nobody, or no sidecar of a cluster
            answering = report_from((await client.json("GET", "/v1/failover")).get("report")).region
    finally:
        await client.aclose()
    if answering == name:
        raise ConfigError(
            NAME_TAKEN,
            f"another sidecar runs as region {name} of this cluster",
            place=f"[cluster] regions: {name} = {url}",
            cure="stop that one, or give each a name and an address of its own: [region] name, [cluster] regions",
        )
