"""Samplers that look back: tokens that were there already become less likely, or impossible.

Shape legend: B requests, V vocabulary, L longest token history, W windows of n tokens. Logits and histories flow in, logits flow out.
Only the logits of seen tokens are touched. Padding (-1) is never counted: it stands for token 0 with a count of its own true value,
so that whoever writes last writes the same. Must not know the engine or text.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from framework.samplers.base import History
from framework.samplers.rowwise import Rowwise


class RepetitionPenalty(Rowwise):
    """Each token of the prompt and the reply, counted once, has its logit divided by the penalty, or multiplied if negative.

    The convention of CTRL (arXiv 1909.05858) as Hugging Face and vLLM have it.

    Args:
        penalty: over 1 discourages repetition, under 1 encourages it, 1 changes nothing.
    """

    def __init__(self, penalty: float) -> None:
        if not (math.isfinite(penalty) and penalty > 0.0):
            raise ValueError(f"repetition_penalty is {penalty} and must be a finite number over 0 (1 changes nothing)")
        super().__init__(float(penalty))
        self.penalty = penalty
        self.changes_nothing = penalty == 1.0
        self.looks_back = not self.changes_nothing

    @staticmethod
    def apply(logits_BV: Tensor, history: History, setting_B1: Tensor) -> Tensor:
        """Penalised logits, [B, V]."""
        penalty_B1, ids_BL = setting_B1.to(logits_BV), history.tokens_BL.clamp(min=0)
        counts_BL = _counts(ids_BL, history.tokens_BL >= 0, logits_BV)
        seen_BL = logits_BV.gather(-1, ids_BL)
        penalised_BL = torch.where(seen_BL > 0, seen_BL / penalty_B1, seen_BL * penalty_B1)
        return logits_BV.scatter(-1, ids_BL, torch.where(counts_BL > 0, penalised_BL, seen_BL))


class FrequencyPenalty(Rowwise):
    """Each token's logit falls by the penalty for each time that it is in the reply (OpenAI's frequency_penalty).

    Args:
        penalty: over 0 discourages repetition, under 0 encourages it, 0 changes nothing; OpenAI allows -2 to 2.
    """

    def __init__(self, penalty: float) -> None:
        if not -2.0 <= penalty <= 2.0:
            raise ValueError(f"frequency_penalty is {penalty} and must be between -2 and 2 (0 changes nothing)")
        super().__init__(float(penalty))
        self.penalty = penalty
        self.changes_nothing = penalty == 0.0
        self.looks_back = not self.changes_nothing

    @staticmethod
    def apply(logits_BV: Tensor, history: History, setting_B1: Tensor) -> Tensor:
        """Penalised logits, [B, V]."""
        ids_BL = history.tokens_BL.clamp(min=0)
        counts_BL = _counts(ids_BL, _in_reply(history), logits_BV)
        return logits_BV.scatter(-1, ids_BL, logits_BV.gather(-1, ids_BL) - setting_B1.to(logits_BV) * counts_BL)


class PresencePenalty(Rowwise):
    """Each token's logit falls by the penalty if it is in the reply, however often (OpenAI's presence_penalty).

    Args:
        penalty: over 0 encourages new tokens, under 0 discourages them, 0 changes nothing; OpenAI allows -2 to 2.
    """

    def __init__(self, penalty: float) -> None:
        if not -2.0 <= penalty <= 2.0:
            raise ValueError(f"presence_penalty is {penalty} and must be between -2 and 2 (0 changes nothing)")
        super().__init__(float(penalty))
        self.penalty = penalty
        self.changes_nothing = penalty == 0.0
        self.looks_back = not self.changes_nothing

    @staticmethod
    def apply(logits_BV: Tensor, history: History, setting_B1: Tensor) -> Tensor:
        """Penalised logits, [B, V]."""
        ids_BL = history.tokens_BL.clamp(min=0)
        there_BL = (_counts(ids_BL, _in_reply(history), logits_BV) > 0).to(logits_BV)
        return logits_BV.scatter(-1, ids_BL, logits_BV.gather(-1, ids_BL) - setting_B1.to(logits_BV) * there_BL)


class NoRepeatNgram(Rowwise):
    """No n tokens in a row occur twice in prompt and reply: a token that would complete such a repetition is excluded.

    Hugging Face's no_repeat_ngram_size; a row that has only such tokens left stays as it is.

    Args:
        n: how many tokens; 1 excludes every token seen, 0 changes nothing.
    """

    def __init__(self, n: int) -> None:
        if n < 0:
            raise ValueError(f"no_repeat_ngram_size is {n} and must be at least 1, or 0 to allow every repetition")
        super().__init__(int(n))
        self.n = n
        self.changes_nothing = n == 0
        self.looks_back = not self.changes_nothing

    @staticmethod
    def apply(logits_BV: Tensor, history: History, setting_B1: Tensor) -> Tensor:
        """Logits with -inf for every token that would repeat, [B, V]."""
        length, result_BV = history.tokens_BL.shape[1], logits_BV
        for n in sorted(set(setting_B1.flatten().tolist()) - {0}):
            if n > length:
                continue
            repeats_BW = _repeats(history.tokens_BL, n) & (setting_B1 == n).to(logits_BV.device)
            ids_BW = history.tokens_BL[:, n - 1 :].clamp(min=0)
            bounds_BW = torch.where(repeats_BW, -math.inf, math.inf).to(logits_BV)
            result_BV = result_BV.scatter_reduce(-1, ids_BW, bounds_BW, "amin")
        nothing_left_B1 = result_BV.amax(dim=-1, keepdim=True) == -math.inf
        return torch.where(nothing_left_B1, logits_BV, result_BV) if nothing_left_B1.any() else result_BV


def _in_reply(history: History) -> Tensor:
    places_L = torch.arange(history.tokens_BL.shape[1], device=history.tokens_BL.device)
    return (history.tokens_BL >= 0) & (places_L >= history.prompt_lengths_B[:, None])


def _counts(ids_BL: Tensor, counted_BL: Tensor, logits_BV: Tensor) -> Tensor:
    """How often each place's token is at a counted place of its row, [B, L] in the logits' type."""
    return torch.zeros_like(logits_BV).scatter_add_(-1, ids_BL, counted_BL.to(logits_BV)).gather(-1, ids_BL)


def _repeats(tokens_BL: Tensor, n: int) -> Tensor:
    """Whether the first n - 1 tokens of each window of n tokens are the last n - 1 of the row, bool [B, W]; not for padding."""
    windows_BWn = tokens_BL.unfold(-1, n, 1)
    lengths_B1 = (tokens_BL >= 0).sum(dim=-1, keepdim=True)
    last_places = (lengths_B1 - (n - 1) + torch.arange(n - 1, device=tokens_BL.device)).clamp(min=0)
    last = tokens_BL.gather(-1, last_places)
    return (windows_BWn[..., :-1] == last[:, None, :]).all(dim=-1) & (windows_BWn[..., -1] >= 0)
