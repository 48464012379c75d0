"""Log-probabilities as OpenAI words them: one form for completions, one for chats.

Tokens flow in, plain dictionaries flow out. JSON has no infinity: what is impossible has the log-probability -9999, as OpenAI's has.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence

from framework.engine.request import Alternatives
from framework.generation import Token
from framework.server.answers import ChatLogprobs, TextLogprobs, TokenLogprob, TopLogprob
from framework.tokenizers.base import Tokenizer

LOWEST = -9999.0


def token_text(spelling: bytes) -> str:
    """A token's text; one that is no whole characters is written byte by byte: `bytes:\\xe2\\x82`."""
    try:
        return spelling.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in spelling)


def spelling(tokenizer: Tokenizer, token_id: int) -> bytes:
    """The bytes an id stands for; none for an id that only the network has."""
    return tokenizer.token_bytes(token_id) if token_id < tokenizer.vocab_size else b""


def chat_logprobs(tokens: Iterable[Token], tokenizer: Tokenizer) -> ChatLogprobs:
    """Of a piece of a chat's reply."""
    return {"content": [_chat_token(token, tokenizer) for token in tokens], "refusal": None}


def _chat_token(token: Token, tokenizer: Tokenizer) -> TokenLogprob:
    top = [_entry(spelling(tokenizer, token_id), logprob) for token_id, logprob in token.top]
    return {**_entry(token.text_bytes, token.logprob), "top_logprobs": top}


def _entry(text: bytes, logprob: float | None) -> TopLogprob:
    return {"token": token_text(text), "logprob": _finite(logprob), "bytes": list(text)}


def _finite(logprob: float | None) -> float:
    return LOWEST if logprob is None else max(logprob, LOWEST)


class TextTokens:
    """Writes the tokens of one completion in pieces, and counts the characters before each: special tokens are no text.

    Args:
        tokenizer: whose tokens they are.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._special = frozenset(tokenizer.special_tokens.values())
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._num_characters = 0

    def prompt(self, ids: Sequence[int], logprobs: Sequence[tuple[float, Alternatives]]) -> TextLogprobs:
        """Of a prompt's tokens; the first has none."""
        written = self.reply([Token(ids[0], spelling(self._tokenizer, ids[0]), None, ())])
        written["token_logprobs"], written["top_logprobs"] = [None], [None]
        rest = [Token(token, spelling(self._tokenizer, token), *told) for token, told in zip(ids[1:], logprobs, strict=True)]
        return joined(written, self.reply(rest))

    def reply(self, tokens: Sequence[Token]) -> TextLogprobs:
        """Of further tokens."""
        return {
            "tokens": [token_text(token.text_bytes) for token in tokens],
            "token_logprobs": [_finite(token.logprob) for token in tokens],
            "top_logprobs": [self._top(token) for token in tokens],
            "text_offset": [self._offset(token) for token in tokens],
        }

    def _top(self, token: Token) -> dict[str, float]:
        """The likeliest, and the token itself if it is not among them."""
        top: dict[str, float] = {}
        for token_id, logprob in (*token.top, (token.token_id, token.logprob)):
            top.setdefault(token_text(spelling(self._tokenizer, token_id)), _finite(logprob))
        return top

    def _offset(self, token: Token) -> int:
        offset = self._num_characters
        if token.token_id not in self._special:
            self._num_characters += len(self._decoder.decode(token.text_bytes))
        return offset


def joined(first: TextLogprobs, second: TextLogprobs) -> TextLogprobs:
    """Two pieces as one."""
    return {
        "tokens": first["tokens"] + second["tokens"],
        "token_logprobs": first["token_logprobs"] + second["token_logprobs"],
        "top_logprobs": first["top_logprobs"] + second["top_logprobs"],
        "text_offset": first["text_offset"] + second["text_offset"],
    }
