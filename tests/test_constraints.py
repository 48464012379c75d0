"""Constraints: what they allow at each place against plain definitions, any tokenisation, and grammars meant to do harm."""

from __future__ import annotations

import json
import random
import re
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from framework.constraints import Choice, JSONSchema, Regex
from framework.engine.constraint import Constraint
from framework.errors import RequestError
from framework.tokenizers.base import Tokenizer
from framework.tokenizers.byte import Byte

END, TURN, NEWLINE = 0, 1, 2
EXTRA = 3  # ids that only the network has


class Words(Tokenizer):
    """Two special ids, a newline, then words over a few letters: a vocabulary in which texts have many spellings."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = [b"<end>", b"<turn>", b"\n", *(word.encode() for word in words), b""]

    vocab_size = property(lambda self: len(self.words))  # type: ignore[assignment]
    eos_id = END  # type: ignore[assignment]
    fingerprint = ""  # type: ignore[assignment]

    @property
    def special_tokens(self) -> Mapping[str, int]:
        return {"<end>": END, "<turn>": TURN}

    def encode(self, text: str) -> list[int]:
        left, ids = text.encode(), []
        while left:
            token = max(
                (i for i, word in enumerate(self.words) if i > TURN and word and left.startswith(word)), key=lambda i: len(self.words[i])
            )
            ids.append(token)
            left = left[len(self.words[token]) :]
        return ids

    def token_bytes(self, token_id: int) -> bytes:
        return self.words[token_id]

    def save(self, directory: Path) -> None:
        raise NotImplementedError


SYLLABLES = [*"abcxyz<>endsir", "ab", "abc", "bc", "xy", "abx", "é", "yes", " ", "sir", "es sir", "s s"]
JSON_PIECES = [*'{}[]":,0123456789.-+eE', "true", "false", "null", '{"', '":', '", "', "a", "b", "c", "\\", *"ntrufls", "tr", "ue", " "]


def ids_of(mask_V: torch.Tensor) -> list[int]:
    assert mask_V.dtype == torch.bool and mask_V.any()
    return mask_V.nonzero().flatten().tolist()


def walk(constraint: Constraint, tokenizer: Tokenizer, stops: set[int], rng: random.Random, most: int = 200, close: str = "") -> str | None:
    """A reply of random allowed tokens, as text; None if it has not ended after so many. Prefers tokens that spell `close` later on."""
    ids: list[int] = []
    while len(ids) < most:
        allowed = ids_of(constraint.allowed(ids))
        going_on = [token for token in allowed if token not in stops]
        if not going_on or (len(going_on) < len(allowed) and (rng.random() < 0.3 or len(ids) > most // 2)):
            return b"".join(tokenizer.token_bytes(token) for token in ids).decode()
        closing = [token for token in going_on if tokenizer.token_bytes(token).decode(errors="replace") in close]
        ids.append(rng.choice(closing if closing and len(ids) > most // 4 else going_on))
    return None


# choices


@settings(max_examples=200, deadline=None)
@given(
    answers=st.lists(st.sampled_from(["yes", "yes sir", "ab", "abc", "abx", "é", "<end>", "\n", ""]), min_size=1, max_size=5),
    seed=st.integers(0, 99),
)
def test_a_choice_allows_what_leads_to_an_answer_and_nothing_else(answers: list[str], seed: int) -> None:
    tokenizer = Words(SYLLABLES)
    stops = {END, TURN}
    constraint = Choice(answers, tokenizer, stops, tokenizer.vocab_size + EXTRA)
    rng, ids = random.Random(seed), []
    while True:
        text = b"".join(tokenizer.token_bytes(token) for token in ids)
        ordinary = [token for token in range(2, tokenizer.vocab_size) if tokenizer.token_bytes(token)]
        expected = {token for token in ordinary if any(a.encode().startswith(text + tokenizer.token_bytes(token)) for a in answers)}
        complete = text.decode(errors="replace") in answers
        mask_V = constraint.allowed(ids)
        assert mask_V.shape == (tokenizer.vocab_size + EXTRA,)
        assert set(ids_of(mask_V)) == expected | (stops if complete else set())
        if not expected:
            break
        ids.append(rng.choice(sorted(expected)))


def test_an_answer_that_begins_another_may_end_or_go_on() -> None:
    tokenizer = Words(SYLLABLES)
    constraint = Choice(["yes", "yes sir"], tokenizer, [END])
    yes, space = tokenizer.encode("yes"), tokenizer.encode(" ")
    assert ids_of(constraint.allowed(yes)) == [END, *space]
    assert ids_of(constraint.allowed(tokenizer.encode("yes sir"))) == [END]
    assert ids_of(constraint.allowed(tokenizer.encode("no".replace("no", "zz")))) == [END], "after ids that do not fit only the end"


def test_tokens_that_lead_nowhere_are_not_allowed() -> None:
    """`q` can only be spelled inside `bq`: having taken `ab` there would be no way on."""
    tokenizer = Words(["a", "ab", "bq"])
    assert ids_of(Choice(["abq"], tokenizer, [END]).allowed([])) == tokenizer.encode("a")
    with pytest.raises(RequestError, match="'abz' cannot be spelled"):
        Choice(["a", "abz"], tokenizer, [END])


def test_a_stop_id_does_not_spell_an_answer() -> None:
    tokenizer = Words(["a"])
    with pytest.raises(RequestError, match="cannot be spelled"):
        Choice(["a\na"], tokenizer, [END, NEWLINE])
    assert ids_of(Choice(["a\na"], tokenizer, [END]).allowed(tokenizer.encode("a"))) == [NEWLINE]


def test_choices_are_bounded() -> None:
    with pytest.raises(RequestError, match="list of choices has 70000 characters"):
        Choice(["a" * 70_000], Byte(), [256])
    with pytest.raises(RequestError, match="surrogate"):
        Choice(["\ud800"], Byte(), [256])


# grammars


@pytest.fixture(scope="module")
def llguidance() -> Any:
    return pytest.importorskip("llguidance")


@pytest.mark.usefixtures("llguidance")
@pytest.mark.parametrize("pattern", ["(ab|abc)+x?", "[a-c]{2,5}", "é+", "yes( sir)?", "<end>", "(xy|x)(yy|z)"])
def test_replies_match_the_expression_in_every_spelling(pattern: str) -> None:
    tokenizer = Words(SYLLABLES)
    stops = {END, TURN}
    constraint = Regex(pattern, tokenizer, stops, tokenizer.vocab_size + EXTRA)
    rng = random.Random(0)
    texts = {text for _ in range(60) if (text := walk(constraint, tokenizer, stops, rng, most=30)) is not None}
    assert texts and all(re.fullmatch(pattern, text) for text in texts)
    mask_V = constraint.allowed([])
    assert mask_V.shape == (tokenizer.vocab_size + EXTRA,) and not mask_V[tokenizer.vocab_size - 1 :].any()


@pytest.mark.usefixtures("llguidance")
def test_a_mask_depends_on_the_reply_alone() -> None:
    """In any order of asking, from memory or anew, after ids that do not fit, and beyond what is kept."""
    tokenizer = Words(SYLLABLES)
    stops, rng = {END}, random.Random(1)
    constraint = Regex("(ab|abc|x){1,80}y", tokenizer, stops)
    replies: list[tuple[int, ...]] = [()]
    for _ in range(150):
        start = rng.choice(replies)
        replies.append((*start, rng.choice([token for token in ids_of(constraint.allowed(start)) if token not in stops] or [END])))
    expected = {reply: ids_of(Regex("(ab|abc|x){1,80}y", tokenizer, stops).allowed(reply)) for reply in rng.sample(replies, 25)}
    for reply in rng.choices(list(expected), k=100):
        assert ids_of(constraint.allowed(reply)) == expected[reply]
    misfit = tokenizer.encode("yyy")
    assert ids_of(constraint.allowed(misfit)) == [END] and ids_of(constraint.allowed([])) == ids_of(constraint.allowed(()))


@pytest.mark.usefixtures("llguidance")
def test_a_vocabulary_that_cannot_go_on_is_no_end() -> None:
    """With `b` missing, `a` would never become `ab`: an error of this request, and no reply that does not match."""
    tokenizer = Words(["a"])
    constraint = Regex("ab", tokenizer, [END])
    with pytest.raises(RequestError, match="no token of this model's vocabulary goes on"):
        constraint.allowed(tokenizer.encode("a"))
    with pytest.raises(RequestError, match="nothing fits"):
        Regex("b", tokenizer, [END])


SCHEMA = {
    "type": "object",
    "properties": {
        "a": {"enum": ["a", "b\n", None]},
        "b": {"type": "array", "items": {"type": "integer"}, "maxItems": 3},
        "c": {"type": "boolean"},
    },
    "required": ["a", "b"],
    "additionalProperties": False,
}


@pytest.mark.usefixtures("llguidance")
@pytest.mark.parametrize("tokenizer", [Words(JSON_PIECES), Byte()], ids=["words", "bytes"])
def test_replies_are_json_of_the_schema(tokenizer: Tokenizer) -> None:
    stops = {tokenizer.eos_id}
    rng, texts = random.Random(0), []
    for schema in (SCHEMA, json.dumps(SCHEMA)):
        constraint = JSONSchema(schema, tokenizer, stops)
        texts += [walk(constraint, tokenizer, stops, rng, most=200, close="]},") for _ in range(15)]
    replies = [json.loads(text) for text in texts if text is not None]
    assert len(replies) > 20
    for reply in replies:
        assert list(reply) in (["a", "b"], ["a", "b", "c"]) and reply["a"] in ("a", "b\n", None) and len(reply["b"]) <= 3
        assert all(type(number) is int for number in reply["b"]) and type(reply.get("c", True)) is bool


@pytest.mark.usefixtures("llguidance")
def test_white_space_ends() -> None:
    """A small model may write blanks for ever; JSON has no need of more than some."""
    tokenizer = Byte()
    constraint = JSONSchema({"type": "array", "items": {"type": "integer"}, "minItems": 1}, tokenizer, [tokenizer.eos_id])
    ids = [*b"["]
    while ord(" ") in ids_of(constraint.allowed(ids)):
        ids.append(ord(" "))
    assert 2 <= len(ids) <= 22


@pytest.mark.usefixtures("llguidance")
def test_a_newline_that_stops_is_no_part_of_the_json() -> None:
    tokenizer = Words(JSON_PIECES)
    assert NEWLINE in ids_of(JSONSchema(SCHEMA, tokenizer, [END]).allowed(tokenizer.encode("{")))
    assert NEWLINE not in ids_of(JSONSchema(SCHEMA, tokenizer, [END, NEWLINE]).allowed(tokenizer.encode("{")))


def chain(wrap: Any, length: int = 1200) -> str:
    """A schema whose parts refer to one another, as deep as its length allows."""
    parts = {format(i, "x"): wrap({"$ref": f"#/{i + 1:x}"}) for i in range(length)} | {format(length, "x"): {"type": "string"}}
    return json.dumps({"$ref": "#/0", **parts}, separators=(",", ":"))


BAD_SCHEMAS = {
    "no JSON": "{",
    "no schema": "[1]",
    "unknown type": {"type": "nonsense"},
    "nowhere": {"$ref": "#/nowhere"},
    "elsewhere": {"$ref": "http://example.com/schema"},
    "nothing fits": {"allOf": [{"type": "string"}, {"type": "number"}]},
    "itself": {"$ref": "#"},
    "unsupported": {"type": "array", "uniqueItems": True},
    "bad pattern": {"type": "string", "pattern": "("},
    "too long": {"enum": [str(number) for number in range(100_000)]},
    "no JSON values": {"enum": {1, 2}},
    "not a number": '{"type": "integer", "minimum": NaN}',
}
BAD_PATTERNS = ["(", "[z-a]", r"(?=a)b", r"(a)\1", "a{2,1}", "(" * 20_000 + ")" * 20_000, "a" * 70_000, "\ud800"]


@pytest.mark.usefixtures("llguidance")
@pytest.mark.parametrize("name", BAD_SCHEMAS)
def test_bad_schemas_are_refused_in_one_line(name: str) -> None:
    with pytest.raises(RequestError) as refused:
        JSONSchema(BAD_SCHEMAS[name], Byte(), [256])  # type: ignore[arg-type]
    assert "JSON schema" in str(refused.value) and "\n" not in str(refused.value) and len(str(refused.value)) < 300


@pytest.mark.usefixtures("llguidance")
@pytest.mark.parametrize("pattern", BAD_PATTERNS, ids=range(len(BAD_PATTERNS)))
def test_bad_expressions_are_refused_in_one_line(pattern: str) -> None:
    with pytest.raises(RequestError) as refused:
        Regex(pattern, Byte(), [256])
    assert "regular expression" in str(refused.value) and "\n" not in str(refused.value) and len(str(refused.value)) < 300


def deep_mapping() -> dict[str, Any]:
    schema: dict[str, Any] = {}
    place = schema
    for _ in range(100_000):
        place["items"] = place = {}
    return schema


HOSTILE: list[tuple[type[Constraint], Any]] = [
    (JSONSchema, deep_mapping()),
    (JSONSchema, "[" * 60_000),
    (JSONSchema, chain(lambda next_: next_)),
    (JSONSchema, chain(lambda next_: {"items": next_})),
    (JSONSchema, chain(lambda next_: {"anyOf": [next_, {}]})),
    (JSONSchema, chain(lambda next_: {"properties": {"a": next_}})),
    (JSONSchema, {"type": "string", "minLength": 10**9}),
    (JSONSchema, {"type": "array", "minItems": 10**9, "items": {"type": "string"}}),
    (Regex, "((a{1000}){1000}){1000}"),
    (Regex, "(a|aa)+" * 500 + "b"),
    (Regex, ".*" * 2048),
    (JSONSchema, {"patternProperties": {".*" * 10 + str(number): {} for number in range(180)}}),
    (JSONSchema, {"type": "string", "pattern": ".*" * 30_000}),
    (JSONSchema, {"type": "string", "x-guidance": {"whitespace_pattern": ".*" * 30_000}}),
    (Regex, "a?" * 1000 + "a" * 1000),
    (Regex, "(.*a.{200}b)*"),
]


@pytest.mark.usefixtures("llguidance")
@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_hostile_grammars_end_soon(number: int) -> None:
    """Refused or served, in a thread of ordinary stack as a server's: what matters is that the process lives and the answer comes."""
    kind, source = HOSTILE[number]
    seen: list[Any] = []

    def serve() -> None:
        try:
            constraint = kind(source, Byte(), [256])  # type: ignore[call-arg]
            ids: list[int] = []
            for _ in range(50):
                allowed = [token for token in ids_of(constraint.allowed(ids)) if token != 256]
                if not allowed:
                    break
                ids.append(allowed[len(ids) % len(allowed)])
            seen.append(ids)
        except RequestError as refused:
            seen.append(refused)

    thread = threading.Thread(target=serve)
    thread.start()
    thread.join(timeout=60)
    assert seen


def test_without_the_library_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(RequestError, match=r"pip install 'framework\[structured\]'"):
        Regex("a", Byte(), [256])
