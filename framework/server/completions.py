"""Calls of /v1/completions: prompts as texts or ids, and their continuations in OpenAI's form."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from framework.generation import Chunk
from framework.server.answers import Answer, TextLogprobs, Usage
from framework.server.calls import Call
from framework.server.logprobs import TextTokens, joined
from framework.server.schema import CompletionRequest
from framework.server.worker import Ticket, Work


class CompletionCall(Call[CompletionRequest]):
    """A call of /v1/completions. Choice number i x n + j is reply j of prompt i."""

    prefix, whole_object, piece_object = "cmpl", "text_completion", "text_completion"

    @cached_property
    def prompts(self) -> Sequence[str | Sequence[int]]:
        """Texts, or ids as they are."""
        prompt = self.body.prompt
        if isinstance(prompt, str):
            return [prompt]
        return [prompt] if isinstance(prompt[0], int) else prompt

    @property
    def num_prompts(self) -> int:
        """How many there are."""
        return len(self.prompts)

    @property
    def max_tokens(self) -> int:
        """What is asked, else the model's own number."""
        asked = self.body.max_tokens
        return min(self.generator.max_new_tokens, self.generator.context_length) if asked is None else asked

    @property
    def told_logprobs(self) -> tuple[int | None, int | None]:
        """Of the reply, and with echo of the prompt."""
        return self.body.logprobs, self.body.logprobs if self.body.echo else None

    @property
    def texts(self) -> Sequence[str]:
        """The prompts that are texts."""
        return [prompt for prompt in self.prompts if isinstance(prompt, str)]

    def prepare(self) -> Work:
        """Each prompt as a request."""
        settings = self.settings()
        work = [self.generator.prepare(prompt, settings) for prompt in self.prompts]
        self._prompt_ids = [request.prompt_ids for request, _ in work]
        self._tokens: dict[int, TextTokens] = {}  # of the replies that have begun
        return work

    def opening(self) -> list[Answer]:
        """Nothing: a stream begins with text."""
        return []

    def piece(self, number: int, chunk: Chunk) -> Answer:
        """Some text; with echo the first one begins with the prompt."""
        index = number * self.n + chunk.index
        begins = index not in self._tokens
        self._tokens.setdefault(index, TextTokens(self.generator.tokenizer))
        text, reason = chunk.text, chunk.finish_reason
        logprobs = None if self.body.logprobs is None else self._logprobs(index, chunk)
        if self.body.max_tokens == 0:  # the prompt alone is asked for; an engine draws at least one token
            text, reason = "", reason and "length"
        if self.body.echo and begins:
            text = self._prompt_text(number) + text
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}

    def whole(self, number: int, chunk: Chunk) -> Answer:
        """As a piece: OpenAI words both alike."""
        return self.piece(number, chunk)

    def usage(self, ticket: Ticket) -> Usage:
        """Without the token that max_tokens=0 did not ask for."""
        usage = super().usage(ticket)
        if self.body.max_tokens == 0:
            usage["completion_tokens"], usage["total_tokens"] = 0, usage["prompt_tokens"]
        return usage

    def _prompt_text(self, number: int) -> str:
        prompt = self.prompts[number]
        if isinstance(prompt, str):
            return prompt
        special = self.generator.tokenizer.special_tokens.values()
        return self.generator.tokenizer.decode(token for token in prompt if token not in special)

    def _logprobs(self, index: int, chunk: Chunk) -> TextLogprobs:
        tokens = self._tokens[index]
        of_prompt = None
        if chunk.prompt_logprobs is not None:
            of_prompt = tokens.prompt(self._prompt_ids[index // self.n], chunk.prompt_logprobs)
        of_reply = tokens.reply(() if self.body.max_tokens == 0 else chunk.tokens)
        return of_reply if of_prompt is None else joined(of_prompt, of_reply)
