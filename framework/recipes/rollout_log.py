"""What is known of a rollout: its figures, to every logger, and some of its replies, to the run's log.

A rollout flows in, figures and lines flow out. Must not know losses.

Shape legend: S replies of this process, R tokens of a reply.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from framework.batches.prompts import Question
from framework.recipes.alarms import correlation
from framework.recipes.experience import Experience
from framework.recipes.judge import Judge, Judgement
from framework.recipes.writer import Reply
from framework.training.monitor import reduced
from framework.training.run_log import RunLog
from framework.training.samples import append

SHOWN = 8  # replies of a rollout that are written to the log


class Written(NamedTuple):
    """A rollout before it is made into advantages.

    Attributes:
        questions: of each reply; the replies to one prompt stand side by side.
        replies: as the engine drew them.
        judgement: what they are worth.
    """

    questions: list[Question]
    replies: list[Reply]
    judgement: Judgement


def measure(
    trainer: Trainer,
    experience: Experience,
    written: Written,
    figures: Mapping[str, Tensor],
    has_reference: bool,
    device: torch.device,
    num_compared: int,
) -> dict[str, float]:
    """Means over the replies of all processes: score, length, KL to the reference, each reward's own, and `figures`, [S] each.

    `rollout/logprob_gap` is the mean difference between engine and trainer, nats a token, over the first `num_compared` replies; NaN
    stands for what could not be judged, and enters no mean.
    """
    mask_SR, scores_S = experience.mask_SR, written.judgement.scores_S
    lengths_S = torch.tensor([float(len(reply.ids)) for reply in written.replies])
    kl_S = ((experience.log_probs_SR - experience.reference_log_probs_SR) * mask_SR).sum(1)
    gap_SR = ((experience.log_probs_SR - experience.engine_log_probs_SR) * mask_SR).abs()
    of_replies = {
        "rollout/score": scores_S,
        "rollout/length": lengths_S,
        "rollout/finished": torch.tensor([float(reply.finished) for reply in written.replies]),
        "rollout/not_judged": scores_S.isnan().float(),
        **({"rollout/kl": kl_S} if has_reference else {}),
        **{f"reward/{name}": values_S for name, values_S in written.judgement.parts.items()},
        **figures,
    }
    sums = {name: _sum_of_finite(values_S.to(device)) for name, values_S in of_replies.items()}
    means = reduced(trainer, {**sums, "rollout/logprob_gap": (gap_SR[:num_compared].double().sum(), mask_SR[:num_compared].double().sum())})
    return {**means, "rollout/score_length_correlation": correlation(scores_S, lengths_S)}


def samples(judge: Judge, written: Written) -> Iterator[dict[str, Any]]:
    """The first replies as a person reads them, with what each judge said."""
    for number in range(min(SHOWN, len(written.replies))):
        sample = judge.sample(written.questions[number], written.replies[number])
        parts = {name: _plain(values_S[number]) for name, values_S in written.judgement.parts.items()}
        shown = {"prompt": sample.prompt, "reply": sample.reply, "finished": sample.finished}
        yield {**shown, "score": _plain(written.judgement.scores_S[number]), **parts}


def log(trainer: Trainer, step: int, metrics: Mapping[str, float], replies: Sequence[Mapping[str, Any]]) -> None:
    """Hand the figures to every logger; write the replies to `logs/rollouts.jsonl`."""
    for logger in trainer.loggers:
        logger.log_metrics(dict(metrics), step=step)
        if isinstance(logger, RunLog) and trainer.is_global_zero:
            lines = [json.dumps({"step": step, **reply}, ensure_ascii=False) for reply in replies]
            append(logger.directory / "rollouts.jsonl", step, lines)


def _sum_of_finite(values_S: Tensor) -> tuple[Tensor, Tensor]:
    finite_S = values_S.isfinite()
    return values_S.nan_to_num(0.0, 0.0, 0.0).double().sum(), finite_S.double().sum()


def _plain(value: Tensor) -> float | None:
    number = value.item()
    return number if number == number else None
