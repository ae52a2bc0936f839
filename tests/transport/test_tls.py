"""Why TLS fails is said in words that lead to the cure, whichever side made the mistake."""

from __future__ import annotations

import pytest
import trio

from replicator.errors import Unavailable
from replicator.transport.client import Bounds, Client
from replicator.transport.endpoint import Endpoint
from replicator.transport.server import Listen, application, serve
from tests.etcd import TLS
from tests.servers import free_port

CA = TLS / "ca.pem"


@pytest.mark.parametrize(
    ("served_with", "scheme", "ca", "message", "cure"),
    [
        ("server", "https", TLS / "other.pem", "certificate is not trusted: ", "authority"),
        (None, "https", CA, "TLS cannot be agreed upon: [SSL", "http://"),
        ("server", "http", None, "does not answer as HTTP should: ", "https://"),
    ],
)
async def test_a_failure_of_tls_has_its_cause_and_cure(
    served_with: str | None, scheme: str, ca: object, message: str, cure: str
) -> None:
    files = (TLS / f"{served_with}.pem", TLS / f"{served_with}.key") if served_with else (None, None)
    port = free_port()
    endpoint = Endpoint("", f"{scheme}://127.0.0.1:{port}", None, ca)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, application([], None), Listen("127.0.0.1", port, *files), trio.sleep_forever)
        async with Client(endpoint, Bounds(5.0, 1000)) as client:
            with pytest.raises(Unavailable) as caught:
                await client.ask("GET", "/")
        nursery.cancel_scope.cancel()
    assert message in caught.value.message
    assert caught.value.message.split(": ", 1)[1].strip()
    assert cure in caught.value.cure
