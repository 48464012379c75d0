"""A model's chat template: messages become the ids that the model was trained to read them as.

Messages and a tokenizer flow in, ids flow out. Must not know the engine or how a reply is made.

What a message says never becomes a special token, whatever it spells. The template's own special tokens are replaced by marks
before it is rendered, a mark being half a surrogate pair, which no text holds; only marks become special ids. Between two of them,
template and contents together are encoded as one text, as transformers does it, so that merges across their border are the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from weakref import WeakKeyDictionary

from framework.chat.rendered import Rendered
from framework.chat.sandbox import Sandbox
from framework.chat.templates import FILE, find_template, stored_template
from framework.datasets.base import ROLES, Message
from framework.errors import RequestError
from framework.files import write_durably
from framework.tokenizers.base import Tokenizer
from framework.tokenizers.text import well_formed

FIRST_MARK, NUM_MARKS = 0xDC00, 0x400  # the second halves: two of them side by side are no pair
MARK = re.compile("([\udc00-\udfff])")
PROBE = "xyzzy"
SUBJECT = "the model's chat template"


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
        source, tokens = stored_template(Path(directory))
        return cls(source, tokens) if source else None

    @classmethod
    def named(cls, name: str, tokenizer: Tokenizer) -> ChatTemplate:
        """A template for a tokenizer: `chatml`, `simple`, a .jinja file or a model directory.

        Raises ConfigError if there is none, or it has special tokens that the tokenizer lacks.
        """
        return cls(*find_template(name, tokenizer))

    def save(self, directory: Path) -> None:
        """Write `chat_template.jinja`, where transformers looks for it; the tokenizer's own files spell its variables."""
        write_durably(Path(directory) / FILE, lambda file: file.write(self.source.encode()))

    def render(self, messages: Sequence[Message], tokenizer: Tokenizer, add_generation_prompt: bool = True) -> list[int]:
        """The ids of a chat.

        Args:
            messages: at least one.
            tokenizer: of the model that the template belongs to.
            add_generation_prompt: end with what precedes a reply, so that the model goes on with one.

        Raises:
            RequestError: an unknown role, a chat that the template refuses, or a template that cannot be used.
        """
        if not messages:
            raise RequestError("the chat has no messages: give at least one")
        fitted = self._fit(tokenizer)
        (text,) = fitted.render((messages, add_generation_prompt))
        ids: list[int] = []
        for part in fitted.parts(text):
            ids += tokenizer.encode(part) if isinstance(part, str) else [part]
        return ids

    def render_replies(self, messages: Sequence[Message], num_asked: int, tokenizer: Tokenizer) -> Rendered:
        """The ids of a chat up to the end of its last assistant's turn, and which of them the assistant's turns are, ends included.

        Args:
            messages: with an assistant's turn.
            num_asked: how many of them, from the first, are no replies whoever speaks.
            tokenizer: of the model that the template belongs to.

        Raises:
            RequestError: as `render`; and a template that does not tell where these replies are, or has no special token that ends them.
        """
        fitted = self._fit(tokenizer)
        text, replies = fitted.find_replies(messages, num_asked)
        rendered = Rendered([], [])
        start = 0
        for part in fitted.parts(text):
            length = len(part) if isinstance(part, str) else 1
            reply = next((reply for reply in replies if start + length - 1 in reply), None)  # a reply ends with a special token, no text
            if isinstance(part, int):
                piece = Rendered([part], [reply is not None])
            else:
                num_before = length if reply is None else max(reply.start - start, 0)
                piece = Rendered.of(part[:num_before], part[num_before:], tokenizer)
            rendered.ids.extend(piece.ids)
            rendered.is_reply.extend(piece.is_reply)
            start += length
        return rendered

    def end_ids(self, tokenizer: Tokenizer) -> frozenset[int]:
        """The special id that ends an assistant's turn; empty if the template has none, or cannot be used."""
        try:
            return self._fit(tokenizer).end_ids
        except RequestError:
            return frozenset()

    def _fit(self, tokenizer: Tokenizer) -> _Fitted:
        if tokenizer not in self._fitted:
            self._fitted[tokenizer] = _Fitted(self, tokenizer)
        return self._fitted[tokenizer]


class _Fitted:
    """A template with one tokenizer's special tokens marked."""

    def __init__(self, template: ChatTemplate, tokenizer: Tokenizer) -> None:
        special_tokens = tokenizer.special_tokens
        spelled = [token for token in special_tokens if token in template.source or token in template.tokens.values()]
        if len(spelled) > NUM_MARKS:
            raise RequestError(f"{SUBJECT} spells {len(spelled)} special tokens, more than {NUM_MARKS}")
        marks = {token: chr(FIRST_MARK + number) for number, token in enumerate(spelled)}
        self._ids = {mark: special_tokens[token] for token, mark in marks.items()}
        taking = {mark: tokenizer.takes_spaces(token) for token, mark in marks.items()}
        before, behind = ("".join(mark for mark in taking if taking[mark][side]) for side in (0, 1))
        patterns = [rf"\s+(?=[{before}])" if before else "", rf"(?<=[{behind}])\s+" if behind else ""]
        self._spaces_taken = re.compile("|".join(filter(None, patterns)) or r"(?!)")  # by special tokens, as transformers has it
        self._tokens = {name: marks.get(token, token) for name, token in template.tokens.items()}
        self._sandbox = Sandbox(template.source, marks)
        self.end_ids = self._try_out(special_tokens)
        self._end_mark = next((mark for mark, token_id in self._ids.items() if token_id in self.end_ids), None)

    def render(self, *chats: tuple[Sequence[Message], bool]) -> list[str]:
        """The text of each chat, with a generation prompt or without; special tokens are marks."""
        fixed = {"tools": None, "documents": None, **self._tokens}
        texts = self._sandbox.render(
            [
                {
                    "messages": [{"role": _known(message.role), "content": well_formed(message.content)} for message in messages],
                    "add_generation_prompt": add_generation_prompt,
                    **fixed,
                }
                for messages, add_generation_prompt in chats
            ]
        )
        return [self._spaces_taken.sub("", text) for text in texts]

    def parts(self, text: str) -> Iterator[str | int]:
        """The special ids of a rendered text, and the texts between them."""
        return (self._ids.get(part, part) for part in MARK.split(text) if part)

    def find_replies(self, messages: Sequence[Message], num_asked: int) -> tuple[str, list[range]]:
        """The rendered text up to the end of its last reply, and where in it each reply is, the mark that ends it included.

        A reply begins where the chat before it ends with its generation prompt, and ends with the first end of a turn from there on. Both
        must read the same in the whole chat, or else the model would be trained on what it neither reads nor writes when it is used.
        """
        turns = [number for number, message in enumerate(messages) if number >= num_asked and message.role == "assistant"]
        if not turns:
            raise RequestError("the chat has no assistant's turn to train")
        if self._end_mark is None:
            raise RequestError(f"{SUBJECT} ends an assistant's turn with no special token: a model trained by it would not learn to end")
        wanted = dict.fromkeys(key for turn in turns for key in ((turn + 1, False), (turn, True)))
        texts = dict(zip(wanted, self.render(*((messages[:count], prompted) for count, prompted in wanted)), strict=True))
        whole, replies = texts[turns[-1] + 1, False], []
        for turn in turns:
            start, with_turn = len(texts[turn, True]), texts[turn + 1, False]
            if not whole.startswith(texts[turn, True]):
                raise RequestError(
                    f"{SUBJECT} begins message {turn + 1} otherwise than its generation prompt does (as those do that ask for thoughts): "
                    "a model trained by it would not read what it is asked with; take another template to train"
                )
            end = with_turn.find(self._end_mark, start) + 1
            if not end:
                raise RequestError(f"{SUBJECT} does not end message {turn + 1} with the special token that ends other turns")
            if not whole.startswith(with_turn[:end]):
                raise RequestError(
                    f"{SUBJECT} renders message {turn + 1} otherwise once more messages follow it: give what comes before the last reply "
                    "as the prompt, so that only the last is trained"
                )
            replies.append(range(start, end))
        return whole[: replies[-1].stop], replies

    def _try_out(self, special_tokens: Mapping[str, int]) -> frozenset[int]:
        """The special id after an assistant's turn. Raises RequestError for a template whose special tokens are not to be seen in it."""
        (text,) = self.render(([Message("user", "?"), Message("assistant", PROBE)], False))
        parts = list(self.parts(text))
        for part in parts:
            if isinstance(part, str) and (found := [token for token in special_tokens if token in part]):
                raise RequestError(
                    f"{SUBJECT} puts the special token {found[0]} together from pieces; "
                    "spell it out, so that it can be told from what a message says"
                )
        said = next((place for place, part in enumerate(parts) if isinstance(part, str) and PROBE in part), len(parts))
        return frozenset([part for part in parts[said:] if isinstance(part, int)][:1])


def _known(role: str) -> str:
    if role not in ROLES:
        raise RequestError(f"a message has the role {role!r}; known: {', '.join(ROLES)}")
    return role
