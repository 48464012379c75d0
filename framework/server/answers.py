"""What the routes answer: OpenAI's objects and vLLM's of /tokenize, as types. They check our code and make the OpenAPI document."""

from __future__ import annotations

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict  # pydantic takes typing's only from Python 3.12 on

Reason = Literal["stop", "length"]


class Problem(TypedDict):
    """What is wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(TypedDict):
    """Any answer but 200."""

    error: Problem


class Usage(TypedDict):
    """Tokens of all prompts and all replies, stop ids included."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class TextLogprobs(TypedDict):
    """Log-probabilities of a completion, one entry a token; null where there is none (the first token of a prompt)."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TextChoice(TypedDict):
    """A completion, or a piece of one."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Reason | None


class Completion(TypedDict):
    """The answer of /v1/completions, and each event of its stream."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: NotRequired[Usage | None]


class TopLogprob(TypedDict):
    """A token that could have stood at a place."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    """A token, and what could have stood in its place."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(TypedDict):
    """Log-probabilities of a chat's reply."""

    content: list[TokenLogprob]
    refusal: None


class ReplyMessage(TypedDict):
    """The reply."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(TypedDict):
    """One of the n replies."""

    index: int
    message: ReplyMessage
    logprobs: ChatLogprobs | None
    finish_reason: Reason | None


class ChatCompletion(TypedDict):
    """The answer of /v1/chat/completions."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class Delta(TypedDict):
    """What a piece adds."""

    role: NotRequired[Literal["assistant"]]
    content: NotRequired[str]


class ChatPiece(TypedDict):
    """A piece of one of the n replies."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: Reason | None


class ChatCompletionChunk(TypedDict):
    """Each event of a stream of /v1/chat/completions."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChatPiece]
    usage: NotRequired[Usage | None]


class ModelCard(TypedDict):
    """A model that is served; `chat` tells whether it has a chat template."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int
    vocab_size: int
    chat: bool


class ModelList(TypedDict):
    """The answer of /v1/models."""

    object: Literal["list"]
    data: list[ModelCard]


class Tokens(TypedDict):
    """The answer of /tokenize."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class Detokenized(TypedDict):
    """The answer of /detokenize."""

    prompt: str


class Health(TypedDict):
    """Whether the server lives, and takes requests."""

    status: Literal["ok", "stopping", "failed"]


Answer = dict[str, Any]  # any of the above on its way out
