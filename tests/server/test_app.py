"""Routes around the completions, how bodies are read, and that one request never holds up another."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest


def test_models(client: httpx.Client) -> None:
    listed = client.get("/v1/models").json()
    assert listed["object"] == "list" and [card["id"] for card in listed["data"]] == ["tiny", "other"]
    card = client.get("/v1/models/other").json()
    assert card == listed["data"][1]
    assert (card["max_model_len"], card["vocab_size"], card["chat"]) == (256, 260, True)
    missing = client.get("/v1/models/what/ever")
    assert missing.status_code == 404 and "served: tiny, other" in missing.json()["error"]["message"]


def test_tokenize_and_back(client: httpx.Client) -> None:
    told = client.post("/tokenize", json={"prompt": "hé", "return_token_strs": True}).json()
    assert told == {"count": 3, "max_model_len": 256, "tokens": [104, 195, 169], "token_strs": ["h", "bytes:\\xc3", "bytes:\\xa9"]}
    assert client.post("/detokenize", json={"tokens": told["tokens"]}).json() == {"prompt": "hé"}
    chat = client.post("/tokenize", json={"messages": [{"role": "user", "content": "x"}]}).json()
    assert chat["count"] == 20 and chat["token_strs"] is None
    assert client.post("/detokenize", json={"tokens": [260]}).status_code == 400
    assert client.post("/tokenize", json={}).status_code == 400


def test_a_text_longer_than_the_context_is_still_tokenised(client: httpx.Client) -> None:
    assert client.post("/tokenize", json={"prompt": "x" * 2_000_000}).json()["count"] == 2_000_000


@contextmanager
def held(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> Iterator[threading.Event]:
    """Every call of a method waits inside the block; the event tells that one does."""
    entered, released, method = threading.Event(), threading.Event(), getattr(owner, name)

    def wait(*arguments: Any) -> Any:
        entered.set()
        released.wait(20)
        return method(*arguments)

    monkeypatch.setattr(owner, name, wait)
    try:
        yield entered
    finally:
        released.set()


def test_tokenising_holds_up_nobody(server: Any, client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """TRAP-132, without a clock: everything else answers while a prompt is being tokenised."""
    tokenizer = server.app.state.models["tiny"].generator.tokenizer
    other = {"prompt": "x", "model": "other", "max_tokens": 2}
    with ThreadPoolExecutor() as pool:
        with held(monkeypatch, tokenizer, "encode") as entered:
            slow = [
                pool.submit(httpx.post, server.url + path, json={"prompt": "long", "max_tokens": 2} if "v1" in path else {"prompt": "long"})
                for path in ("/tokenize", "/v1/completions")
            ]
            assert entered.wait(10)
            assert client.get("/health").status_code == 200
            assert client.post("/v1/completions", json=other).status_code == 200
            assert not any(task.done() for task in slow)
        assert [task.result().status_code for task in slow] == [200, 200]


def test_rendering_holds_up_nobody(server: Any, client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = server.app.state.models["tiny"].generator
    body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 2}
    with ThreadPoolExecutor() as pool:
        with held(monkeypatch, generator, "render") as entered:
            slow = pool.submit(httpx.post, f"{server.url}/v1/chat/completions", json=body)
            assert entered.wait(10)
            assert client.get("/health").status_code == 200
        assert slow.result().status_code == 200


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must be a JSON object"),
        (b"[]", "must be a JSON object"),
        (b'"text"', "must be a JSON object"),
        (b"{", "no JSON"),
        (b'{"prompt": "x", "temperature": NaN}', "no JSON"),
        (b'{"prompt": "x", "temperature": 1e999}', "temperature"),
        (b'{"prompt": "\xff"}', "no JSON"),
        (b'{"prompt": "\\ud800"}', "no JSON"),
        (b'{"prompt": ' + b"[" * 100_000, "recursion limit"),
        (b'{"max_tokens": ' + b"9" * 100_000 + b"}", "no JSON"),
    ],
)
def test_bodies_that_cannot_be_read(client: httpx.Client, content: bytes, message: str) -> None:
    response = client.post("/v1/completions", content=content, headers={"content-type": "application/json"})
    assert response.status_code == 400, response.text
    assert message in response.json()["error"]["message"]


def test_tenants_share_nothing_and_no_prompt_is_logged(server: Any, client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    """TRAP-139: another salt finds nothing of a prompt in the cache; the same one does, and every answer is the same."""
    prompt = "a canary that only one tenant knows, " * 4

    def hits(salt: str) -> tuple[int, str]:
        before = server.worker.statistics.prefix_tokens_hit
        body = {"prompt": prompt, "max_tokens": 8, "temperature": 0, "cache_salt": salt}
        text = client.post("/v1/completions", json=body).json()["choices"][0]["text"]
        server.wait_until_idle()
        return server.worker.statistics.prefix_tokens_hit - before, text

    with caplog.at_level(logging.DEBUG):
        first, second, stranger = hits("a"), hits("a"), hits("b")
        server.until(lambda: caplog.text.count("POST /v1/completions 200") == 3)
    assert first[0] == stranger[0] == 0 and second[0] > 100
    assert first[1] == second[1] == stranger[1]
    assert "canary" not in caplog.text


def test_a_form_is_no_json(client: httpx.Client) -> None:
    """A page elsewhere can make a browser send forms and plain text, but no JSON."""
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        response = client.post("/v1/completions", content=b'{"prompt": "x"}', headers={"content-type": kind})
        assert response.status_code == 400 and "application/json" in response.json()["error"]["message"]


def test_the_document_describes_every_route(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    assert set(document["paths"]) >= {
        "/v1/models",
        "/v1/completions",
        "/v1/chat/completions",
        "/tokenize",
        "/detokenize",
        "/health",
        "/metrics",
    }
    operation = document["paths"]["/v1/completions"]["post"]
    assert set(operation["responses"]) == {"200", "default"} and operation["security"]
    assert "temperature" in document["components"]["schemas"]["CompletionRequest"]["properties"]
    assert client.get("/docs").status_code == 404, "a page of FastAPI's that loads scripts from elsewhere"
