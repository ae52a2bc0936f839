"""What every route has in common: who may ask, and how an error leaves."""

from __future__ import annotations

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from replicator.errors import Halted, NotPrimary, Rejected, ReplicatorError, Unavailable
from replicator.transport.server import application


async def answer(request: Request) -> Response:
    return PlainTextResponse("as asked")


def client_of(
    token: str | None, public: frozenset[str] = frozenset(), error: Exception | None = None
) -> httpx.AsyncClient:
    async def fail(request: Request) -> Response:
        assert error is not None
        raise error

    app = application([Route("/open", answer), Route("/closed", answer), Route("/fails", fail)], token, public)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://region")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([], 401),
        ([("Authorization", "Bearer wrong")], 401),
        ([("Authorization", "secret")], 401),
        ([("Authorization", "Bearer secret")], 200),
        ([("Authorization", "Bearer secret"), ("Authorization", "Bearer wrong")], 401),
    ],
)
async def test_only_public_paths_are_open_to_whoever_has_no_token(headers: list[tuple[str, str]], status: int) -> None:
    async with client_of("secret", frozenset({"/open"})) as client:
        assert (await client.get("/open", headers=headers)).status_code == 200
        assert (await client.get("/closed", headers=headers)).status_code == status
        # Whoever may not ask is not told which paths there are.
        assert (await client.get("/missing", headers=headers)).status_code == (404 if status == 200 else 401)


async def test_without_a_token_every_path_is_open() -> None:
    async with client_of(None) as client:
        assert (await client.get("/closed")).text == "as asked"


@pytest.mark.parametrize(
    ("error", "status", "headers"),
    [
        (Rejected("bad", "it cannot be done", status=422), 422, {}),
        (NotPrimary("it follows", "http://tokyo"), 409, {"primary": "http://tokyo"}),
        (Unavailable("slow", "not now"), 503, {"retry-after": "1"}),
        (Halted("broken", "a person has to look"), 503, {}),
        (ReplicatorError("other", "something else"), 500, {}),
        (RuntimeError("our own fault"), 500, {}),
    ],
)
async def test_an_error_leaves_as_json_with_its_status(error: Exception, status: int, headers: dict[str, str]) -> None:
    async with client_of(None, error=error) as client:
        response = await client.get("/fails")
    assert response.status_code == status
    assert headers.items() <= dict(response.headers).items()
    assert response.json()["reason"] == getattr(error, "reason", "internal")
    assert "our own fault" not in response.text
