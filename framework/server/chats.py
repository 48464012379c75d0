"""Calls of /v1/chat/completions: messages become one prompt by the model's template, replies become OpenAI's messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from framework.chat import Message
from framework.generation import Chunk
from framework.server.answers import Answer, ChatLogprobs
from framework.server.calls import Call
from framework.server.logprobs import chat_logprobs
from framework.server.schema import ChatMessage, ChatRequest
from framework.server.worker import Work

ANY_OBJECT = {"type": "object"}


class ChatCall(Call[ChatRequest]):
    """A call of /v1/chat/completions. Without max_tokens a reply may take the rest of the context."""

    prefix, whole_object, piece_object = "chatcmpl", "chat.completion", "chat.completion.chunk"
    num_prompts = 1

    @property
    def max_tokens(self) -> int:
        """What is asked, else all the room there is, which the prompt then shortens."""
        return self.body.max_completion_tokens or self.body.max_tokens or self.model.room

    @property
    def told_logprobs(self) -> tuple[int | None, int | None]:
        """Of the reply alone."""
        return (self.body.top_logprobs or 0 if self.body.logprobs else None), None

    @property
    def texts(self) -> Sequence[str]:
        """All messages: they become one prompt."""
        return ["".join(message.text for message in self.body.messages)]

    def prepare(self) -> Work:
        """The chat as a prompt. Raises RequestError for a model without a template, and for what its template refuses."""
        settings, prompt = self.settings(), self.generator.render(messages(self.body.messages))
        if not (self.body.max_completion_tokens or self.body.max_tokens):
            settings = replace(settings, max_new_tokens=max(1, self.model.room - len(prompt)))
        return [self.generator.prepare(prompt, settings)]

    def opening(self) -> list[Answer]:
        """The role, once a reply."""
        delta = {"role": "assistant", "content": ""}
        return [{"index": index, "delta": delta, "logprobs": None, "finish_reason": None} for index in range(self.n)]

    def piece(self, number: int, chunk: Chunk) -> Answer:
        """A delta."""
        delta = {"content": chunk.text} if chunk.text else {}
        return {"index": chunk.index, "delta": delta, "logprobs": self._logprobs(chunk), "finish_reason": chunk.finish_reason}

    def whole(self, number: int, chunk: Chunk) -> Answer:
        """A message."""
        message = {"role": "assistant", "content": chunk.text, "refusal": None}
        return {"index": chunk.index, "message": message, "logprobs": self._logprobs(chunk), "finish_reason": chunk.finish_reason}

    def _formats(self) -> Sequence[Mapping[str, Any]]:
        asked = self.body.response_format
        if asked is None or asked.type == "text":
            return ()
        return (asked.json_schema.schema_ if asked.json_schema else ANY_OBJECT,)

    def _logprobs(self, chunk: Chunk) -> ChatLogprobs | None:
        return chat_logprobs(chunk.tokens, self.generator.tokenizer) if self.body.logprobs else None


def messages(given: list[ChatMessage]) -> list[Message]:
    """As the chat template takes them; OpenAI's `developer` is what templates call `system`."""
    return [Message("system" if message.role == "developer" else message.role, message.text) for message in given]
