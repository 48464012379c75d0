"""The engine's events become text: whole characters, stop strings, and the tokens each piece of text is made of.

Events of one request flow in, chunks of its replies flow out. Must not know the engine, threads or how a token was drawn.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from framework.engine.request import Alternatives, Event, FinishReason, Request
from framework.generation.stops import StopStrings
from framework.tokenizers.base import Tokenizer
from framework.tokenizers.streaming import StreamDecoder


class Token(NamedTuple):
    """One token of a reply.

    Attributes:
        token_id: the token.
        text_bytes: the bytes it stands for, often no whole characters; a special token's are its spelling, which is no text.
        logprob: its log-probability, where asked for.
        top: the likeliest tokens at its place, as (id, log-probability), as many as asked for.
    """

    token_id: int
    text_bytes: bytes
    logprob: float | None
    top: Alternatives


class Chunk(NamedTuple):
    """A piece of a reply: whole characters only.

    Attributes:
        text: often more than one token's, empty only in a reply's last chunk.
        finish_reason: of a reply's last chunk; None before.
        index: which of the n replies.
        tokens: those whose text is complete with this chunk. All together are the reply's: a token of which any character is
            given out is among them; those of the stop string alone, and the stop id, only with `include_stop`.
        prompt_logprobs: on a reply's first chunk, where asked for: for each prompt token but the first, its log-probability and
            the likeliest at its place.
    """

    text: str
    finish_reason: FinishReason | None
    index: int = 0  # type: ignore[assignment]  # the field hides tuple.index
    tokens: tuple[Token, ...] = ()
    prompt_logprobs: tuple[tuple[float, Alternatives], ...] | None = None


class Reader:
    """Turns the events of one request into chunks of its n replies, with a decoder and stop strings for each.

    Args:
        tokenizer: special tokens are no text; ids beyond its vocabulary neither.
        request: whose events they will be.
        stop: texts that end a reply.
        include_stop: what ended a reply is part of it.

    Attributes:
        num_prompt_tokens: of the request.

    Raises:
        RequestError: a stop string is empty.
    """

    def __init__(self, tokenizer: Tokenizer, request: Request, stop: Sequence[str] = (), include_stop: bool = False) -> None:
        self._tokenizer, self._request, self._include_stop = tokenizer, request, include_stop
        self._no_text = frozenset(tokenizer.special_tokens.values())
        self._replies = [_Reply(tokenizer, StopStrings(stop, include_stop)) for _ in range(request.n)]
        self.num_prompt_tokens = len(request.prompt_ids)

    @property
    def num_reply_tokens(self) -> int:
        """Tokens of all replies up to their ends, stop ids and the tokens of stop strings included."""
        return sum(reply.num_tokens for reply in self._replies)

    @property
    def finished(self) -> bool:
        """Whether all n replies have ended."""
        return all(reply.finished for reply in self._replies)

    def feed(self, event: Event) -> Chunk | None:
        """The text that this event completes, if any.

        A chunk that ends its reply where the event does not (`chunk.finish_reason` and no `event.finish_reason`) has come to a stop
        string: the engine is to be told, by `cancel(event.request_id, event.index)`. Events of a reply that has ended are passed over.
        An event with an error ends all replies: its chunk has the reason "error" and what was held back.
        """
        reply = self._replies[event.index]
        if reply.finished:
            return None
        if event.error is not None:
            for other in self._replies:
                other.finished = True
            return Chunk(reply.rest(), "error", event.index, reply.tokens(ended=True))
        reply.num_tokens += 1
        if event.prompt_logprobs is not None:
            reply.prompt_logprobs = event.prompt_logprobs
        self._take(reply, event)
        searched = reply.num_tokens > self._request.min_new_tokens
        text, reason = reply.certain(searched, event.finish_reason)
        reply.finished = reason is not None
        if not text and reason is None:
            return None
        prompt_logprobs, reply.prompt_logprobs = reply.prompt_logprobs, None
        return Chunk(text, reason, event.index, reply.tokens(ended=reason is not None), prompt_logprobs)

    def _take(self, reply: _Reply, event: Event) -> None:
        known = event.token_id < self._tokenizer.vocab_size
        token = Token(event.token_id, self._tokenizer.token_bytes(event.token_id) if known else b"", event.logprob, event.top_logprobs)
        if event.token_id not in self._request.stop_ids or self._include_stop:
            reply.append(token, is_text=known and event.token_id not in self._no_text)


class _Reply:
    """One of the replies: what was decoded, what of it was given out, and the tokens that wait for their text.

    A token lies on the characters [start, end) of the reply's text; two tokens may share a character.
    """

    def __init__(self, tokenizer: Tokenizer, stops: StopStrings) -> None:
        self.finished, self.num_tokens = False, 0
        self.prompt_logprobs: tuple[tuple[float, Alternatives], ...] | None = None
        self._decoder, self._stops = StreamDecoder(tokenizer), stops
        self._text = ""  # decoded by the latest token
        self._num_decoded = self._num_given = 0
        self._waiting: deque[tuple[Token, int, int]] = deque()

    def append(self, token: Token, is_text: bool) -> None:
        """A further token."""
        start = self._num_decoded
        if is_text:
            self._text += self._decoder.feed([token.token_id])
            self._num_decoded += len(self._text)
        # bytes that wait will be one character, be it U+FFFD
        end = self._num_decoded + self._decoder.unfinished if is_text else start
        self._waiting.append((token, start, end))

    def certain(self, searched: bool, reason: FinishReason | None) -> tuple[str, FinishReason | None]:
        """The text that can be given out now, and why the reply ends with it, if it does."""
        text, self._text = self._text, ""
        if reason is not None:
            text += self._decoder.flush()
        if searched:
            text = self._stops.push(text)
        if self._stops.found:
            reason = "stop"
        elif reason is not None:
            text += self._stops.flush()
        self._num_given += len(text)
        return text, reason

    def rest(self) -> str:
        """All that was held back."""
        text = self._stops.flush() + self._decoder.flush()
        self._num_given += len(text)
        return text

    def tokens(self, ended: bool) -> tuple[Token, ...]:
        """The tokens whose text is given out and that were not handed out before; at a reply's end also one that is so in part."""
        complete: list[Token] = []
        while self._waiting:
            token, start, end = self._waiting[0]
            if end > self._num_given and not (ended and start < self._num_given):
                break
            complete.append(token)
            self._waiting.popleft()
        return tuple(complete)
