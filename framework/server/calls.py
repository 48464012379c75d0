"""A call of one of the completion routes: its body becomes requests to an engine, and what comes back becomes OpenAI's objects.

Checked bodies flow in, work for the engine and plain dictionaries flow out. Must not know HTTP, threads or how an engine works.
"""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from framework.generation import Chunk, Settings
from framework.server.answers import Answer, Usage
from framework.server.errors import Refusal
from framework.server.limits import Limits
from framework.server.models import Model
from framework.server.schema import Sampling
from framework.server.worker import Ticket, Work

SAME_NAME = (  # fields of Settings that the routes call what the library calls them
    *("temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty", "frequency_penalty", "presence_penalty"),
    *("no_repeat_ngram_size", "ignore_eos"),
)

Request = TypeVar("Request", bound=Sampling)


class Call(ABC, Generic[Request]):
    """One call on its way.

    Args:
        body: what was asked.
        model: who is to answer.
        limits: checked before anything is tokenised.

    Raises:
        Refusal: the call asks for more than the limits or the model allow.
    """

    prefix: ClassVar[str]  # of ids
    whole_object: ClassVar[str]
    piece_object: ClassVar[str]

    def __init__(self, body: Request, model: Model, limits: Limits) -> None:
        self.body, self.model, self.generator = body, model, model.generator
        self.n = body.n or 1
        self._head = {"id": f"{self.prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model.name}
        self._check(limits)

    # what is asked

    @property
    @abstractmethod
    def num_prompts(self) -> int:
        """How many prompts there are."""

    @property
    @abstractmethod
    def max_tokens(self) -> int:
        """The most tokens of a reply."""

    @property
    @abstractmethod
    def told_logprobs(self) -> tuple[int | None, int | None]:
        """`logprobs` and `prompt_logprobs` of Settings."""

    @property
    @abstractmethod
    def texts(self) -> Sequence[str]:
        """What is to be tokenised."""

    @abstractmethod
    def prepare(self) -> Work:
        """The requests, one a prompt. Slow for long prompts: belongs into a thread. Raises RequestError or Refusal."""

    @property
    def num_replies(self) -> int:
        """Of all prompts together."""
        return self.num_prompts * self.n

    def settings(self) -> Settings:
        """What is asked of each reply. Raises RequestError for what cannot go together."""
        body = self.body
        told, told_of_prompt = self.told_logprobs
        given: dict[str, Any] = {name: value for name in SAME_NAME if (value := getattr(body, name)) is not None}
        if body.logit_bias:
            given["logit_bias"] = {int(token): bias for token, bias in body.logit_bias.items()}
        return Settings(
            **given,
            **self._constraint(),
            max_new_tokens=max(1, self.max_tokens),
            min_new_tokens=body.min_tokens or 0,
            stop=[body.stop] if isinstance(body.stop, str) else body.stop or (),
            include_stop=bool(body.include_stop_str_in_output),
            stop_ids=body.stop_token_ids or (),
            seed=None if body.seed == -1 else body.seed,
            n=self.n,
            logprobs=told,
            prompt_logprobs=told_of_prompt,
            cache_key=body.cache_salt or "",
        )

    def _constraint(self) -> Mapping[str, Any]:
        """What the reply is held to; it may be said in several ways, and only in one of them at a time."""
        body, nested = self.body, self.body.structured_outputs
        ways: list[tuple[str, Any]] = [("choices", body.choices), ("regex", body.regex), ("json_schema", body.json_schema)]
        if nested is not None:
            ways += [("choices", nested.choice), ("regex", nested.regex), ("json_schema", nested.json_)]
        given = [(name, value) for name, value in ways if value is not None] + [("json_schema", schema) for schema in self._formats()]
        if len(given) > 1:
            raise Refusal(400, "choices, regex, json_schema, structured_outputs and response_format cannot go together: give one of them")
        return dict(given)

    def _formats(self) -> Sequence[Mapping[str, Any]]:
        """JSON schemas that only this kind of call has a word for."""
        return ()

    def _check(self, limits: Limits) -> None:
        context = self.generator.context_length
        if self.max_tokens > context:
            raise _too_much(
                "max_tokens", f"max_tokens is {self.max_tokens}, and this model's context has {context} tokens, prompt included"
            )
        if (longest := max(map(len, self.texts), default=0)) > self.model.max_characters:
            raise _too_much("prompt", f"a prompt of {longest} characters cannot fit this model's context of {context} tokens")
        most = min(limits.max_replies, limits.max_queue)
        if self.num_replies > most:
            raise _too_much("n", f"{self.num_prompts} prompts with n={self.n} are {self.num_replies} replies; at most {most}")
        told, told_of_prompt = self.told_logprobs
        entries = self.num_replies * (
            self.max_tokens * (1 + (told or 0)) + (0 if told_of_prompt is None else context * (1 + told_of_prompt))
        )
        if entries > limits.max_answer_tokens:
            allowed = limits.max_answer_tokens
            raise _too_much(
                "max_tokens", f"the answer could hold {entries} tokens and alternatives, and may {allowed}: ask for fewer tokens"
            )

    # what is answered

    @abstractmethod
    def opening(self) -> list[Answer]:
        """Choices that a stream begins with."""

    @abstractmethod
    def piece(self, number: int, chunk: Chunk) -> Answer:
        """A choice of a stream: a piece of a reply to prompt `number`."""

    @abstractmethod
    def whole(self, number: int, chunk: Chunk) -> Answer:
        """A choice of an answer in one piece; the chunk is a whole reply."""

    def event(self, choices: list[Answer], usage: Usage | None = None) -> Answer:
        """An event of a stream."""
        told = {"usage": usage} if self.include_usage else {}
        return {**self._head, "object": self.piece_object, "choices": choices, **told}

    def answer(self, replies: Mapping[tuple[int, int], Chunk], usage: Usage) -> Answer:
        """The answer in one piece, from the replies by number of the prompt and index."""
        choices = [self.whole(number, replies[number, index]) for number, index in sorted(replies)]
        return {**self._head, "object": self.whole_object, "choices": choices, "usage": usage}

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the number of tokens."""
        return bool(self.body.stream_options and self.body.stream_options.include_usage)

    def usage(self, ticket: Ticket) -> Usage:
        """Tokens of all prompts and replies."""
        prompt_tokens, reply_tokens = ticket.num_tokens
        return {"prompt_tokens": prompt_tokens, "completion_tokens": reply_tokens, "total_tokens": prompt_tokens + reply_tokens}


def merged(chunks: list[Chunk]) -> Chunk:
    """The pieces of a reply as one."""
    tokens = tuple(token for chunk in chunks for token in chunk.tokens)
    last = chunks[-1]
    return Chunk("".join(chunk.text for chunk in chunks), last.finish_reason, last.index, tokens, chunks[0].prompt_logprobs)


def _too_much(param: str, message: str) -> Refusal:
    return Refusal(400, message, param=param, code="too_much")
