"""Every refusal has OpenAI's shape and says nothing of the server's inside."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from framework.errors import RequestError
from framework.server.errors import refusal
from framework.server.worker import EngineFailed, QueueFull, ReaderTooSlow, Stopped


def error(response: httpx.Response) -> dict[str, Any]:
    assert set(response.json()) == {"error"}
    told = response.json()["error"]
    assert set(told) == {"message", "type", "param", "code"} and isinstance(told["message"], str)
    return told


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("POST", "/v1/embeddings", 404),
        ("GET", "/v1/completions", 405),
        ("DELETE", "/health", 405),
        ("BREW", "/", 405),
    ],
)
def test_routes_that_are_not_there(client: httpx.Client, method: str, path: str, status: int) -> None:
    response = client.request(method, path)
    assert response.status_code == status
    assert error(response)["type"] == "invalid_request_error"
    assert status != 405 or "only" in error(response)["message"]


def test_what_breaks_inside_is_not_told(server: Any, client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def burst(*_: Any) -> None:
        raise RuntimeError("secret /of/the/machine")

    monkeypatch.setattr(server.app.state.models["tiny"].generator, "prepare", burst)
    response = client.post("/v1/completions", json={"prompt": "x"})
    assert response.status_code == 500 and "secret" not in response.text and "Traceback" not in response.text
    assert error(response)["type"] == "server_error"
    assert client.get("/health").status_code == 200, "the connection goes on"


def test_a_request_that_fails_in_the_engine_harms_no_other(server: Any, client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """TRAP-137: the stream ends with an error event, the answer is a 500; a neighbour gets its reply."""
    reader = type(server.app.state.models["tiny"].generator.prepare("x", _settings())[1])
    feed = reader.feed

    def burst(self: Any, event: Any) -> Any:
        if self.num_prompt_tokens == 3 and self.num_reply_tokens == 2:
            raise RuntimeError("secret")
        return feed(self, event)

    monkeypatch.setattr(reader, "feed", burst)
    five = {"max_tokens": 5, "ignore_eos": True}  # or a reply might end before it fails
    assert client.post("/v1/completions", json={"prompt": ["x", "abc"], **five}).status_code == 500
    told = client.post("/v1/completions", json={"prompt": "abc", "stream": True, **five}).text
    *_, failed, done, end = told.split("\n\n")
    assert failed.startswith('data: {"error":') and "secret" not in told and (done, end) == ("data: [DONE]", "")
    assert client.post("/v1/completions", json={"prompt": "x", "max_tokens": 5}).status_code == 200


def _settings() -> Any:
    from framework.generation import Settings

    return Settings()


@pytest.mark.parametrize(
    ("failure", "status", "kind"),
    [
        (RequestError("top_p is 0.0 and must be more"), 400, "invalid_request_error"),
        (QueueFull("full"), 429, "rate_limit_error"),
        (Stopped("stop"), 503, "server_error"),
        (EngineFailed("failed"), 503, "server_error"),
        (ReaderTooSlow("slow"), 408, "invalid_request_error"),
        (TimeoutError(), 504, "server_error"),
        (KeyError("secret"), 500, "server_error"),
    ],
)
def test_statuses(failure: Exception, status: int, kind: str) -> None:
    told = refusal(failure)
    assert (told.status_code, told.body["error"]["type"]) == (status, kind)
    assert "secret" not in told.body["error"]["message"]
    assert status not in (429, 503) or told.headers["retry-after"]  # type: ignore[index]


def test_the_library_s_words_in_the_routes_names() -> None:
    told = refusal(RequestError("max_new_tokens is 0 and must be at least 1")).body["error"]
    assert told["message"].startswith("max_tokens is 0") and told["param"] == "max_tokens"
