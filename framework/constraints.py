"""Replies held to a list of answers, a JSON schema or a regular expression.

Texts and a tokenizer flow in, constraints for the engine flow out. Must not know networks, samplers or requests.

Every tokenisation of an allowed text is allowed, not the tokenizer's own alone: what counts are the bytes, and the network prefers
the spelling it has learnt.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from framework.engine.constraint import Constraint
from framework.errors import RequestError
from framework.tokenizers.base import Tokenizer

MAX_CHARACTERS = 65_536  # of a schema or all choices: bounds the time to compile them, and a schema's depth
MAX_PATTERN_CHARACTERS = 4_096  # of an expression, or all in a schema: `.*` over and over takes the square of its length, here 1.6 s
COMPILER_STACK_BYTES = 256 << 20  # the deepest schema of that length needs 16 MiB, which a thread may not have
MAX_LEXER_STATES = 50_000  # a kilobyte or two each
KEPT_STATES = 64  # of a grammar, at the latest places of its replies
WHITESPACE = r"[ \n\t]{1,20}"  # between the parts of JSON, where there may be some: an endless run would never become a reply
INSTALL = "pip install 'framework[structured]'"


class Choice(Constraint):
    """The reply is one of some texts. After one that begins another ("yes", "yes sir"), both the end and the rest may follow.

    Args:
        answers: at least one.
        tokenizer: of the replies.
        stop_ids: end the reply; no answer is spelled with them.
        vocab_size: of the network, where it has more ids than the tokenizer.

    Raises:
        RequestError: there is no answer, they are too long, or the vocabulary cannot spell one.
    """

    def __init__(self, answers: Sequence[str], tokenizer: Tokenizer, stop_ids: Collection[int], vocab_size: int | None = None) -> None:
        if not answers:
            raise RequestError("choices is empty: give at least one text that the reply may be")
        _checked("list of choices", "".join(answers))
        self._spellings = _spellings(tokenizer)
        self._vocab_size = vocab_size or tokenizer.vocab_size
        self._stop_ids = sorted(stop_ids)
        self._answers = {answer.encode(): self._steps(answer) for answer in answers}

    def allowed(self, reply_ids: Sequence[int]) -> Tensor:
        """As `Constraint.allowed`; after ids that begin no answer only the end."""
        so_far = self._spellings.bytes_of(reply_ids)
        possible = {answer: steps for answer, steps in self._answers.items() if answer.startswith(so_far)}
        mask_V = torch.zeros(self._vocab_size, dtype=torch.bool)
        for answer, steps in possible.items():
            if so_far != answer:
                mask_V[steps[len(so_far)]] = True
        mask_V[self._stop_ids] = so_far in possible or not possible
        return mask_V

    def _steps(self, answer: str) -> list[list[int]]:
        """At each place of the answer, in bytes, the tokens that lead on to its end."""
        text, spellings, stops = answer.encode(), self._spellings, set(self._stop_ids)
        steps: list[list[int]] = [[] for _ in text]
        for start in reversed(range(len(text))):
            for end in range(start + 1, min(start + spellings.longest, len(text)) + 1):
                if end == len(text) or steps[end]:
                    steps[start] += [token for token in spellings.ids.get(text[start:end], ()) if token not in stops]
        if text and not steps[0]:
            raise RequestError(f"the choice {answer!r} cannot be spelled with this model's vocabulary")
        return steps


class Grammar(Constraint):
    """The reply is in a language that the llguidance library knows how to follow.

    Args:
        name: the language, as messages have it.
        write: makes the rule of the library's grammar, of its `LLMatcher`.
        tokenizer, stop_ids, vocab_size: as in `Choice`.

    Raises:
        RequestError: the library is not installed, refuses the grammar, or finds that nothing fits it.
    """

    def __init__(
        self,
        name: str,
        write: Callable[[Any], str],
        tokenizer: Tokenizer,
        stop_ids: Collection[int],
        vocab_size: int | None = None,
    ) -> None:
        try:
            import llguidance
        except ImportError:
            raise RequestError(f"a reply by a {name} needs the llguidance library: {INSTALL}") from None
        self._name, self._stop_ids = name, sorted(stop_ids)
        self._spellings, self._vocab_size = _spellings(tokenizer), vocab_size or tokenizer.vocab_size
        limits = llguidance.LLParserLimits(max_lexer_states=MAX_LEXER_STATES, verbose_errors=False)

        def build() -> Any:
            # without forcing: where only one text is possible, the library would choose its tokens itself
            grammar = f'%llguidance {{"no_forcing": true}}\n{write(llguidance.LLMatcher)}'
            return llguidance.LLMatcher(self._spellings.for_grammars, grammar, log_level=0, limits=limits)

        try:
            start = _with_deep_stack(build)
        except (ValueError, RecursionError) as refused:
            raise RequestError(f"this {name} cannot be used: {_line(str(refused))}") from None
        if start.is_error():
            raise RequestError(f"this {name} cannot be used: {_line(start.get_error())}")
        self._states: OrderedDict[tuple[int, ...], Any] = OrderedDict({(): start})
        self._start = start
        try:
            self.allowed(())
        except RequestError:
            raise RequestError(f"this {name} cannot be used: nothing fits it, or it is too complex") from None

    def allowed(self, reply_ids: Sequence[int]) -> Tensor:
        """As `Constraint.allowed`; after ids that do not fit only the end. Raises RequestError where there is no way on."""
        ids = tuple(reply_ids)
        state = self._states.get(ids) or self._follow(ids)
        mask_V = torch.zeros(self._vocab_size, dtype=torch.bool)
        if state is None:
            mask_V[self._stop_ids] = True
            return mask_V
        bits = np.unpackbits(np.frombuffer(state.compute_bitmask(), dtype=np.uint8), bitorder="little").astype(bool)
        if state.is_error() and "NoExtension" not in state.get_error():
            raise RequestError(f"the {self._name} became too complex to follow: {_line(state.get_error())}")
        mask_V[: self._spellings.end_id] = torch.from_numpy(bits[: self._spellings.end_id])
        mask_V[self._stop_ids] = bool(bits[self._spellings.end_id])
        if state.is_error() or not mask_V.any():
            raise RequestError(f"no token of this model's vocabulary goes on as the {self._name} wants")
        return mask_V

    def _follow(self, ids: tuple[int, ...]) -> Any:
        """The state after these ids, from the one before the last of them where that is known; None if they do not fit."""
        before = self._states.get(ids[:-1])
        state = (before or self._start).deep_copy()
        further = list(ids if before is None else ids[-1:])
        if state.try_consume_tokens(further) < len(further):
            return None
        self._states[ids] = state
        if len(self._states) > KEPT_STATES:
            self._states.popitem(last=False)
        return state


class JSONSchema(Grammar):
    """The reply is JSON that a schema allows, its keys in the schema's order.

    Args:
        schema: a mapping, or its JSON text. References to other documents are not followed.
        tokenizer, stop_ids, vocab_size: as in `Choice`.

    Raises:
        RequestError: no JSON, too long, a keyword that is not known, a schema that nothing fits.
    """

    def __init__(
        self, schema: Mapping[str, Any] | str, tokenizer: Tokenizer, stop_ids: Collection[int], vocab_size: int | None = None
    ) -> None:
        text = _checked("JSON schema", schema if isinstance(schema, str) else _json(schema))
        if (length := sum(map(len, _patterns(text)))) > MAX_PATTERN_CHARACTERS:
            raise RequestError(
                f"the patterns of this JSON schema have {length} characters, more than {MAX_PATTERN_CHARACTERS}: shorten them"
            )

        def write(library: Any) -> str:
            rule = json.loads(library.grammar_from_json_schema(text, defaults={"whitespace_pattern": WHITESPACE}))
            return f"start: %json {json.dumps(rule['grammars'][0]['json_schema'])}"

        super().__init__("JSON schema", write, tokenizer, stop_ids, vocab_size)


class Regex(Grammar):
    """The whole reply matches a regular expression.

    Args:
        pattern: in the syntax of Rust's regex crate: no look-around, no back-references.
        tokenizer, stop_ids, vocab_size: as in `Choice`.

    Raises:
        RequestError: not that syntax, or too long.
    """

    def __init__(self, pattern: str, tokenizer: Tokenizer, stop_ids: Collection[int], vocab_size: int | None = None) -> None:
        text = _checked("regular expression", pattern, MAX_PATTERN_CHARACTERS)

        def write(library: Any) -> str:
            return str(json.loads(library.grammar_from_regex(text))["grammars"][0]["lark_grammar"])

        super().__init__("regular expression", write, tokenizer, stop_ids, vocab_size)


class _Spellings:
    """A tokenizer's ordinary tokens by their bytes."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._special_ids = sorted(tokenizer.special_tokens.values())
        self._bytes = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
        self.end_id = len(self._bytes)  # one that no tokenizer has: the end of a grammar's text
        self.ids: dict[bytes, list[int]] = {}
        special = set(self._special_ids)
        for token, spelling in enumerate(self._bytes):
            if spelling and token not in special:
                self.ids.setdefault(spelling, []).append(token)
        self.longest = max(map(len, self.ids))

    def bytes_of(self, ids: Sequence[int]) -> bytes:
        return b"".join(self._bytes[token] if token < self.end_id else b"" for token in ids)

    @cached_property
    def for_grammars(self) -> Any:
        """The vocabulary as llguidance takes it."""
        import llguidance

        vocabulary: Any = _Vocabulary([*self._bytes, b"<end>"], [*self._special_ids, self.end_id])  # its stub names another type
        return llguidance.LLTokenizer(vocabulary)


class _Vocabulary:
    """What llguidance asks of a tokenizer. It has no text encoded, since nothing is forced."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokens: Sequence[bytes], special_token_ids: Sequence[int]) -> None:
        self.tokens, self.special_token_ids, self.eos_token_id = tokens, special_token_ids, len(tokens) - 1

    def __call__(self, text: str) -> list[int]:
        return []


_known: WeakKeyDictionary[Tokenizer, _Spellings] = WeakKeyDictionary()
_compiling = threading.Lock()


def _spellings(tokenizer: Tokenizer) -> _Spellings:
    """Made once for each tokenizer: a vocabulary of 50,000 takes a third of a second."""
    if tokenizer not in _known:
        _known[tokenizer] = _Spellings(tokenizer)
    return _known[tokenizer]


def _with_deep_stack(build: Callable[[], Any]) -> Any:
    """The result of a function that may recurse deeply outside Python, where an overflow would end the process."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(build())
        except BaseException as failure:
            outcome.append(failure)

    with _compiling:
        before = threading.stack_size(COMPILER_STACK_BYTES)
        try:
            thread = threading.Thread(target=run, daemon=True)
            thread.start()
        finally:
            threading.stack_size(before)
    thread.join()
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def _json(schema: Mapping[str, Any]) -> str:
    try:
        return json.dumps(schema)
    except (TypeError, ValueError, RecursionError) as problem:
        raise RequestError(f"this JSON schema cannot be used: {_line(str(problem))}") from None


def _patterns(schema: str) -> Iterator[str]:
    """The regular expressions in a schema, by the keywords that hold them. Raises RequestError for what is no JSON."""
    try:
        left = [json.loads(schema)]
    except (ValueError, RecursionError) as problem:
        raise RequestError(f"this JSON schema cannot be used: {_line(str(problem))}") from None
    while left:
        value = left.pop()
        if isinstance(value, dict):
            left += value.values()
            keyed = value.get("patternProperties")
            yield from keyed if isinstance(keyed, dict) else ()
            yield from (value[key] for key in ("pattern", "whitespace_pattern") if isinstance(value.get(key), str))
        elif isinstance(value, list):
            left += value


def _checked(name: str, text: str, longest: int = MAX_CHARACTERS) -> str:
    if len(text) > longest:
        raise RequestError(f"this {name} has {len(text)} characters, more than {longest}: shorten it")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RequestError(f"this {name} holds half a surrogate pair, which is no character") from None
    return text


def _line(message: str) -> str:
    """A library's message, of which an echo of the user's text may make pages, as part of one line."""
    words = " ".join(message.replace("<non-verbose/>", "").split())
    return words if len(words) <= 200 else f"{words[:197]}..."
