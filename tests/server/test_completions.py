"""/v1/completions: texts, ids, echo, log-probabilities, streams; every shape against the library's own answers."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from framework.generation import Generator

Reader = Callable[[Any], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def generator(model_directory: Path) -> Generator:
    return Generator.load(model_directory)


def ask(client: httpx.Client, **body: Any) -> dict[str, Any]:
    response = client.post("/v1/completions", json={"max_tokens": 8, "temperature": 0, **body})
    assert response.status_code == 200, response.text
    return response.json()


def stream(client: httpx.Client, read_events: Reader, **body: Any) -> list[dict[str, Any]]:
    with client.stream("POST", "/v1/completions", json={"max_tokens": 8, "temperature": 0, "stream": True, **body}) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        return read_events(response.iter_lines())


def test_a_reply_is_the_library_s(client: httpx.Client, generator: Generator) -> None:
    answer = ask(client, prompt="hello", seed=3, temperature=0.7, top_k=9)
    assert answer["object"] == "text_completion" and answer["model"] == "tiny" and answer["id"].startswith("cmpl-")
    expected = generator.generate("hello", max_new_tokens=8, seed=3, temperature=0.7, top_k=9)
    assert answer["choices"] == [{"index": 0, "text": expected, "logprobs": None, "finish_reason": "length"}]
    assert answer["usage"] == {"prompt_tokens": 5, "completion_tokens": 8, "total_tokens": 13}


def test_prompts_of_every_form(client: httpx.Client, generator: Generator) -> None:
    texts = [generator.generate(prompt, max_new_tokens=8, temperature=0.0) for prompt in ("ab", "xyz")]
    for prompts in (["ab", "xyz"], [list(b"ab"), list(b"xyz")]):
        answer = ask(client, prompt=prompts)
        assert [choice["text"] for choice in answer["choices"]] == texts
        assert answer["usage"]["prompt_tokens"] == 5
    for prompt in ("ab", list(b"ab")):
        assert ask(client, prompt=prompt)["choices"][0]["text"] == texts[0]


def test_n_of_several_prompts(client: httpx.Client, generator: Generator) -> None:
    answer = ask(client, prompt=["ab", "xyz"], n=3, seed=1, temperature=0.9, top_k=20, best_of=3)
    assert [choice["index"] for choice in answer["choices"]] == list(range(6))
    for number, prompt in enumerate(("ab", "xyz")):
        for reply in range(3):
            expected = generator.generate(prompt, max_new_tokens=8, seed=1 + reply, temperature=0.9, top_k=20)
            assert answer["choices"][3 * number + reply]["text"] == expected


@pytest.mark.parametrize("n", [1, 2])
def test_a_stream_is_the_answer_in_pieces(client: httpx.Client, read_events: Reader, n: int) -> None:
    body = {"prompt": ["ab", "é"], "n": n, "seed": 5, "temperature": 1.0, "logprobs": 2, "echo": True}
    whole = ask(client, **body)
    pieces = stream(client, read_events, **body, stream_options={"include_usage": True})
    *pieces, last = pieces
    assert last["choices"] == [] and last["usage"] == whole["usage"]
    assert all(piece["usage"] is None and piece["id"] == last["id"] for piece in pieces)
    for choice in whole["choices"]:
        mine = [piece["choices"][0] for piece in pieces if piece["choices"][0]["index"] == choice["index"]]
        assert "".join(piece["text"] for piece in mine) == choice["text"]
        assert [piece["finish_reason"] for piece in mine] == [None] * (len(mine) - 1) + [choice["finish_reason"]]
        for key, values in choice["logprobs"].items():
            assert [value for piece in mine for value in piece["logprobs"][key]] == values


def test_without_stream_options_no_usage(client: httpx.Client, read_events: Reader) -> None:
    pieces = stream(client, read_events, prompt="ab")
    assert pieces and all("usage" not in piece and len(piece["choices"]) == 1 for piece in pieces)


def test_echo_and_logprobs(client: httpx.Client, generator: Generator) -> None:
    answer = ask(client, prompt="ab", echo=True, logprobs=3)
    told = answer["choices"][0]["logprobs"]
    (chunks,) = [list(generator.stream("ab", max_new_tokens=8, temperature=0.0, logprobs=3, prompt_logprobs=3))]
    assert answer["choices"][0]["text"] == "ab" + "".join(chunk.text for chunk in chunks)
    assert told["tokens"][:2] == ["a", "b"] and len(told["tokens"]) == 10
    assert told["token_logprobs"][0] is None and told["top_logprobs"][0] is None
    assert told["text_offset"] == list(range(10))
    expected = [chunks[0].prompt_logprobs[0][0], *(token.logprob for chunk in chunks for token in chunk.tokens)]  # type: ignore[index]
    assert told["token_logprobs"][1:] == pytest.approx(expected, abs=1e-5)
    for token, logprob, top in zip(told["tokens"][1:], told["token_logprobs"][1:], told["top_logprobs"][1:]):
        assert top[token] == logprob and len(top) in (3, 4)  # TRAP-91: the token itself is always there
        assert sum(map(math.exp, top.values())) <= 1 + 1e-6


def test_no_tokens_but_the_prompt_s(client: httpx.Client) -> None:
    """How evaluation harnesses score a text."""
    answer = ask(client, prompt=["abc", "de"], echo=True, logprobs=1, max_tokens=0)
    assert [choice["text"] for choice in answer["choices"]] == ["abc", "de"]
    assert [len(choice["logprobs"]["tokens"]) for choice in answer["choices"]] == [3, 2]
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"] == {"prompt_tokens": 5, "completion_tokens": 0, "total_tokens": 5}


def test_logprobs_0_tell_of_the_token_alone(client: httpx.Client) -> None:
    told = ask(client, prompt="ab", logprobs=0)["choices"][0]["logprobs"]
    assert [list(top) for top in told["top_logprobs"]] == [[token] for token in told["tokens"]]


def test_stop_strings_never_leak(client: httpx.Client, read_events: Reader) -> None:
    whole = ask(client, prompt="q", max_tokens=20)["choices"][0]["text"]
    for start in (1, 7):
        stop = whole[start : start + 3]
        cut = whole[: whole.index(stop)]
        choice = ask(client, prompt="q", max_tokens=20, stop=["~~~~", stop])["choices"][0]
        assert choice["text"] == cut and choice["finish_reason"] == "stop"
        pieces = stream(client, read_events, prompt="q", max_tokens=20, stop=stop)
        assert "".join(piece["choices"][0]["text"] for piece in pieces) == cut
        kept = ask(client, prompt="q", max_tokens=20, stop=stop, include_stop_str_in_output=True)["choices"][0]
        assert kept["text"] == cut + stop


def test_options_reach_the_samplers(client: httpx.Client) -> None:
    forced = ask(client, prompt="q", temperature=1, logit_bias={"122": 100}, max_tokens=4)
    assert forced["choices"][0]["text"] == "zzzz"
    assert ask(client, prompt="q", temperature=1, choices=["yes", "no"])["choices"][0]["text"] in ("yes", "no")
    stopped = ask(client, prompt="q", logit_bias={"122": 100}, stop_token_ids=[122])["choices"][0]
    assert stopped["text"] == "" and stopped["finish_reason"] == "stop"
    later = ask(client, prompt="q", logit_bias={"122": 100}, stop_token_ids=[122], min_tokens=3)
    assert later["usage"]["completion_tokens"] == 4


def test_seed_minus_1_is_no_seed(client: httpx.Client) -> None:
    assert len({ask(client, prompt="q", seed=-1, temperature=1)["choices"][0]["text"] for _ in range(4)}) > 1
    assert len({ask(client, prompt="q", seed=7, temperature=1)["choices"][0]["text"] for _ in range(3)}) == 1


def test_the_other_model(client: httpx.Client) -> None:
    assert ask(client, prompt="q", model="other")["model"] == "other"
