"""Bounds of bodies: what is out of range, of a wrong type or unknown is refused before the engine or the tokenizer sees it."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from framework.server.schema import ChatRequest, CompletionRequest

BAD: list[tuple[dict[str, Any], str]] = [
    ({"n": 0}, "n"),
    ({"n": 5_000_000}, "n"),
    ({"n": 1.0}, "n"),
    ({"n": True}, "n"),
    ({"best_of": 20}, "best_of"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 257}, "max_tokens"),
    ({"max_tokens": 10**12}, "max_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"min_tokens": 9, "max_tokens": 8}, "min_tokens"),
    ({"logprobs": 21}, "logprobs"),
    ({"logprobs": 10**9}, "logprobs"),
    ({"logprobs": -1}, "logprobs"),
    ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
    ({"stop": "x" * 257}, "stop"),
    ({"stop": ""}, "stop"),
    ({"stop": [""]}, "stop"),
    ({"stop": [1]}, "stop"),
    ({"logit_bias": {str(token): 1 for token in range(301)}}, "logit_bias"),
    ({"logit_bias": {"260": 1}}, "logit_bias"),
    ({"logit_bias": {"-1": 1}}, "logit_bias"),
    ({"logit_bias": {"x": 1}}, "logit_bias"),
    ({"logit_bias": {"5": 101}}, "logit_bias"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": 999_999}, "temperature"),
    ({"temperature": "1"}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_p": 1.1}, "top_p"),
    ({"top_p": -1}, "top_p"),
    ({"top_k": -2}, "top_k"),
    ({"min_p": 1.5}, "min_p"),
    ({"typical_p": 0}, "typical_p"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"presence_penalty": 2.1}, "presence_penalty"),
    ({"frequency_penalty": -3}, "frequency_penalty"),
    ({"seed": -2}, "seed"),
    ({"seed": 2**63}, "seed"),
    ({"stop_token_ids": [260]}, "token 260"),
    ({"stop_token_ids": list(range(65))}, "stop_token_ids"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usag": True}}, "did you mean include_usage?"),
    ({"temprature": 1}, "did you mean temperature?"),
    ({"suffix": "x"}, "suffix"),
    ({"prompt": []}, "prompt"),
    ({"prompt": [[]]}, "prompt"),
    ({"prompt": [-1]}, "prompt"),
    ({"prompt": [260]}, "token 260"),
    ({"prompt": [2**40]}, "prompt"),
    ({"prompt": ["a", 1]}, "prompt"),
    ({"prompt": {"a": 1}}, "prompt"),
    ({"prompt": ["a"] * 129}, "prompt"),
    ({"prompt": ["a"] * 65, "n": 2}, "130 replies"),
    ({"prompt": ["a"] * 128, "logprobs": 20, "max_tokens": 256}, "alternatives"),
    ({"prompt": "x" * 256}, "256"),
    ({"prompt": "x" * 4_000_000}, "4000000 characters"),
    ({"model": "x" * 1000}, "model"),
    ({"regex": "("}, "regex"),
    ({"regex": "(" * 2000}, "regex"),
    ({"regex": "a" * 5000}, "regex"),
    ({"choices": []}, "choices"),
    ({"choices": ["a"], "regex": "a"}, "give one of them"),
    ({"json_schema": {"type": "nothing"}}, "schema"),
    ({"json_schema": "{"}, "schema"),
    ({"structured_outputs": {"json": {}, "choice": ["a"]}}, "give one of them"),
]


@pytest.mark.parametrize(("extra", "named"), BAD, ids=lambda value: str(value)[:40])
def test_refused_before_the_engine_hears_of_it(
    client: httpx.Client, server: Any, monkeypatch: pytest.MonkeyPatch, extra: dict[str, Any], named: str
) -> None:
    """TRAP-89, TRAP-130, TRAP-131."""
    monkeypatch.setattr(server.worker.generator.engine, "add", lambda request: pytest.fail("the engine was asked"))
    response = client.post("/v1/completions", json={"prompt": "x", **extra})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert named in f"{error['param']} {error['message']}", error
    assert len(error["message"]) < 400
    assert server.worker.failure is None


DEEP: dict[str, Any] = {}
for _ in range(150):
    DEEP = {"type": "object", "properties": {"a": DEEP}}

BAD_CHATS: list[tuple[dict[str, Any], str]] = [
    ({"messages": []}, "messages"),
    ({"messages": "hello"}, "messages"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/x"}}]}]}, "image_url"),
    ({"messages": [{"role": "user", "content": "x"}] * 10_001}, "messages"),
    ({"top_logprobs": 2}, "needs logprobs"),
    ({"logprobs": True, "top_logprobs": 10**9}, "top_logprobs"),
    ({"logprobs": 1}, "logprobs"),
    ({"tools": [{"type": "function"}]}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"modalities": ["audio"]}, "modalities"),
    ({"chat_template": "{{ 1 }}"}, "chat_template"),
    ({"chat_template_kwargs": {"tokenize": True}}, "chat_template_kwargs"),
    ({"response_format": {"type": "xml"}}, "response_format"),
    ({"response_format": {"type": "json_schema"}}, "json_schema"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "#/nowhere"}}}}, "schema"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": DEEP}}}, ""),
    ({"response_format": {"type": "json_object"}, "regex": "a"}, "give one of them"),
]


@pytest.mark.parametrize(("extra", "named"), BAD_CHATS, ids=lambda value: str(value)[:40])
def test_chats_are_refused_alike(client: httpx.Client, extra: dict[str, Any], named: str) -> None:
    response = client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "x"}], **extra})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert named in f"{error['param']} {error['message']}", error


def test_null_is_not_given() -> None:
    nothing = {name: None for name in CompletionRequest.model_fields if name != "prompt"}
    assert CompletionRequest.model_validate({**nothing, "prompt": "x"}) == CompletionRequest.model_validate({"prompt": "x"})


def test_what_asks_for_nothing_is_accepted() -> None:
    message = {"role": "user", "content": "x"}
    ChatRequest.model_validate(
        {
            "messages": [message],
            "user": "me",
            "store": True,
            "metadata": {"a": "b"},
            "service_tier": "auto",
            "tools": [],
            "tool_choice": "auto",
            "parallel_tool_calls": False,
            "modalities": ["text"],
            "safety_identifier": "x",
            "prompt_cache_key": "y",
            "stream_options": {"include_obfuscation": False},
        }
    )


@pytest.mark.parametrize("name", ["choices", "regex", "json_schema"])
def test_vllm_s_names(name: str) -> None:
    value: Any = {"choices": ["a"], "regex": "a", "json_schema": {}}[name]
    alias = {"choices": "guided_choice", "regex": "guided_regex", "json_schema": "guided_json"}[name]
    asked = CompletionRequest.model_validate({"prompt": "x", alias: value})
    assert getattr(asked, name) == value
