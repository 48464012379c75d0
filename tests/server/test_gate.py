"""Keys on every route but health and the page; without a key, only this machine's own names."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from framework.server.gate import is_loopback

KEY = "a-key-that-is-long"


@pytest.fixture(scope="module")
def locked(serving: Callable[..., Any]) -> Iterator[Any]:
    with serving(api_key=KEY) as running:
        yield running


def test_every_route_asks_for_the_key(locked: Any) -> None:
    """TRAP-129, by the routes that there are: a route added tomorrow is locked too."""
    paths = httpx.get(f"{locked.url}/openapi.json", headers=bearer(KEY)).json()["paths"]
    paths |= {
        "/openapi.json": ["get"],
        "/nothing": ["get", "post"],
        "/v1/models/tiny": ["get", "delete"],
        "//health": ["get"],
        "/health/": ["get"],
    }
    assert len(paths) > 9
    for path, methods in paths.items():
        for method in methods:
            status = httpx.request(method, locked.url + path).status_code
            assert (status == 200) == (path in ("/", "/health", "/health/live")) and status in (200, 401), path


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize("value", ["", "Bearer", f"Basic {KEY}", KEY, f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", "Bearer \xff"])
def test_wrong_keys(locked: Any, value: str) -> None:
    response = httpx.get(f"{locked.url}/v1/models", headers={"Authorization": value.encode("latin-1")})
    assert response.status_code == 401 and response.headers["www-authenticate"] == "Bearer"
    assert response.json()["error"]["code"] == "invalid_api_key"


def test_the_key_opens_under_any_name(locked: Any) -> None:
    for scheme in ("Bearer", "bearer"):
        headers = {"Authorization": f"{scheme} {KEY}", "Host": "models.example"}
        assert httpx.get(f"{locked.url}/v1/models", headers=headers).status_code == 200


def test_keys_are_compared_in_constant_time_and_never_logged(
    locked: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def ours() -> str:
        return "\n".join(record.getMessage() for record in caplog.records if not record.name.startswith("http"))

    compared = []
    monkeypatch.setattr(hmac, "compare_digest", lambda one, other: compared.append((one, other)) or one == other)
    with caplog.at_level(logging.DEBUG):
        for key in (KEY, "wrong-key"):
            httpx.get(f"{locked.url}/v1/models?api_key={key}", headers=bearer(key))
        locked.until(lambda: "GET /v1/models 200" in ours() and "GET /v1/models 401" in ours())
    assert len(compared) == 2 and len({len(side) for pair in compared for side in pair}) == 1
    assert KEY not in ours() and "wrong-key" not in ours()


@pytest.mark.parametrize(("host", "status"), [("evil.example", 403), ("127.0.0.1.evil.example", 403), ("localhost:1", 200), ("[::1]", 200)])
def test_without_a_key_only_this_machine_s_names(server: Any, host: str, status: int) -> None:
    """DNS rebinding: a page of evil.example whose name now means 127.0.0.1."""
    assert httpx.get(f"{server.url}/v1/models", headers={"Host": host}).status_code == status


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("", False),
    ],
)
def test_loopback(host: str, own: bool) -> None:
    assert is_loopback(host) is own
