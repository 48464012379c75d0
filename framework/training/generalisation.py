"""Whether a run learns the language or its training text by heart: measured after validations, said in plain words.

Losses and token batches flow in as they pass, figures and a verdict flow out. Training is not touched: no weight, no mode, no random
number; it may be ended.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from framework.batches.types import TokenBatch
from framework.errors import ConfigError
from framework.training.checkpoints import tracked
from framework.training.generalisation_canaries import Canary
from framework.training.generalisation_probes import Probes
from framework.training.generalisation_verdict import Evaluated, Kind, Verdict, judge
from framework.training.generalisation_windows import Reservoir
from framework.training.run_log import RunLog
from framework.training.samples import append

StopWhen = Literal["overfitting", "converged"]
ENDS: dict[StopWhen, frozenset[Kind]] = {
    "overfitting": frozenset({"overfitting", "diverging"}),
    "converged": frozenset({"converged", "overfitting", "diverging"}),
}
GROUPS = 64  # of validation batches, each with a loss of its own: enough for an error estimate, few enough to keep for every evaluation


@runtime_checkable
class TokenSums(Protocol):
    """A metric that sums the loss of held-out tokens: what a recipe must be judged by to be watched."""

    nats: Tensor
    tokens: Tensor


class Generalisation(Callback):
    """Logs `generalisation/*` after validations, writes verdicts with their reasons to `logs/generalisation.jsonl`, and says each new one.

    The training loss is the mean over the trained tokens of the steps since the validation before, the validation loss that over held-out
    ones: the same weight for every token. What differs: the training loss is that of the weights as they were then, with dropout where
    the network has any.

    By heart: windows are drawn evenly from all rows trained on so far, and the network is to go on greedily from the prefix of each;
    `reproduced` is the share of continuations that are the text's own to the last token, `reproduced_validation` the same of held-out
    rows, which cannot be known by heart. `ngrams_seen` is the share of the n-grams of sampled text that occur in the training text,
    `ngrams_seen_validation` that of what the held-out text itself says there. `exposure_N` is that of canary number N, in bits.

    Args:
        min_improvement: nats a token; less is no change.
        patience: evaluations over which a change must show.
        stop_when: overfitting: end the run when it overfits or diverges; converged: then too; null: never.
        every_n_validations: how often it is looked for what is known by heart; losses are compared at every validation.
        windows: of the training and of the held-out text each; 0: not looked for.
        prefix_tokens: of running text; of a prompt with a reply it is the prompt.
        continuation_tokens: that must all be right; of a shorter reply, all of it.
        canaries: texts planted in the training data, their secret between braces at the end: 'The code is {4921}' stands there without.
        rivals: other secrets of the same form that a canary's is ranked among.
        samples: texts drawn at temperature 1, to go on from held-out prefixes; 0: no n-grams are looked for.
        sample_tokens: of each at most.
        ngram_tokens: of an n-gram.
        index_mebibytes: memory for the training text's n-grams; where it is not enough, the first part of the text is compared with.
        seed: decides windows, rivals and draws.
    """

    def __init__(
        self,
        min_improvement: float = 0.005,
        patience: int = 3,
        stop_when: StopWhen | None = None,
        every_n_validations: int = 1,
        windows: int = 32,
        prefix_tokens: int = 32,
        continuation_tokens: int = 32,
        canaries: Sequence[str] = (),
        rivals: int = 255,
        samples: int = 8,
        sample_tokens: int = 64,
        ngram_tokens: int = 8,
        index_mebibytes: int = 16,
        seed: int = 0,
    ) -> None:
        at_least_one = {"patience": patience, "every_n_validations": every_n_validations, "prefix_tokens": prefix_tokens, "rivals": rivals}
        at_least_one |= {"continuation_tokens": continuation_tokens, "ngram_tokens": ngram_tokens, "index_mebibytes": index_mebibytes}
        for name, value in at_least_one.items():
            if value < 1:
                raise ValueError(f"{name} is {value} and must be at least 1")
        if min_improvement < 0 or windows < 0 or samples < 0 or samples > windows or sample_tokens < ngram_tokens:
            raise ValueError("min_improvement must be at least 0, samples from 0 to windows, and sample_tokens at least ngram_tokens")
        self.min_improvement, self.patience, self.stop_when, self.every_n_validations = (
            min_improvement,
            patience,
            stop_when,
            every_n_validations,
        )
        self.probes = Probes(
            [Canary.marked(text) for text in canaries], rivals, samples, sample_tokens, ngram_tokens, index_mebibytes, seed
        )
        self._window_arguments = windows, prefix_tokens, continuation_tokens, seed
        self._trained, self._held_out = Reservoir(*self._window_arguments), Reservoir(*self._window_arguments)
        self._nats = self._tokens = 0.0  # trained since the last validation
        self._sums: list[Tensor] = []  # of held-out nats and tokens, after each batch of the validation under way
        self.history: list[Evaluated] = []
        self._said = ""

    def state_dict(self) -> dict[str, Any]:
        """The history, the windows, and what was trained since the last validation: a resumed run judges as the uninterrupted one would."""
        sums = {"nats": self._nats, "tokens": self._tokens, "said": self._said}
        history = [{**asdict(each), "nats": list(each.nats), "tokens": list(each.tokens)} for each in self.history]
        return {**sums, "history": history, "windows": self._trained.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See state_dict."""
        self._nats, self._tokens, self._said = (state_dict[name] for name in ("nats", "tokens", "said"))
        self.history = [
            Evaluated(each["step"], each["train_loss"], tuple(each["nats"]), tuple(each["tokens"])) for each in state_dict["history"]
        ]
        self._trained.load_state_dict(state_dict["windows"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a recipe that cannot be watched; take no step in a run that was ended by this."""
        if not isinstance(pl_module.metric, TokenSums):
            raise ConfigError(
                f"Generalisation watches the prediction of tokens (Pretrain, SFT); {type(pl_module).__name__} is judged by something else: leave it out."
            )
        if self.history:
            self._stop_if_due(trainer, self._judge())

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: TokenBatch, batch_idx: int) -> None:
        """Let the rows pass; add the step's loss."""
        self._trained.offer(batch)
        recipe = tracked(pl_module)
        step = recipe.last_step
        if recipe.at_step_boundary and step is not None and not recipe.progress.skipped_in_a_row:
            self._nats += step.total
            self._tokens += step.num_items

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin anew: of a validation that was cut short nothing counts."""
        self._sums = []
        self._held_out = Reservoir(*self._window_arguments)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: TokenBatch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Note what the metric has come to."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        metric: Any = pl_module.metric
        self._sums.append(torch.stack([metric.nats, metric.tokens]))
        self._held_out.offer(batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure, judge, log, and end the run where it is due."""
        if trainer.state.fn != "fit" or trainer.sanity_checking or not self._sums:
            return
        nats, tokens = self._groups(trainer)
        step = tracked(pl_module).progress.step
        self.history.append(Evaluated(step, self._nats / self._tokens if self._tokens else float("nan"), nats, tokens))
        self._nats = self._tokens = 0.0
        now, verdict = self.history[-1], trainer.strategy.broadcast(self._judge())
        figures: dict[str, float] = {"generalisation/train_loss": now.train_loss, "generalisation/gap": now.gap}
        if len(self.history) % self.every_n_validations == 0:
            figures |= trainer.strategy.broadcast(self._probe(pl_module) if trainer.is_global_zero else {})
        pl_module.log_dict(figures, logger=False)
        for logger in trainer.loggers:
            logger.log_metrics(figures, step=step)
            if isinstance(logger, RunLog) and trainer.is_global_zero:
                line = {"step": step, "verdict": verdict.kind, "reason": verdict.reason}
                append(logger.directory / "generalisation.jsonl", step, [json.dumps(line)])
        self._say(trainer, step, verdict)
        self._stop_if_due(trainer, verdict)

    def _groups(self, trainer: Trainer) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Nats and tokens of each group of validation batches, over all ranks."""
        sums = torch.stack([torch.zeros_like(self._sums[0]), *self._sums]).diff(dim=0)
        if trainer.world_size > 1:
            sums = trainer.strategy.reduce(sums, reduce_op="sum")
        groups = torch.zeros(min(GROUPS, len(sums)), 2, dtype=sums.dtype, device=sums.device)
        groups.index_add_(0, torch.arange(len(sums), device=sums.device) % len(groups), sums)
        kept = [(nats, tokens) for nats, tokens in groups.tolist() if tokens]
        return tuple(nats for nats, _ in kept), tuple(tokens for _, tokens in kept)

    def _judge(self) -> Verdict:
        return judge(self.history, self.min_improvement, self.patience)

    def _probe(self, recipe: Any) -> dict[str, float]:
        with recipe.precision():
            return self.probes.figures(recipe.network, recipe.data, self._trained.windows, self._held_out.windows)

    def _say(self, trainer: Trainer, step: int, verdict: Verdict) -> None:
        """A line when the verdict is another than before."""
        if verdict.kind not in ("too early", self._said) and trainer.is_global_zero:
            print(f"step {step}: {verdict.kind}: {verdict.reason}", file=sys.stderr)
        self._said = verdict.kind

    def _stop_if_due(self, trainer: Trainer, verdict: Verdict) -> None:
        if self.stop_when is not None and verdict.kind in ENDS[self.stop_when]:
            if trainer.is_global_zero:
                print(f"stopping: {verdict.kind} (Generalisation.stop_when is {self.stop_when})", file=sys.stderr)
            trainer.should_stop = True
