"""Both trainers against a slow BPE written from the definition; too little text; too small a vocabulary."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import pytest
from tokenizers import Regex
from tokenizers.pre_tokenizers import Split

from framework.errors import TokenizerError
from framework.tokenizers import training
from framework.tokenizers.patterns import GPT4
from framework.tokenizers.special import CHAT
from framework.tokenizers.training import Trainer, train

TRAINERS = pytest.mark.parametrize("trainer", ["rustbpe", "tokenizers"])


def skewed_text() -> str:
    """Words whose counts are powers of two, so that hardly any two pairs are equally frequent (a tie is the trainer's to break)."""
    draw = random.Random(0)
    words = ["".join(draw.choice("abcdefghijklmnop") for _ in range(6)) for _ in range(8)]
    return "".join(f" {word}" * 2**power for power, word in enumerate(words))


def merge(piece: tuple[bytes, ...], pair: tuple[bytes, bytes]) -> tuple[bytes, ...]:
    parts = list(piece)
    for index in range(len(parts) - 1):
        if tuple(parts[index : index + 2]) == pair:
            parts[index : index + 2] = [pair[0] + pair[1], b""]
    return tuple(part for part in parts if part)


def pair_counts(text: str, tokens: list[bytes]) -> Counter[bytes]:
    """Frequency of every pair's bytes once the tokens were merged in order."""
    pieces = [piece for piece, _ in Split(Regex(GPT4), behavior="isolated").pre_tokenize_str(text)]
    counts = Counter(tuple(bytes([byte]) for byte in piece.encode()) for piece in pieces)
    for token in tokens:
        for split in range(1, len(token)):
            counts = Counter({merge(piece, (token[:split], token[split:])): count for piece, count in counts.items()})
    pairs: Counter[bytes] = Counter()
    for piece, count in counts.items():
        for left, right in pairwise(piece):
            pairs[left + right] += count
    return pairs


@TRAINERS
def test_every_merge_is_the_most_frequent_pair(trainer: Trainer) -> None:
    text = skewed_text()
    ranks = train([text], 256 + 20 + len(CHAT), GPT4, CHAT, trainer).ranks
    tokens = sorted((token for token in ranks if len(token) > 1), key=ranks.__getitem__)
    assert len(tokens) == 20
    for index, token in enumerate(tokens):
        pairs = pair_counts(text, tokens[:index])
        assert pairs[token] == max(pairs.values()), (index, token)


@TRAINERS
def test_same_texts_same_vocabulary(trainer: Trainer, texts: list[str]) -> None:
    first, again = (train(iter(texts[:3]), 500, GPT4, CHAT, trainer) for _ in range(2))
    assert first.fingerprint() == again.fingerprint()
    assert first.size == 500
    assert [first.ranks[bytes([byte])] for byte in range(256)] == list(range(256))
    assert sorted(first.ranks.values()) == list(range(496))


@TRAINERS
def test_too_small(trainer: Trainer) -> None:
    with pytest.raises(TokenizerError, match="vocab_size 259 is too small: 256 bytes and 4 special tokens need 260"):
        train(["a"], 259, GPT4, CHAT, trainer)
    with pytest.warns(UserWarning, match="the tokenizer has 261 ids"):
        assert train(["ab"], 270, GPT4, CHAT, trainer).size == 261
    assert train(["ab ab"], 260, GPT4, CHAT, trainer).size == 260


@TRAINERS
@pytest.mark.parametrize("texts", [[], ["", ""]])
def test_empty_corpus(trainer: Trainer, texts: list[str]) -> None:
    with pytest.raises(TokenizerError, match="the corpus is empty"):
        train(texts, 300, GPT4, CHAT, trainer)


@TRAINERS
def test_bad_pattern(trainer: Trainer) -> None:
    with pytest.raises(TokenizerError, match=r"cannot split by the pattern '\(a'"):
        train(["a"], 300, "(a", CHAT, trainer)


@TRAINERS
def test_the_texts_own_error_comes_through(trainer: Trainer) -> None:
    def texts() -> object:
        yield "some text"
        raise TokenizerError("the file is gone")

    with pytest.raises(TokenizerError, match="the file is gone"):
        train(texts(), 300, GPT4, CHAT, trainer)  # type: ignore[arg-type]


def test_one_long_run_and_broken_text() -> None:
    runs = [" " * 1_000_000 + "b", "a\ud800" * 10]
    assert train(runs, 262, GPT4, CHAT).size == 262


def test_long_texts_go_in_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "STRETCH", 4)
    stretches = training._Stretches(["abcdefghij", "", "xyz"])
    assert list(stretches) == ["abcd", "efgh", "ij", "xyz"]
    assert stretches.characters == 13
