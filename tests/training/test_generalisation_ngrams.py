"""The n-gram index against exact sets: what was added is found, what was not is found as often as it says, and shares are right."""

from __future__ import annotations

import numpy as np
import pytest

from framework.training import generalisation_ngrams as ngrams
from framework.training.generalisation_ngrams import NgramIndex, ngram_hashes


def grams(tokens: np.ndarray, length: int) -> set[tuple[int, ...]]:  # type: ignore[type-arg]
    return {tuple(tokens[start : start + length].tolist()) for start in range(len(tokens) - length + 1)}


def test_hashes_tell_ngrams_apart() -> None:
    tokens = np.random.default_rng(0).integers(0, 5, 4000)
    for length in (1, 3, 8):
        assert len(np.unique(ngram_hashes(tokens, length))) == len(grams(tokens, length))
    assert len(ngram_hashes(tokens[:3], 8)) == 0 and ngram_hashes(np.array([0, 0]), 1)[0] != ngram_hashes(np.array([0, 0]), 2)[0]


def test_shares_are_those_of_exact_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ngrams, "CHUNK_TOKENS", 1000)  # n-grams that cross two chunks are there
    draw = np.random.default_rng(0)
    training = draw.integers(0, 8, 20_000).astype(np.uint16)
    index = NgramIndex(5, 1)
    index.add(training)
    assert index.num_tokens == 20_000 and index.share([training]) == 1.0
    texts = [draw.integers(0, 8, 300) for _ in range(10)]
    known = grams(training, 5)
    exact = np.mean([tuple(text[start : start + 5].tolist()) in known for text in texts for start in range(296)])
    assert 0.3 < exact < 0.6 and index.share(texts) == pytest.approx(exact, abs=0.001)
    assert index.share([texts[0][:4]]) is None and index.share([]) is None


def test_a_full_index_stops_and_says_how_far_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ngrams, "CHUNK_TOKENS", 50_000)
    draw = np.random.default_rng(0)
    training = draw.integers(0, 50_000, 3_000_000)
    index = NgramIndex(8, 1)
    index.add(training)
    assert 700_000 < index.num_tokens < 900_000  # 0.3 of 2**23 bits, 4 a token, some twice
    assert 0.007 < index.false_positives < 0.012
    strangers = [draw.integers(50_000, 100_000, 200_000)]
    found = index._has(ngram_hashes(strangers[0], 8)).mean()
    assert found == pytest.approx(index.false_positives, rel=0.1)
    assert index.share(strangers) < 0.001  # type: ignore[operator]
    assert index.share([training[: index.num_tokens]]) == 1.0
    half = np.concatenate([training[:100_000], strangers[0][:100_000]])
    assert index.share([half]) == pytest.approx(0.5, abs=0.001)
