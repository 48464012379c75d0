"""What replies are worth: a reward model's score, reward functions' scores, or both with weights.

Prompts and replies flow in, numbers flow out. Must not know policies, advantages or losses.

Shape legend: S replies, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from framework import checkpoint
from framework.batches.prompts import Question
from framework.errors import CheckpointError, ConfigError
from framework.formats import sources
from framework.networks.scalar_head import ScalarHead
from framework.recipes.frozen import frozen
from framework.recipes.writer import Reply
from framework.rewards.base import Reward, Sample
from framework.rewards.runner import Failure, Rewards
from framework.tokenizers.base import Tokenizer

NOT_JUDGED = float("nan")
SCORE = torch.float32  # said each time: a trainer's precision changes what tensors are by default


class Judgement(NamedTuple):
    """Of each reply.

    Attributes:
        scores_S: weighted sum of the parts; NaN for a reply that could not be judged.
        parts: what each judge said, by name, [S] each.
    """

    scores_S: Tensor
    parts: dict[str, Tensor]


class Judge:
    """Scores replies.

    Args:
        tokenizer: of the policy.
        rewards: reward functions; each runs in a process of its own with a limit of time.
        weights: of the functions; None: 1 each.
        reward_model: model directory of a network with a scalar head, made for the same tokenizer; None: functions alone.
        reward_model_weight: of its score.
        timeout_seconds: of a function for one reply; over it the reply counts as not judged.
        max_failures: share of the replies that may go unjudged before the run ends.
        batch_size: replies that the reward model reads together.

    Raises:
        ConfigError: no judge at all, or a reward model that does not fit the policy.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        rewards: Sequence[Reward],
        weights: Sequence[float] | None,
        reward_model: Path | None,
        reward_model_weight: float,
        timeout_seconds: float,
        max_failures: float,
        batch_size: int,
    ) -> None:
        if not rewards and reward_model is None:
            raise ConfigError("nothing judges the replies: give model.rewards (functions), model.reward_model (a directory), or both.")
        self.tokenizer, self.batch_size, self.reward_model_weight = tokenizer, batch_size, reward_model_weight
        self.functions = (
            Rewards(list(rewards), None if weights is None else list(weights), timeout_seconds, max_failures) if rewards else None
        )
        self.reward_model = None if reward_model is None else frozen(load_reward_model(reward_model, tokenizer))

    def to(self, device: torch.device) -> None:
        """Move the reward model."""
        if self.reward_model is not None:
            self.reward_model.to(device)

    def close(self) -> None:
        """End the functions' processes."""
        if self.functions is not None:
            self.functions.close()

    def judge(self, questions: Sequence[Question], replies: Sequence[Reply], device: torch.device) -> Judgement:
        """The worth of each reply to the question beside it."""
        scores_S, parts = torch.zeros(len(replies), dtype=SCORE), {}
        if self.functions is not None:
            samples = [self.sample(question, reply) for question, reply in zip(questions, replies, strict=True)]
            said = self.functions.score(samples)
            parts = {name: _numbers(column) for name, column in said.columns.items()}
            scores_S = scores_S + _numbers(said.totals)
        if self.reward_model is not None:
            parts["reward_model"] = self._by_model(self.reward_model, questions, replies, device)
            scores_S = scores_S + self.reward_model_weight * parts["reward_model"]
        return Judgement(scores_S, parts)

    def sample(self, question: Question, reply: Reply) -> Sample:
        """A reply as functions and people see it: text, without what ended it."""
        text = self.tokenizer.decode(reply.ids[:-1] if reply.finished else reply.ids)
        return Sample(question.text, text, reply.finished, question.fields)

    @torch.no_grad()
    def _by_model(self, network: ScalarHead, questions: Sequence[Question], replies: Sequence[Reply], device: torch.device) -> Tensor:
        rows = [[*question.ids, *reply.ids] for question, reply in zip(questions, replies, strict=True)]
        longest_first = sorted(range(len(rows)), key=lambda number: -len(rows[number]))
        scores_S = torch.zeros(len(rows), dtype=SCORE)
        for start in range(0, len(rows), self.batch_size):
            numbers = longest_first[start : start + self.batch_size]
            lengths_B = torch.tensor([len(rows[number]) for number in numbers], device=device)
            ids_BT = torch.full((len(numbers), len(rows[numbers[0]])), self.tokenizer.pad_id, device=device)
            for place, number in enumerate(numbers):
                ids_BT[place, : len(rows[number])] = torch.tensor(rows[number], device=device)
            starts_B = torch.tensor([len(questions[number].ids) for number in numbers], device=device)
            scores_S[numbers] = network.scores(ids_BT, lengths_B, starts_B).to(SCORE).cpu()
        return scores_S


def load_reward_model(directory: Path, tokenizer: Tokenizer) -> ScalarHead:
    """The network of a reward model's directory. Raises ConfigError for another kind of network, or one made for another tokenizer."""
    try:
        network, its_tokenizer = checkpoint.load(sources.directory(directory))
    except CheckpointError as problem:
        raise ConfigError(f"model.reward_model: {problem}") from problem
    if not isinstance(network, ScalarHead):
        raise ConfigError(
            f"model.reward_model {directory} holds a {type(network).__name__}, which gives no score: train one with `framework finetune --recipe reward-model`."
        )
    if its_tokenizer.fingerprint != tokenizer.fingerprint:
        raise ConfigError(
            f"model.reward_model {directory} was trained with another tokenizer than the policy's: its scores would mean nothing."
        )
    return network


def _numbers(scores: Sequence[float | Failure]) -> Tensor:
    return torch.tensor([NOT_JUDGED if isinstance(score, Failure) else score for score in scores], dtype=SCORE)
