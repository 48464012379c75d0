"""The page's routes over real sockets: what they take, what they refuse, and what is on the disk when they have answered."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from framework.datasets import records
from framework.datasets.base import Message
from framework.datasets.json_lines import JsonLines
from framework.ranking.app import page

PROMPTS = ["Once", (Message("user", "hi"),), "x" * 500, "Then"]


def shown(client: httpx.Client, rater: str = "ann") -> dict[str, Any]:
    """What is next, once it is written."""
    for _ in range(2000):
        view: dict[str, Any] = client.get("/next", params={"rater": rater}).json()
        if view["state"] != "writing":
            return view
        time.sleep(0.005)
    raise AssertionError("nothing is written")


def test_from_the_first_prompt_to_the_last(serving: Callable[..., Any], tmp_path: Path) -> None:
    """A text, a chat, a prompt that is too long, and a skip; the file trains."""
    with serving(PROMPTS) as served, httpx.Client(base_url=served.url, timeout=20) as client:
        assert client.get("/raters").json() == {"suggested": "ann"}
        view = shown(client)
        assert view["prompt"] == "Once" and len(view["replies"]) == 3 and not view["can_undo"]
        ranks: list[int | None] = [2, 1, None]
        view = client.post("/rank", json={"rater": "ann", "key": view["key"], "ranks": ranks}).json()
        assert view["num_done"] == 1
        rows = [json.loads(line) for line in (tmp_path / "preferences.jsonl").read_text().splitlines()]
        assert len(rows) == 3, "on the disk before the answer"
        view = shown(client)
        assert view["prompt"] == [{"role": "user", "content": "hi"}]
        client.post("/rank", json={"rater": "ann", "key": view["key"], "ranks": [1, 1, 3]})
        view = shown(client)
        assert view["prompt"] == "Then" and view["num_prompts"] == 3
        view = client.post("/rank", json={"rater": "ann", "key": view["key"], "ranks": [None] * 3}).json()
        assert (view["state"], view["num_done"], view["replies"]) == ("done", 3, [])
        assert client.post("/undo", json={"rater": "ann"}).json()["prompt"] == "Then"
        assert client.get("/agreement").json()["num_pairs"] == 0
        other = shown(client, "bob")
        client.post("/rank", json={"rater": "bob", "key": other["key"], "ranks": [1, 2, 3]})
        found = client.get("/agreement").json()
        assert found["num_raters"] == 2 and found["num_pairs"] == 3 and "Krippendorff" in found["text"]
    read = records.read(JsonLines(str(tmp_path / "preferences.jsonl")), records.preference)
    assert [type(row.prompt) for row in read] == [str] * 3 + [tuple] * 2 + [str] * 3


def test_the_page_runs_nothing_but_its_own(serving: Callable[..., Any]) -> None:
    with serving(["a"]) as served:
        response = httpx.get(served.url)
        assert response.text == page() and "default-src 'none'" in response.headers["content-security-policy"]
    assert set(re.findall(r"https?://[^\s'\"]+", page())) == {"http://www.w3.org/2000/svg"}, "a name, which is never fetched"
    assert "innerHTML" not in page() and "eval(" not in page()


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"rater": "ann", "key": "x", "ranks": [1]},
        {"rater": "", "key": "0" * 64, "ranks": [1]},
        {"rater": "ann", "key": "0" * 64, "ranks": [0]},
        {"rater": "ann", "key": "0" * 64, "ranks": ["1"]},
        {"rater": "ann", "key": "0" * 64, "ranks": [1.5]},
        {"rater": "ann", "key": "0" * 64, "ranks": [1] * 65},
        {"rater": "ann", "key": "0" * 64, "ranks": [1, 2, 3], "more": 1},
        {"rater": "ann", "key": "0" * 64, "ranks": [1, 2, 3]},
        {"rater": "a\nb", "key": "0" * 64, "ranks": [1, 2, 3]},
    ],
)
def test_bodies_that_are_refused(serving: Callable[..., Any], body: Any) -> None:
    with serving(["a"]) as served, httpx.Client(base_url=served.url) as client:
        response = client.post("/rank", json=body)
        assert response.status_code == 400 and response.json()["error"]["message"]
        assert client.post("/rank", content=b"x" * 100_000).status_code == 413
        assert not served.ledger.rankings


def test_nobody_else_comes_in(serving: Callable[..., Any]) -> None:
    """Another site's page, a name that was made to point here, and a form that a browser sends without asking."""
    with serving(["a"]) as served, httpx.Client(base_url=served.url) as client:
        key = shown(client)["key"]
        body = {"rater": "ann", "key": key, "ranks": [1, 2, 3]}
        for headers in (
            {"origin": "https://elsewhere.example"},
            {"origin": "null"},
            {"sec-fetch-site": "cross-site"},
            {"sec-fetch-site": "same-site"},
            {"host": "elsewhere.example"},
        ):
            assert client.post("/rank", json=body, headers=headers).status_code == 403, headers
        assert not served.ledger.rankings
        assert client.post("/rank", json=body, headers={"origin": served.url, "sec-fetch-site": "same-origin"}).status_code == 200


def test_a_token(serving: Callable[..., Any]) -> None:
    with serving(["a"], token="secret") as served, httpx.Client(base_url=served.url) as client:
        assert client.get("/").status_code == 200, "the page holds nothing"
        for path in ("/next?rater=ann", "/agreement", "/raters"):
            assert client.get(path).status_code == 401
            assert client.get(path, headers={"authorization": "Bearer other"}).status_code == 401
        assert client.post("/rank", json={}).status_code == 401
        assert client.get("/next?rater=ann", headers={"authorization": "Bearer secret"}).status_code == 200


def test_what_cannot_be_written_is_told_and_does_not_count(serving: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from framework.errors import StorageError

    with serving(["a"]) as served, httpx.Client(base_url=served.url) as client:
        view = shown(client)
        body = {"rater": "ann", "key": view["key"], "ranks": [1, 2, 3]}

        def full(ranking: Any) -> None:
            raise StorageError("the disk is full")

        with monkeypatch.context() as patched:
            patched.setattr(served.ledger, "add", full)
            response = client.post("/rank", json=body)
            assert response.status_code == 500 and response.json()["error"]["message"] == "the disk is full"
        assert shown(client) == view
        assert client.post("/rank", json=body).json()["state"] == "done"
