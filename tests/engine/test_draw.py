"""Draws: numbers that depend on seed and step alone, the inverse of the cumulative distribution, and log-probabilities."""

from __future__ import annotations

import itertools
import math
import random

import pytest
import torch
from torch import Tensor

from framework.engine.draw import draw, logprobs, uniforms
from framework.kernels import calls
from framework.samplers.distribution import Distribution

MASK = 2**64 - 1


def _random(rows: int, columns: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return 3.0 * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def _dense(logits_BV: Tensor) -> Distribution:
    return Distribution(logits_BV, None, logits_BV.shape[-1])


def _p_value(statistic: float, freedom: int) -> float:
    """Of a chi-square statistic."""
    return torch.special.gammaincc(torch.tensor(freedom / 2, dtype=torch.float64), torch.tensor(statistic / 2, dtype=torch.float64)).item()


def _evenness(numbers: Tensor, bins: int) -> float:
    """The p-value of numbers being uniform in [0, 1)."""
    counts = torch.histc(numbers, bins, 0.0, 1.0)
    expected = len(numbers) / bins
    return _p_value(((counts - expected).square() / expected).sum().item(), bins - 1)


# --- uniform numbers ---


def _finaliser(z: int) -> int:
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    return z ^ (z >> 31)


def _split_mix(state: int, number: int) -> int:
    """The published generator, in plain integers."""
    return _finaliser(state + (number + 1) * 0x9E3779B97F4A7C15 & MASK)


def test_the_oracle_is_the_published_generator() -> None:
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    assert [_split_mix(1234567, number) for number in range(5)] == expected


def test_uniforms_are_those_of_plain_integers() -> None:
    pick = random.Random(0)
    pairs = [(0, 0), (0, 1), (1, 0), (2**63 - 1, 0), (2**63 - 1, 2**31)] + [
        (pick.randrange(2**63), pick.randrange(10**6)) for _ in range(200)
    ]
    seeds, steps = (torch.tensor(column) for column in zip(*pairs))
    expected = [(_split_mix(_split_mix(seed, 0), step) >> 11) * 2.0**-53 for seed, step in pairs]
    assert uniforms(seeds, steps).tolist() == expected
    assert all(uniforms(seeds[row : row + 1], steps[row : row + 1]).item() == expected[row] for row in range(9))


def test_neighbouring_seeds_and_steps_are_independent() -> None:
    """Even alone, in pairs along both axes and the diagonals, and without correlation; 1,000 seeds x 200 steps."""
    grid = uniforms(torch.arange(1000).repeat_interleave(200), torch.arange(200).repeat(1000)).view(1000, 200)
    assert grid.min() >= 0.0 and grid.max() < 1.0 and len(grid.unique()) == grid.numel()
    assert _evenness(grid.flatten(), 1000) > 1e-3
    assert min(_evenness(row, 20) for row in grid[:100]) > 1e-5  # a hundred looks, each at one request's draws
    for seed_lag, step_lag in ((0, 1), (1, 0), (1, 1), (1, -1), (0, 2), (2, 0)):
        first = grid[: 1000 - seed_lag, max(0, -step_lag) : 200 - max(0, step_lag)]
        second = grid[seed_lag:, max(0, step_lag) : 200 - max(0, -step_lag)]
        pairs = (first * 16).floor() * 16 + (second * 16).floor()
        assert _evenness(pairs.flatten() / 256, 256) > 1e-3, (seed_lag, step_lag)
        correlation = torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1].item()
        assert abs(correlation) * math.sqrt(first.numel()) < 4.0, (seed_lag, step_lag)


# --- draws ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_draw_inverts_the_cumulative_distribution(dtype: torch.dtype) -> None:
    logits = torch.tensor([[0.0, 0.25, 0.0, 0.5, 0.25, 0.0]], dtype=dtype).log()
    numbers = torch.tensor([0.0, 0.2499, 0.25, 0.7499, 0.75, 1.0 - 2**-53], dtype=torch.float64)
    tokens, valid = draw(_dense(logits.expand(6, -1)), numbers)
    assert tokens.tolist() == [1, 1, 3, 3, 4, 4] and valid.all()


@pytest.mark.parametrize("columns", [1, 2, 127, 128, 129, 1000, 50_257])
def test_a_draw_is_that_of_exact_sums(columns: int) -> None:
    """Except where a number falls within rounding of the border of two tokens."""
    logits, numbers = _random(1, columns), torch.rand(300, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    sums = list(itertools.accumulate(logits[0].double().exp().tolist()))
    tokens, _ = draw(_dense(logits.expand(300, -1)), numbers)
    for token, number in zip(tokens.tolist(), numbers.tolist()):
        below = sums[token - 1] if token else 0.0
        assert below - 2e-7 * sums[-1] <= number * sums[-1] <= sums[token] + 2e-7 * sums[-1]


def test_a_draw_never_takes_a_token_of_probability_0() -> None:
    """Whatever the sums' rounding: the numbers at the edges of every kept token."""
    for columns, seed in itertools.product((6, 200, 1000), range(20)):
        logits = _random(1, columns, seed)
        logits[:, torch.rand(columns, generator=torch.Generator().manual_seed(seed)) < 0.9] = -math.inf
        logits[0, seed % columns] = 1.0
        borders = logits[0].double().softmax(dim=-1).cumsum(dim=-1)
        numbers = torch.cat([borders, borders.nextafter(torch.tensor(0.0)), borders - 1e-8, torch.tensor([0.0, 5e-324, 1 - 2**-53])])
        tokens, valid = draw(_dense(logits.expand(len(numbers), -1)), numbers.clamp(0.0, 1 - 2**-53))
        assert valid.all() and logits[0, tokens].isfinite().all()


def test_the_last_number_of_a_chunk_stays_in_it() -> None:
    """Where the rest of the way, before its division, is rounded to the whole of the chunk: a weight of 3 after one of an odd 2**-52."""
    for logit in torch.linspace(-20.0, -19.5, 64):
        logits = torch.full((1, 300), -math.inf)
        logits[0, 0], logits[0, 128:131] = logit, 0.0
        assert draw(_dense(logits), torch.tensor([1 - 2**-53], dtype=torch.float64))[0] == 130


def test_a_row_draws_the_same_in_every_batch_and_from_candidates() -> None:
    """To the bit: borders between tokens are tried, where another order of a sum would show."""
    logits_BV = _random(24, 3001).masked_fill(torch.rand(24, 3001, generator=torch.Generator().manual_seed(1)) < 0.99, -math.inf)
    logits_BV[:, 5] = 0.0
    ids_BC = torch.stack([row.isfinite().nonzero()[:, 0][:20] for row in logits_BV])
    logits_BV = torch.full_like(logits_BV, -math.inf).scatter(-1, ids_BC, logits_BV.gather(-1, ids_BC))
    borders = logits_BV.gather(-1, ids_BC).softmax(dim=-1).double().cumsum(dim=-1).clamp(max=1 - 2**-53)
    for column in range(20):
        tokens, _ = draw(_dense(logits_BV), borders[:, column])
        few, _ = draw(Distribution(logits_BV.gather(-1, ids_BC), ids_BC, 3001), borders[:, column])
        alone = [draw(_dense(logits_BV[row : row + 1]), borders[row : row + 1, column])[0].item() for row in range(24)]
        assert tokens.tolist() == few.tolist() == alone


def test_what_is_too_rare_for_a_float32_sum_is_drawn_all_the_same() -> None:
    logits = torch.full((1, 300), -math.inf)
    logits[0, 0], logits[0, 200] = 0.0, -25.0  # a probability of 1.4e-11
    tokens, _ = draw(_dense(logits.expand(2, -1)), torch.tensor([1 - 1e-12, 1 - 1e-10], dtype=torch.float64))
    assert tokens.tolist() == [200, 0]


@pytest.mark.kernels
@pytest.mark.parametrize("divided", [False, True])
@pytest.mark.parametrize("columns", [1, 15, 127, 128, 129, 300, 5000])
def test_the_kernel_draws_what_torch_draws(columns: int, divided: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(columns)
    logits_BV = torch.randn(400, columns) * torch.linspace(0.1, 30, 400)[:, None]
    logits_BV[torch.rand_like(logits_BV) < 0.3] = -math.inf
    for row, number in enumerate((math.nan, math.inf, -math.inf)):
        logits_BV[row] = logits_BV[row] if row < 2 else number
        logits_BV[row, -1] = number
    uniforms_B = torch.rand(400, dtype=torch.float64)
    uniforms_B[3:6] = torch.tensor([0.0, 1 - 2.0**-53, 0.5])
    distribution = Distribution(logits_BV, None, columns, torch.rand(400, 1) + 0.3 if divided else None)
    with torch.inference_mode():
        tokens_B, valid_B = draw(distribution, uniforms_B)
        monkeypatch.setattr(calls, "serve", lambda x: False)
        expected_B, expected_valid_B = draw(distribution, uniforms_B)
    assert torch.equal(valid_B, expected_valid_B) and valid_B.sum() > 200 and not valid_B[:3].any()
    assert torch.equal(tokens_B, expected_B)


def test_the_only_candidate_needs_no_number() -> None:
    tokens, valid = draw(Distribution(torch.tensor([[2.0], [math.nan]]), torch.tensor([[7], [3]]), 50), torch.tensor([0.3, 0.3]))
    assert tokens.tolist() == [7, 0] and valid.tolist() == [True, False]


@pytest.mark.parametrize("columns", [5, 128, 1000])
def test_a_row_without_a_distribution_is_told_and_harms_no_other(columns: int) -> None:
    logits_BV = _random(6, columns)
    expected, _ = draw(_dense(logits_BV), torch.full((6,), 0.4))
    logits_BV[1, 2], logits_BV[2], logits_BV[4, 3] = math.nan, -math.inf, math.inf
    tokens, valid = draw(_dense(logits_BV), torch.full((6,), 0.4))
    assert valid.tolist() == [True, False, False, True, False, True]
    assert tokens[[0, 3, 5]].tolist() == expected[[0, 3, 5]].tolist() and tokens[[1, 2, 4]].tolist() == [0, 0, 0]


def test_draws_follow_the_distribution_over_several_chunks() -> None:
    """Chi-square over 100,000 draws and 500 tokens, the rarest pooled."""
    logits = _random(1, 500)
    numbers = uniforms(torch.full((100_000,), 11), torch.arange(100_000))
    tokens = torch.cat([draw(_dense(logits.expand(5000, -1)), part)[0] for part in numbers.split(5000)])
    counts = torch.bincount(tokens, minlength=500).double()
    expected = logits[0].double().softmax(dim=-1) * 100_000
    rare = expected < 10
    counts, expected = (torch.cat([values[~rare], values[rare].sum()[None]]) for values in (counts, expected))
    assert _p_value(((counts - expected).square() / expected).sum().item(), len(expected) - 1) > 1e-3


# --- log-probabilities ---


@pytest.mark.parametrize("columns", [5, 128, 4000])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_logprobs_are_those_of_the_full_distribution(columns: int, dtype: torch.dtype) -> None:
    logits_BV = _random(7, columns).to(dtype)
    tokens_B = torch.tensor([0, 1, 2, 3, 4, columns - 1, columns // 2])
    exact_BV = logits_BV.double().log_softmax(dim=-1)
    logprob_B, ids_BN, values_BN = logprobs(logits_BV, tokens_B, 4)
    tolerance = 1e-12 if dtype == torch.float64 else 2e-6
    assert torch.allclose(logprob_B.double(), exact_BV.gather(-1, tokens_B[:, None])[:, 0], rtol=0, atol=tolerance)
    assert torch.allclose(values_BN.double(), exact_BV.gather(-1, ids_BN), rtol=0, atol=tolerance)
    assert torch.equal(ids_BN, exact_BV.sort(dim=-1, descending=True, stable=True).indices[:, :4])
    assert (values_BN.exp().sum(dim=-1) <= 1 + 1e-6).all()


def test_the_drawn_token_s_logprob_is_the_same_number_among_the_top_ones() -> None:
    logits_BV = _random(5, 3000)
    _, ids_BN, values_BN = logprobs(logits_BV, torch.zeros(5, dtype=torch.long), 3)
    for place in range(3):
        assert torch.equal(logprobs(logits_BV, ids_BN[:, place], 0)[0], values_BN[:, place])


def test_top_logprobs_of_ties_are_the_lowest_ids() -> None:
    tied_BV = torch.zeros(2, 5000)
    tied_BV[1, 4000:] = 1.0
    _, ids_BN, _ = logprobs(tied_BV, torch.tensor([0, 0]), 3)
    assert ids_BN.tolist() == [[0, 1, 2], [4000, 4001, 4002]]


def test_more_top_logprobs_than_tokens_are_all_tokens() -> None:
    _, ids_BN, values_BN = logprobs(torch.tensor([[0.0, 2.0, -math.inf]]), torch.tensor([1]), 20)
    assert ids_BN.tolist() == [[1, 0, 2]] and values_BN[0, 2] == -math.inf
    assert logprobs(torch.tensor([[0.0, 2.0]]), torch.tensor([1]), 0)[1].shape == (1, 0)


def test_logprobs_of_a_row_do_not_depend_on_the_batch() -> None:
    logits_BV = _random(6, 50_000)
    together = logprobs(logits_BV, torch.arange(6), 2)
    for row in range(6):
        alone = logprobs(logits_BV[row : row + 1], torch.tensor([row]), 2)
        assert all(torch.equal(one[0], all_rows[row]) for one, all_rows in zip(alone, together))
