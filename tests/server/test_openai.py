"""OpenAI's own client works unchanged: it parses every answer and every event into its own types."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from framework.generation import Reader

openai = pytest.importorskip("openai")

MESSAGES: list[Any] = [{"role": "user", "content": "hello"}]


@pytest.fixture
def client(server: Any) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_models(client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["tiny", "other"]
    assert client.models.retrieve("other").object == "model"


def test_completions(client: Any) -> None:
    told = client.completions.create(model="tiny", prompt=["a", "b"], max_tokens=5, n=2, logprobs=2, echo=True, seed=1, stop=["~"])
    assert [choice.index for choice in told.choices] == [0, 1, 2, 3] and told.usage.completion_tokens <= 20
    assert len(told.choices[0].logprobs.tokens) == len(told.choices[0].logprobs.text_offset)
    pieces = list(
        client.completions.create(model="tiny", prompt="a", max_tokens=5, seed=1, stream=True, stream_options={"include_usage": True})
    )
    whole = client.completions.create(model="tiny", prompt="a", max_tokens=5, seed=1)
    assert "".join(choice.text for piece in pieces for choice in piece.choices) == whole.choices[0].text
    assert pieces[-1].usage == whole.usage


def test_chats(client: Any) -> None:
    asked: dict[str, Any] = {
        "model": "tiny",
        "messages": MESSAGES,
        "max_completion_tokens": 6,
        "seed": 1,
        "logprobs": True,
        "top_logprobs": 3,
    }
    whole = client.chat.completions.create(**asked, temperature=0.8, extra_body={"top_k": 20, "min_p": 0.01, "repetition_penalty": 1.1})
    assert whole.choices[0].message.role == "assistant" and len(whole.choices[0].logprobs.content) == 6
    pieces = list(
        client.chat.completions.create(
            **asked, temperature=0.8, stream=True, extra_body={"top_k": 20, "min_p": 0.01, "repetition_penalty": 1.1}
        )
    )
    assert pieces[0].choices[0].delta.role == "assistant"
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == whole.choices[0].message.content
    again = client.chat.completions.create(model="tiny", messages=[*MESSAGES, whole.choices[0].message, *MESSAGES], max_tokens=1)
    assert again.choices[0].finish_reason == "length"


def test_its_stream_helper(client: Any) -> None:
    with client.chat.completions.stream(model="tiny", messages=MESSAGES, extra_body={"choices": ["yes"]}) as stream:
        kinds = {event.type for event in stream}
        assert {"chunk", "content.delta", "content.done"} <= kinds
        assert stream.get_final_completion().choices[0].message.content == "yes"


def test_parsed_replies(client: Any) -> None:
    pytest.importorskip("llguidance")
    pydantic = pytest.importorskip("pydantic")

    class Answer(pydantic.BaseModel):
        yes: bool

    told = client.chat.completions.parse(model="tiny", messages=MESSAGES, response_format=Answer, max_tokens=60)
    assert isinstance(told.choices[0].message.parsed, Answer)


def test_errors_become_its_exceptions(client: Any, server: Any, serving: Callable[..., Any]) -> None:
    with pytest.raises(openai.BadRequestError, match="top_p") as refused:
        client.completions.create(model="tiny", prompt="x", top_p=0)
    assert refused.value.param == "top_p" and refused.value.code == "invalid_value"
    with pytest.raises(openai.NotFoundError, match="served: tiny, other"):
        client.completions.create(model="gpt-4", prompt="x")
    with serving(api_key="key") as locked:
        with openai.OpenAI(base_url=f"{locked.url}/v1", api_key="wrong") as stranger, pytest.raises(openai.AuthenticationError):
            stranger.models.list()
        with openai.OpenAI(base_url=f"{locked.url}/v1", api_key="key") as friend:
            assert len(friend.models.list().data) == 1


def test_an_error_in_a_stream_is_raised(client: Any, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def burst(self: Any, event: Any) -> Any:
        if self.num_reply_tokens == 3:
            raise ValueError("secret")
        return feed(self, event)

    feed = Reader.feed
    monkeypatch.setattr(Reader, "feed", burst)
    with pytest.raises(openai.APIError, match="failed"):
        list(client.completions.create(model="tiny", prompt="x", max_tokens=20, stream=True))


def test_closing_a_stream_frees_the_engine(client: Any, server: Any, slow: Any) -> None:
    slow(0.02)
    with client.completions.create(model="tiny", prompt="x", max_tokens=250, stream=True) as stream:
        next(iter(stream))
    server.wait_until_idle(1.0)
