"""A model's chat template: messages become the ids that the model was trained to read them as.

Messages and a tokenizer flow in, ids flow out. Must not know the engine or how a reply is made.

What a message says never becomes a special token, whatever it spells. The template's own special tokens are replaced by marks
before it is rendered, a mark being half a surrogate pair, which no text holds; only marks become special ids. Between two of them,
template and contents together are encoded as one text, as transformers does it, so that merges across their border are the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from weakref import WeakKeyDictionary

from framework.chat.sandbox import Sandbox
from framework.datasets.base import Message
from framework.errors import CheckpointError, RequestError
from framework.tokenizers.base import Tokenizer
from framework.tokenizers.text import well_formed

ROLES = ("system", "developer", "user", "assistant", "tool")
FILE, CONFIG = "chat_template.jinja", "tokenizer_config.json"
TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")  # variables of the template, named in the configuration
FIRST_MARK, NUM_MARKS = 0xDC00, 0x400  # the second halves: two of them side by side are no pair
MARK = re.compile("[\udc00-\udfff]")
PROBE = "xyzzy"


class ChatTemplate:
    """The template of a model, in Jinja as transformers runs it: with `messages`, `add_generation_prompt` and the special tokens.

    Args:
        source: the template.
        tokens: spelling of `bos_token`, `eos_token` and the like, for templates that name them so.
    """

    def __init__(self, source: str, tokens: Mapping[str, str] | None = None) -> None:
        self.source, self.tokens = source, dict(tokens or {})
        self._fitted: WeakKeyDictionary[Tokenizer, _Fitted] = WeakKeyDictionary()

    def __reduce__(self) -> tuple[type[ChatTemplate], tuple[str, dict[str, str]]]:
        return ChatTemplate, (self.source, self.tokens)

    @classmethod
    def load(cls, directory: Path) -> ChatTemplate | None:
        """The template of a model directory; None if it has none. Raises CheckpointError for files that cannot be read."""
        file, beside = Path(directory) / FILE, Path(directory) / CONFIG
        try:
            config = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
            stated = file.read_text(encoding="utf-8") if file.is_file() else config.get("chat_template")
            if isinstance(stated, list):  # several by name
                stated = {entry["name"]: entry["template"] for entry in stated}.get("default")
        except (OSError, ValueError, AttributeError, KeyError, TypeError) as problem:
            raise CheckpointError(f"the chat template in {directory} cannot be read: {problem}") from problem
        if stated is not None and not isinstance(stated, str):
            raise CheckpointError(f"the chat template in {beside} is no text but a {type(stated).__name__}")
        return None if not stated else cls(stated, _spellings(config))

    def render(self, messages: Sequence[Message], tokenizer: Tokenizer, add_generation_prompt: bool = True) -> list[int]:
        """The ids of a chat.

        Args:
            messages: at least one.
            tokenizer: of the model that the template belongs to.
            add_generation_prompt: end with what precedes a reply, so that the model goes on with one.

        Raises:
            RequestError: an unknown role, a chat that the template refuses, or a template that cannot be used.
        """
        ids: list[int] = []
        for part in self._fit(tokenizer).parts(messages, add_generation_prompt):
            ids += tokenizer.encode(part) if isinstance(part, str) else [part]
        return ids

    def end_ids(self, tokenizer: Tokenizer) -> frozenset[int]:
        """The special id that ends an assistant's turn; empty if the template has none, or cannot be used."""
        try:
            return self._fit(tokenizer).end_ids
        except RequestError:
            return frozenset()

    def _fit(self, tokenizer: Tokenizer) -> _Fitted:
        if tokenizer not in self._fitted:
            self._fitted[tokenizer] = _Fitted(self, tokenizer.special_tokens)
        return self._fitted[tokenizer]


class _Fitted:
    """A template with one tokenizer's special tokens marked."""

    def __init__(self, template: ChatTemplate, special_tokens: Mapping[str, int]) -> None:
        spelled = [token for token in special_tokens if token in template.source or token in template.tokens.values()]
        if len(spelled) > NUM_MARKS:
            raise RequestError(f"the model's chat template spells {len(spelled)} special tokens, more than {NUM_MARKS}")
        marks = {token: chr(FIRST_MARK + number) for number, token in enumerate(spelled)}
        self._ids = {mark: special_tokens[token] for token, mark in marks.items()}
        self._tokens = {name: marks.get(token, token) for name, token in template.tokens.items()}
        self._sandbox = Sandbox(template.source, marks)
        self.end_ids = self._try_out(special_tokens)

    def parts(self, messages: Sequence[Message], add_generation_prompt: bool) -> Iterator[str | int]:
        """The rendered chat: special ids, and the texts between them."""
        turns = [{"role": _known(message.role), "content": well_formed(message.content)} for message in messages]
        if not turns:
            raise RequestError("the chat has no messages: give at least one")
        text = self._sandbox.render(
            {"messages": turns, "add_generation_prompt": add_generation_prompt, "tools": None, "documents": None, **self._tokens}
        )
        start = 0
        for mark in MARK.finditer(text):
            if mark.start() > start:
                yield text[start : mark.start()]
            yield self._ids[mark.group()]
            start = mark.end()
        if start < len(text):
            yield text[start:]

    def _try_out(self, special_tokens: Mapping[str, int]) -> frozenset[int]:
        """The special id after an assistant's turn. Raises RequestError for a template whose special tokens are not to be seen in it."""
        parts = list(self.parts([Message("user", "?"), Message("assistant", PROBE)], add_generation_prompt=False))
        for part in parts:
            if isinstance(part, str) and (found := [token for token in special_tokens if token in part]):
                raise RequestError(
                    f"the model's chat template puts the special token {found[0]} together from pieces; spell it out, "
                    "so that it can be told from what a message says"
                )
        said = next((place for place, part in enumerate(parts) if isinstance(part, str) and PROBE in part), len(parts))
        return frozenset([part for part in parts[said:] if isinstance(part, int)][:1])


def _known(role: str) -> str:
    if role not in ROLES:
        raise RequestError(f"a message has the role {role!r}; known: {', '.join(ROLES)}")
    return role


def _spellings(config: Mapping[str, object]) -> dict[str, str]:
    """Variable -> spelling; a configuration gives a token as its spelling or as an object with `content`."""
    stated = {name: config.get(name) for name in TOKENS}
    spelled = {name: token.get("content") if isinstance(token, dict) else token for name, token in stated.items()}
    return {name: token for name, token in spelled.items() if isinstance(token, str)}
