"""Direct preference optimisation: the policy itself learns to tell chosen replies from rejected ones, measured against where it began.

Pairs flow in, a network flows out. Shape legend: B pairs, R = 2B rows, T tokens, P pairs of a part of the data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer
from torchmetrics import Metric
from tqdm import tqdm

from framework.batches.preferences import Pair, Preferences
from framework.batches.types import PairBatch
from framework.errors import ConfigError
from framework.losses import dpo_loss
from framework.losses.preference import DPOKind
from framework.networks.base import Network
from framework.recipes.frozen import Reference
from framework.recipes.metrics import PairMetrics
from framework.recipes.recipe import Objective, Recipe
from framework.recipes.sequences import SequenceLogProbs, sequence_log_probs
from framework.schedulers.base import Scheduler


class DPO(Recipe):
    """DPO and its kin; the reference is the network before its first step, or a LoRA network with its adapter switched off.

    Args:
        network: the policy, usually fine-tuned on the same kind of prompts before.
        optimizer: default AdamW.
        scheduler: factor of the learning rate at each update; default Constant.
        beta: how much a nat of preference counts; the larger, the closer the policy stays to the reference.
        loss_type: sigmoid (arXiv 2305.18290), ipo (2310.12036, on means over tokens), hinge (2305.10425) or robust (2403.00409).
        label_smoothing: share of pairs that are labelled the wrong way round; of sigmoid (conservative DPO) and robust.
        rpo_alpha: weight of the chosen reply's negative log-likelihood, nats a token, in a pair's loss (arXiv 2404.19733, eq. 1). The loss
            of preference alone is content when the chosen reply grows less likely, as long as the rejected one does so faster, and a
            policy may end with replies that are neither; over 0 prevents that.
        reference: live: the reference computes each batch anew, beside the policy in memory; precomputed: once before the first step,
            then it is dropped (a pass over all pairs first, less memory and time at each step).
        seed: decides dropout.
        non_finite: what a step with a non-finite loss or gradient does; it never changes anything: `skip` goes on, `stop` ends the run.
        max_non_finite_steps: with `skip`, the run ends after this many such steps in a row.
    """

    item = "pairs"

    def __init__(
        self,
        network: Callable[[], Network],
        optimizer: Callable[[Iterable[Any]], Optimizer] | None = None,
        scheduler: Scheduler | None = None,
        beta: float = 0.1,
        loss_type: DPOKind = "sigmoid",
        label_smoothing: float = 0.0,
        rpo_alpha: float = 0.0,
        reference: Literal["live", "precomputed"] = "live",
        seed: int = 0,
        non_finite: Literal["skip", "stop"] = "skip",
        max_non_finite_steps: int = 10,
    ) -> None:
        super().__init__(network, optimizer, scheduler, seed, non_finite, max_non_finite_steps)
        if beta <= 0:
            raise ValueError(f"beta is {beta} and must be over 0")
        if not 0 <= label_smoothing < 0.5:
            raise ValueError(f"label_smoothing is {label_smoothing} and must be at least 0 and under 0.5")
        if label_smoothing and loss_type not in ("sigmoid", "robust"):
            raise ValueError(f"label_smoothing belongs to loss_type sigmoid and robust; with {loss_type} leave it out")
        if loss_type == "robust" and not label_smoothing:
            raise ValueError("loss_type robust needs label_smoothing: the share of pairs labelled the wrong way round")
        if rpo_alpha < 0:
            raise ValueError(f"rpo_alpha is {rpo_alpha} and must be at least 0")
        self.beta, self.loss_type, self.label_smoothing = beta, loss_type, label_smoothing
        self.rpo_alpha, self.reference_mode = rpo_alpha, reference
        self._reference: list[Reference] = []
        self._tables: dict[str, Tensor] = {}  # part of the data -> the reference's log-probabilities of each pair, [P, 2]

    def configure_model(self) -> None:
        """Build the policy, and remember it as it is."""
        super().configure_model()
        if not self._reference:
            self._reference = [Reference(self.network)]

    def on_validation_start(self) -> None:
        """As on_fit_start, for a validation by itself."""
        for reference in self._reference:
            reference.follow(self.network)

    def on_fit_start(self) -> None:
        """Move the reference, or ask it once and let it go."""
        self._reference[0].follow(self.network)
        if self.reference_mode == "precomputed":
            data = self.data
            if not isinstance(data, Preferences):
                raise ConfigError(f"DPO trains on preference pairs (--data Preferences), not on {type(data).__name__}.")
            for part, pairs in (("train", data.train), ("validation", data.validation)):
                if part not in self._tables:
                    self._tables[part] = self._precompute(part, pairs)
            self._reference = []

    def _precompute(self, part: str, pairs: Sequence[Pair]) -> Tensor:
        data, world = self.data, self.trainer.world_size
        assert isinstance(data, Preferences)
        table_P2 = torch.zeros(len(pairs), 2, device=self.device)
        by_length = sorted(range(len(pairs)), key=lambda number: -data.length(pairs[number]))
        starts = range(0, len(pairs), data.batch_size)[self.global_rank :: world]
        for start in tqdm(starts, desc=f"reference ({part})", unit="batch", delay=1.0, disable=not self.trainer.is_global_zero):
            numbers = by_length[start : start + data.batch_size]
            batch = data.collate(numbers, [pairs[number] for number in numbers], len(numbers))
            batch = data.transfer_batch_to_device(batch, self.device, 0)
            with self.precision():
                log_probs_2B = self._reference[0].run(lambda network, batch=batch: self._log_probs(network, batch))  # type: ignore[misc]
            table_P2[batch.index_B] = log_probs_2B.T.float()
        if world > 1:
            torch.distributed.all_reduce(table_P2)
        return table_P2

    def _log_probs(self, network: Network, batch: PairBatch) -> Tensor:
        """Of the chosen and the rejected replies, [2, B]."""
        return self._compared(sequence_log_probs(network, batch.ids_RT, batch.targets_RT))

    def _compared(self, log_probs: SequenceLogProbs) -> Tensor:
        """As the loss compares them, [2, B]: sums over tokens, with `ipo` means."""
        return (log_probs.means_R if self.loss_type == "ipo" else log_probs.sums_R).view(2, -1)

    def _reference_log_probs(self, batch: PairBatch, part: str) -> Tensor:
        if part in self._tables:
            return self._tables[part].to(self.device)[batch.index_B].T
        return self._reference[0].run(lambda network: self._log_probs(network, batch))

    def objective(self, batch: PairBatch) -> Objective:
        """Summed loss of the pairs and their number."""
        loss_B, gains_2B = self._losses(batch, "train")
        count = batch.weights_B.sum()
        self.measures.add("train/accuracy", (gains_2B[0] > gains_2B[1]).sum(), count)
        for name, values_B in (("margin", gains_2B[0] - gains_2B[1]), ("chosen_reward", gains_2B[0]), ("rejected_reward", gains_2B[1])):
            self.measures.add(f"train/{name}", values_B.sum(), count)
        return Objective((loss_B * batch.weights_B).sum(), count)

    def _losses(self, batch: PairBatch, part: str) -> tuple[Tensor, Tensor]:
        """The loss of each pair, and the implicit rewards beta (policy - reference) of both sides, [2, B]."""
        log_probs = sequence_log_probs(self.network, batch.ids_RT, batch.targets_RT)
        policy_2B, reference_2B = self._compared(log_probs), self._reference_log_probs(batch, part)
        loss_B = dpo_loss(policy_2B[0], policy_2B[1], reference_2B[0], reference_2B[1], self.beta, self.loss_type, self.label_smoothing)
        if self.rpo_alpha:
            loss_B = loss_B - self.rpo_alpha * log_probs.means_R[: len(loss_B)]
        return loss_B, self.beta * (policy_2B - reference_2B).detach()

    def new_metric(self) -> Metric:
        """`val/loss`, `val/accuracy`, `val/margin`, `val/calibration_error`, of the implicit rewards."""
        return PairMetrics()

    def evaluate(self, batch: PairBatch) -> None:
        """Add a validation batch."""
        loss_B, gains_2B = self._losses(batch, "validation")
        self.metric.update(loss_B, gains_2B[0] - gains_2B[1], batch.weights_B)

    def flops_per_item(self) -> float | None:
        """Pairs differ in length."""
        return None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the reference's log-probabilities: a resumed run has no reference to ask."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["framework"]["reference"] = dict(self._tables)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take them up."""
        super().on_load_checkpoint(checkpoint)
        self._tables = dict(checkpoint["framework"]["reference"])
