"""Prometheus' numbers."""

from __future__ import annotations

import re
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families


def read(client: httpx.Client) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def test_numbers_grow_with_requests(server: Any, client: httpx.Client) -> None:
    before = read(client)
    for stream in (False, True):
        client.post("/v1/completions", json={"prompt": "abc", "max_tokens": 6, "n": 2, "stream": stream, "ignore_eos": True})
    server.wait_until_idle()
    after = read(client)

    def grown(name: str, **labels: str) -> float:
        key = (f"framework_{name}", frozenset({"model": "tiny", **labels}.items()))
        return after[key] - before.get(key, 0.0)

    assert grown("prompt_tokens_total") == 6
    assert grown("generation_tokens_total") == 24
    assert grown("replies_total", finish_reason="length") == 4
    assert grown("request_seconds_count") == grown("time_to_first_token_seconds_count") == grown("time_per_output_token_seconds_count") == 2
    assert grown("request_seconds_sum") >= grown("time_to_first_token_seconds_sum") > 0
    for name in ("num_requests_running", "num_requests_waiting"):
        assert after[(f"framework_{name}", frozenset({("model", "tiny")}))] == 0
    assert ("framework_num_requests_running", frozenset({("model", "other")})) in after


def test_names_say_what_they_count(client: httpx.Client) -> None:
    names = set(re.findall(r"^# TYPE (\S+)", client.get("/metrics").text, re.MULTILINE))
    assert all(name.startswith("framework_") for name in names)
    assert {"framework_cache_usage_ratio", "framework_prefix_cache_hit_tokens_total", "framework_num_preemptions_total"} <= names
