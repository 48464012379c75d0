"""From distributions to tokens: uniform numbers that depend on nothing but the request, and what they fall on.

Shape legend: B requests, V vocabulary, C columns, G chunks of S tokens, N best tokens. Distributions flow in, tokens and
log-probabilities flow out. Must not know the network, samplers, requests or text.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from framework.kernels import calls
from framework.samplers.distribution import Distribution, best_first, wide

CHUNK_SIZE = 128  # tokens whose weights are summed in single precision; near sqrt(V), so that both levels of a draw are short
ALMOST_ONE = 1.0 - 2.0**-53


def uniforms(seeds_B: Tensor, steps_B: Tensor) -> Tensor:
    """The numbers for draw `step` of the requests with these seeds (int64, at least 0), float64 [B] in [0, 1).

    A pure function of seed and step (SplitMix64, Steele et al. 2014: its output number `step` from a state that is the hash of the
    seed), so neighbours, the order of arrival, preemption and recomputation change nothing, and neighbouring seeds have nothing in
    common.
    """
    seeds, steps = (numbers_B.numpy().astype(np.uint64) for numbers_B in (seeds_B, steps_B))  # a handful: numpy starts sooner than torch
    numbers = _mix(_mix(seeds + _GOLDEN) + (steps + np.uint64(1)) * _GOLDEN)
    return torch.from_numpy((numbers >> np.uint64(11)) * 2.0**-53)


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser: a bijection in which every bit depends on every bit; overflow wraps around."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


def draw(distribution: Distribution, uniforms_B: Tensor | None) -> tuple[Tensor, Tensor]:
    """The tokens that uniform numbers in [0, 1) fall on when the probabilities lie side by side in the order of the ids.

    A certain distribution needs no numbers.

    Never a token of probability 0. A row's token is the same, to the bit of a sum, in every batch and whether the distribution is
    given over the vocabulary or over candidates.

    Returns:
        tokens_B, int64; valid_B, bool: false where there is no distribution (a NaN, infinity or nothing but -inf), whose token is 0.
    """
    logits_BC, ids_BC = distribution.logits_BC, distribution.ids_BC
    if distribution.is_certain:
        assert ids_BC is not None
        valid_B = logits_BC[:, 0].abs() < math.inf  # not of a NaN either; half the operations of `isfinite`
        return ids_BC[:, 0] * valid_B, valid_B
    assert uniforms_B is not None
    if logits_BC.dtype == torch.float32 and calls.serve(logits_BC):
        logits_BV = logits_BC if ids_BC is None else distribution.dense()
        return calls.draw(logits_BV.contiguous(), uniforms_B.contiguous(), distribution.divisor_B1)
    weights_BGS = _weights(distribution)
    before_BG = weights_BGS.sum(dim=-1).double().cumsum(dim=-1)
    valid_B = before_BG[:, -1] > 0  # NaN otherwise, or a total that a NaN went into
    chunk_B1, rest_B = _fall(before_BG, uniforms_B.to(before_BG.device))
    within_BS = weights_BGS.take_along_dim(chunk_B1[:, :, None], dim=1)[:, 0].double().cumsum(dim=-1)
    place_B1, _ = _fall(within_BS, rest_B)
    tokens_B = (chunk_B1 * weights_BGS.shape[-1] + place_B1)[:, 0]
    return tokens_B.where(valid_B, 0), valid_B


def _weights(distribution: Distribution) -> Tensor:
    """The unnormalised probabilities of the whole vocabulary in chunks, [B, G, S], with zeros at the end to fill the last chunk."""
    logits_BC, ids_BC, vocab_size, _ = distribution.divided()
    num_chunks = -(-vocab_size // CHUNK_SIZE)
    best_B1 = logits_BC.amax(dim=-1, keepdim=True)
    shape = (len(logits_BC), num_chunks * CHUNK_SIZE)
    if ids_BC is not None:
        weights = logits_BC.new_zeros(shape).scatter_add_(-1, ids_BC, (logits_BC - best_B1).exp_())
    elif shape == logits_BC.shape:
        weights = logits_BC.sub(best_B1).exp_()
    else:
        weights = logits_BC.new_full(shape, -math.inf)
        torch.sub(logits_BC, best_B1, out=weights[:, :vocab_size])
        weights.exp_()
    return weights.view(-1, num_chunks, CHUNK_SIZE)


def _fall(cumulative_BG: Tensor, uniforms_B: Tensor) -> tuple[Tensor, Tensor]:
    """Where in a row of cumulated weights a uniform number falls, [B, 1], and how far into that place, in [0, 1), [B]."""
    targets_B1 = uniforms_B[:, None] * cumulative_BG[:, -1:]  # a double under 1 times the total is under the total after rounding too
    places_B1 = torch.searchsorted(cumulative_BG, targets_B1, right=True).clamp_(max=cumulative_BG.shape[-1] - 1)
    after_B1 = cumulative_BG.gather(-1, places_B1)
    before_B1 = cumulative_BG.gather(-1, (places_B1 - 1).clamp_(min=0)).masked_fill_(places_B1 == 0, 0.0)
    return places_B1, ((targets_B1 - before_B1) / (after_B1 - before_B1)).clamp_(max=ALMOST_ONE)[:, 0]


def logprobs(logits_BV: Tensor, tokens_B: Tensor, num_top: int) -> tuple[Tensor, Tensor, Tensor]:
    """Natural log-probabilities of the tokens, [B], and of the `num_top` likeliest: their ids and log-probabilities, both [B, N].

    Of tokens with equal logits the lowest ids come first. At least float32.
    """
    logits_BV = wide(logits_BV)
    best_B1 = logits_BV.amax(dim=-1, keepdim=True)
    weights_BGS = _weights(Distribution(logits_BV, None, logits_BV.shape[-1]))
    log_total_B1 = weights_BGS.sum(dim=-1).double().sum(dim=-1, keepdim=True).log().to(best_B1)
    logprob_B1 = logits_BV.gather(-1, tokens_B[:, None]) - best_B1 - log_total_B1
    values_BN, ids_BN = _top(logits_BV, min(num_top, logits_BV.shape[-1]))
    return logprob_B1[:, 0], ids_BN, values_BN - best_B1 - log_total_B1


def _top(logits_BV: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` best with the lowest ids among equals."""
    num_ranked, vocab_size = count + 1, logits_BV.shape[-1]
    while True:
        num_ranked = min(num_ranked, vocab_size)
        values_BN, ids_BN = best_first(logits_BV, num_ranked)
        if count == 0 or num_ranked == vocab_size or bool((values_BN[:, count - 1] != values_BN[:, -1]).all()):
            return values_BN[:, :count], ids_BN[:, :count]
        num_ranked *= 8
