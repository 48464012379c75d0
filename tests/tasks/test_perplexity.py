"""Perplexity: transformers' numbers, training's own metrics, every token once, and what is said of documents."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from framework.batches.types import IGNORE, TokenBatch
from framework.errors import ConfigError, DataError, RequestError
from framework.generation import Generator
from framework.recipes.pretrain import Pretrain
from framework.tasks.base import Options
from framework.tasks.estimates import ratio
from framework.tasks.likelihood import windows
from framework.tasks.perplexity import Perplexity

Nats = Callable[[Sequence[int]], torch.Tensor]


def by_hand(nats: Nats, ids: Sequence[int], context_length: int, stride: int) -> float:
    """Each token given the window that Hugging Face's page on perplexity would give it, the last window being a full one."""
    total, done = 0.0, 0
    while done < len(ids) - 1:
        end = min(len(ids) - 1, context_length if not done else done + stride)
        total += float(nats(ids[max(0, end - context_length) : end + 1])[-(end - done) :].sum())
        done = end
    return total


@pytest.mark.parametrize(("context_length", "stride"), [(None, None), (48, 16), (20, 7), (20, 1)])
def test_it_is_transformers(
    generator: Generator, texts: Any, sentences: Sequence[str], their_nats: Nats, context_length: int | None, stride: int | None
) -> None:
    chosen = sentences[:12]
    found = Perplexity(texts(*chosen), context_length, stride).evaluate(generator, Options(batch_tokens=100))
    tokenizer, length = generator.tokenizer, context_length or 48
    ids = [[tokenizer.eos_id, *tokenizer.encode(text)] for text in chosen]
    nats = [by_hand(their_nats, each, length, stride or length) for each in ids]
    tokens, num_bytes = [float(len(each) - 1) for each in ids], [float(len(text.encode())) for text in chosen]
    expected = ratio(nats, tokens)
    for name, value in {"value": expected.value, "low": expected.low, "high": expected.high}.items():
        assert getattr(found.metrics["nats_per_token"], name) == pytest.approx(value, abs=1e-5)
    assert found.metrics["perplexity"].value == pytest.approx(math.exp(sum(nats) / sum(tokens)), rel=1e-5)
    assert found.metrics["bits_per_byte"].value == pytest.approx(sum(nats) / math.log(2) / sum(num_bytes), rel=1e-5)
    assert found.counts == {"tokens": sum(tokens), "bytes": sum(num_bytes)}
    assert found.n == 12 and found.settings["context_length"] == length and found.settings["stride"] == (stride or length)


def test_it_is_what_training_measures(generator: Generator, texts: Any, sentences: Sequence[str]) -> None:
    """TokenMetrics on rows of the same windows, the end of each document predicted."""
    tokenizer, recipe = generator.tokenizer, Pretrain(network=lambda: generator.engine.network)
    recipe.network = generator.engine.network
    recipe.trainer = cast(Any, SimpleNamespace(datamodule=None))
    recipe._byte_lengths_V = torch.from_numpy(tokenizer.byte_lengths())
    for text in sentences:
        for window in windows([tokenizer.eos_id, *tokenizer.encode_document(text)], 48, 12):
            targets = [IGNORE] * (len(window.ids) - 1 - window.num_scored) + list(window.ids[-window.num_scored :])
            recipe.evaluate(TokenBatch(torch.tensor([list(window.ids[:-1])]), torch.tensor([targets])))
    metrics = {name: float(value) for name, value in cast(Any, recipe.metric.compute()).items()}
    found = Perplexity(texts(*sentences), 48, 12, score_end=True).evaluate(generator, Options(batch_tokens=300)).metrics
    assert found["nats_per_token"].value == pytest.approx(metrics["val/loss"], abs=1e-6)
    assert found["perplexity"].value == pytest.approx(metrics["val/perplexity"], rel=1e-6)
    assert found["bits_per_byte"].value == pytest.approx(metrics["val/bits_per_byte"], rel=1e-6)


def test_batches_change_nothing(generator: Generator, texts: Any, sentences: Sequence[str]) -> None:
    """TRAP-24: token-weighted, batch 1 against all together."""
    generator.engine.network.double()
    one, other = (Perplexity(texts(*sentences)).evaluate(generator, Options(batch_tokens=size)) for size in (1, 50_000))
    for name, estimate in one.metrics.items():
        assert other.metrics[name].value == pytest.approx(estimate.value, rel=1e-12)
    assert one.counts == other.counts


def test_bits_per_byte_of_a_network_that_knows_nothing(generator: Generator, texts: Any) -> None:
    with torch.no_grad():
        generator.engine.network.head_weight_VD.zero_()
    found = Perplexity(texts("The cät sat on the mat.", "a")).evaluate(generator)
    assert found.metrics["perplexity"].value == pytest.approx(generator.engine.network.vocab_size)
    tokens, num_bytes = found.counts["tokens"], found.counts["bytes"]
    assert num_bytes == 25
    assert found.metrics["bits_per_byte"].value == pytest.approx(tokens * math.log2(generator.engine.network.vocab_size) / num_bytes)


def test_a_single_document_is_judged_by_its_windows(generator: Generator, texts: Any, sentences: Sequence[str]) -> None:
    text = "".join(sentences)
    found = Perplexity(texts(text)).evaluate(generator, Options(samples=2))
    estimate = found.metrics["nats_per_token"]
    assert found.n == 1 and estimate.n == -(-found.counts["tokens"] // 48) and estimate.interval == "normal over windows"
    assert estimate.low is not None and estimate.low < estimate.value < estimate.high  # type: ignore[operator]
    per_byte = found.metrics["bits_per_byte"]
    scale = found.counts["tokens"] / found.counts["bytes"] / math.log(2)
    assert (per_byte.low, per_byte.value) == (pytest.approx(estimate.low * scale), pytest.approx(estimate.value * scale))
    assert found.samples == [
        {"source": "text:1", "text": text[:200], "tokens": found.counts["tokens"], "nats_per_token": pytest.approx(estimate.value)}
    ]


def test_limit_samples_and_progress(generator: Generator, texts: Any, sentences: Sequence[str]) -> None:
    told: list[tuple[int, int | None]] = []
    found = Perplexity(texts(*sentences)).evaluate(generator, Options(limit=5, samples=3), lambda *now: told.append(now))
    whole = Perplexity(texts(*sentences[:5])).evaluate(generator)
    assert found.n == 5 and found.metrics == whole.metrics and told[-1] == (5, 5)
    assert [sample["source"] for sample in found.samples] == ["text:1", "text:2", "text:3"]
    assert found.seconds > 0


def test_a_hopeless_network_is_infinitely_perplexed(generator: Generator, texts: Any) -> None:
    with torch.no_grad():
        generator.engine.network.head_weight_VD.mul_(1e4)
    assert Perplexity(texts("The cat sat.", "A dog ran.")).evaluate(generator).metrics["perplexity"].value == math.inf


def test_what_does_not_fit_is_said(generator: Generator, texts: Any) -> None:
    for arguments, message in {(49, None): "context_length of perplexity is 49", (20, 21): "stride of perplexity is 21"}.items():
        with pytest.raises(RequestError, match=message):
            Perplexity(texts("a"), *arguments).evaluate(generator)
    with pytest.raises(ValueError, match="stride is 0"):
        Perplexity(texts("a"), stride=0)
    with pytest.raises(DataError, match="no text to score"):
        Perplexity(texts("")).evaluate(generator)
    with pytest.raises(ValueError, match="other characters"):
        Perplexity(texts("a"), name="a/b c")
    with pytest.raises(ConfigError, match="limit is 0"):
        Options(limit=0)
