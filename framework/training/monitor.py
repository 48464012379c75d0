"""Measures a run: loss, gradient norm, learning rate, throughput, utilisation; logs them every `trainer.log_every_n_steps` steps.

One log call every n steps instead of several a step: Lightning's `self.log` costs more than a small network's step.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from framework.training.checkpoints import tracked
from framework.training.peak import peak_flops


class Monitor(Callback):
    """Averages over the steps since the last log, token-weighted; validation time is not counted in the throughput."""

    def __init__(self) -> None:
        self._peak = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._peak = peak_flops(trainer.strategy.root_device) * trainer.world_size
        self._restart()

    def _restart(self) -> None:
        self._total = self._count = self._seconds = 0.0
        self._since = time.perf_counter()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._seconds += time.perf_counter() - self._since

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on."""
        self._since = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count the step; log when due."""
        recipe = tracked(pl_module)
        if not recipe.at_step_boundary or recipe.last_step is None:
            return
        self._total += recipe.last_step.total
        self._count += recipe.last_step.num_items
        step = recipe.progress.step
        every = trainer.log_every_n_steps  # type: ignore[attr-defined] # Lightning sets it outside the class
        if step % every and step != trainer.max_steps:
            return
        seconds = self._seconds + time.perf_counter() - self._since
        items_per_second = self._count / seconds
        flops = recipe.flops_per_item()
        metrics = {
            **reduced(trainer, recipe.measures.take()),
            "train/loss": self._total / self._count if self._count else float("nan"),
            "train/gradient_norm": recipe.last_step.gradient_norm,
            "train/learning_rate": recipe.last_step.learning_rate,
            f"train/{recipe.item}_per_second": items_per_second,
            **({} if flops is None else {"train/mfu": items_per_second * flops / self._peak}),
            f"train/{recipe.item}": float(recipe.progress.items),
            "train/skipped_steps": float(recipe.progress.skipped),
        }
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in metrics.items()})
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=step)
        self._restart()


def reduced(trainer: Trainer, sums: Mapping[str, tuple[torch.Tensor, torch.Tensor]]) -> dict[str, float]:
    """Means over all ranks, by name; every rank must have the same names."""
    if not sums:
        return {}
    pairs = torch.stack([torch.stack(pair) for pair in sums.values()])
    if trainer.world_size > 1:
        pairs = trainer.strategy.reduce(pairs, reduce_op="sum")
    return {name: total / count if count else float("nan") for name, (total, count) in zip(sums, pairs.tolist())}
