"""The live line of a run: step, loss, validation loss, tokens a second, time left; plain lines where nobody watches a terminal."""

from __future__ import annotations

import sys
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm

from framework.training.checkpoints import tracked

POSTFIX_STEPS = 10  # between measurements beside the bar
LINE_SECONDS = 30.0  # between lines when stderr is no terminal


class StepBar(ProgressBar):
    """Counts optimizer steps, and batches while validating."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: Any = None
        self._validation: Any = None
        self._last_line = 0.0
        self._shown: tuple[int, str] | None = None

    def disable(self) -> None:
        """Lightning's switch for ranks that print nothing."""
        self._enabled = False

    def enable(self) -> None:
        """The opposite of `disable`."""
        self._enabled = True

    _enabled = True

    @property
    def _live(self) -> bool:
        return self._enabled and sys.stderr.isatty()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar at the step a resumed run stands at."""
        self._begun = time.monotonic()
        self._first = tracked(pl_module).progress.step
        if self._live:
            total = trainer.max_steps if trainer.max_steps > 0 else None
            self._bar = tqdm(
                total=total, initial=self._first, desc="train", unit="step", dynamic_ncols=True, mininterval=0.2, smoothing=0.1
            )

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Advance by a step; the measurements follow when they are taken."""
        recipe = tracked(pl_module)
        if not recipe.at_step_boundary:
            return
        if self._bar is not None:
            if recipe.progress.step % POSTFIX_STEPS == 0:
                self._bar.set_postfix_str(self._measurements(trainer, pl_module), refresh=False)
            self._bar.update()
        elif self._enabled and time.monotonic() - self._last_line >= LINE_SECONDS:
            self._print_line(trainer, pl_module)

    def _measurements(self, trainer: Trainer, pl_module: LightningModule) -> str:
        recipe = tracked(pl_module)
        shown = []
        if recipe.last_step is not None and recipe.last_step.num_items:
            shown.append(f"loss {recipe.last_step.total / recipe.last_step.num_items:.3f}")
        metrics = trainer.callback_metrics
        if "val/loss" in metrics:
            shown.append(f"val {float(metrics['val/loss']):.3f}")
        if "val/reward" in metrics:
            shown.append(f"reward {float(metrics['val/reward']):.3f}")
        if (speed := f"train/{recipe.item}_per_second") in metrics:
            shown.append(f"{_short(float(metrics[speed]))} {recipe.item}/s")
        return ", ".join(shown)

    def _print_line(self, trainer: Trainer, pl_module: LightningModule) -> None:
        step = tracked(pl_module).progress.step
        if (line := (step, self._measurements(trainer, pl_module))) == self._shown:
            return
        self._shown = line
        self._last_line = time.monotonic()
        done = step - self._first
        left = (time.monotonic() - self._begun) / done * (trainer.max_steps - step) if done and trainer.max_steps > 0 else 0.0
        print(f"step {step}/{trainer.max_steps}, {self._measurements(trainer, pl_module)}, {left:.0f} s left", file=sys.stderr, flush=True)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open a second line for long validations."""
        total = sum(int(count) for count in trainer.num_val_batches) if trainer.num_val_batches else 0
        if self._live and not trainer.sanity_checking and total > 1:
            self._validation = tqdm(total=total, desc="validate", unit="batch", leave=False, dynamic_ncols=True, delay=1.0, mininterval=0.2)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any) -> None:
        """Advance by a batch."""
        if self._validation is not None:
            self._validation.update()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the second line."""
        if self._validation is not None:
            self._validation.close()
            self._validation = None
        elif self._enabled and not self._live and not trainer.sanity_checking and trainer.state.fn == "fit":
            self._print_line(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar with the last measurements."""
        if self._bar is not None:
            self._bar.set_postfix_str(self._measurements(trainer, pl_module), refresh=True)
            self._bar.close()
            self._bar = None
        elif self._enabled:
            self._print_line(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the terminal clean."""
        for bar in (self._validation, self._bar):
            if bar is not None:
                bar.close()
        self._bar = self._validation = None


def _short(number: float) -> str:
    return f"{number / 1e6:.2f}M" if number >= 1e6 else f"{number / 1e3:.1f}k" if number >= 1e3 else f"{number:.0f}"
