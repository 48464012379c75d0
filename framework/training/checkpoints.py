"""When a training state is saved, and which are kept: every n steps, at the best validations, at the end, and when asked to stop."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from framework.errors import ConfigError
from framework.training.checkpoint_io import annotate, completed, read_manifest, remove
from framework.training.progress import Tracked
from framework.training.stopping import Stopped, StopSignals


class Checkpoints(Checkpoint):
    """Saves at step boundaries only, so that a resumed run continues to the bit.

    Args:
        every_n_steps: save each time this many optimizer steps are done; 0 saves at the end only.
        keep_last: newest checkpoints kept.
        keep_best: checkpoints with the best `monitor` kept beside those; each such validation saves one.
        monitor: the validation metric that decides what is best.
        mode: whether less (`min`) or more (`max`) of it is better.
    """

    def __init__(
        self,
        every_n_steps: int = 500,
        keep_last: int = 2,
        keep_best: int = 1,
        monitor: str = "val/loss",
        mode: Literal["min", "max"] = "min",
    ) -> None:
        if every_n_steps < 0 or keep_last < 1 or keep_best < 0:
            raise ValueError("every_n_steps and keep_best must be at least 0, keep_last at least 1")
        self.every_n_steps, self.keep_last, self.keep_best, self.monitor, self.mode = every_n_steps, keep_last, keep_best, monitor, mode
        self.directory: Path | None = None  # None: checkpoints/ in the trainer's root directory
        self._signals = StopSignals()
        self._metrics: dict[str, float] = {}
        self._saved_step = 0  # every rank knows without looking: rank 0 alone changes the directory

    def path(self, trainer: Trainer, step: int) -> Path:
        """Where the checkpoint of a step is, or would be."""
        return (self.directory or Path(trainer.default_root_dir) / "checkpoints") / f"step-{step:08d}.ckpt"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over the signals, after Lightning has installed its own handlers."""
        self._saved_step = tracked(pl_module).progress.step
        self._signals.install()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Save when due; stop when asked to."""
        recipe = tracked(pl_module)
        if not recipe.at_step_boundary:
            return
        self._metrics = {}
        step = recipe.progress.step
        if step == trainer.max_steps or (self.every_n_steps and step % self.every_n_steps == 0):
            self.save(trainer, pl_module)
        self._stop_if_asked(trainer, pl_module)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any) -> None:
        """Stop when asked to: a validation may be long, and a step boundary lies right behind."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking and tracked(pl_module).at_step_boundary:
            self._stop_if_asked(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save when this validation is among the best."""
        if trainer.state.fn != "fit" or trainer.sanity_checking or not tracked(pl_module).at_step_boundary:
            return
        value = trainer.callback_metrics.get(self.monitor)
        if value is None:
            if self.keep_best:
                known = ", ".join(sorted(trainer.callback_metrics))
                raise ConfigError(f"checkpoints.monitor is {self.monitor}, which this run does not measure; choose among {known}.")
            return
        self._metrics = {self.monitor: float(value)}
        if self.keep_best and trainer.strategy.broadcast(trainer.is_global_zero and self._is_best(trainer, float(value))):
            self.save(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the end of a run that stopped early by itself."""
        if tracked(pl_module).progress.step != self._saved_step:
            self.save(trainer, pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the signals back."""
        self._signals.restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self._signals.restore()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Record the metrics; make Lightning's loop counters those of the step boundary, wherever this is called from."""
        checkpoint.setdefault("framework", {})["metrics"] = self._metrics
        loop = checkpoint["loops"]["fit_loop"]
        _as_at_batch_end(loop, tracked(pl_module).progress.step, validated=bool(self._metrics))

    def save(self, trainer: Trainer, pl_module: LightningModule) -> Path:
        """Save now (where this step is saved already, only its metrics), then remove what is no longer kept."""
        step = tracked(pl_module).progress.step
        path = self.path(trainer, step)
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return path
        if step != self._saved_step:
            trainer.save_checkpoint(path)
            self._saved_step = step
        elif trainer.is_global_zero and self._metrics and path in completed(path.parent):
            annotate(path, self._metrics)
        if trainer.is_global_zero:
            self._prune(path.parent)
        return path

    def _stop_if_asked(self, trainer: Trainer, pl_module: LightningModule) -> None:
        received = self._signals.received or 0
        if trainer.world_size > 1:  # all ranks stop at the same step
            flag = torch.tensor(received, device=trainer.strategy.root_device)
            torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
            received = int(flag)
        if received:
            path = self.save(trainer, pl_module)
            trainer.strategy.barrier("stopped")
            raise Stopped(received, f"stopped at step {tracked(pl_module).progress.step}, saved {path}; go on with --resume auto")

    def _is_best(self, trainer: Trainer, value: float) -> bool:
        better = sorted(self._scores(self.path(trainer, 0).parent).values())
        rank = better[: self.keep_best]
        return math.isfinite(value) and (len(rank) < self.keep_best or self._sign * value < rank[-1])

    @property
    def _sign(self) -> int:
        return 1 if self.mode == "min" else -1

    def _scores(self, directory: Path) -> dict[Path, float]:
        """Signed score of each checkpoint that has one: less is better."""
        metrics = {path: read_manifest(path)["metrics"].get(self.monitor) for path in completed(directory)}
        return {path: self._sign * value for path, value in metrics.items() if value is not None}

    def _prune(self, directory: Path) -> None:
        scores = self._scores(directory)
        best = sorted(scores, key=lambda path: scores[path])[: self.keep_best]
        for path in completed(directory)[: -self.keep_last]:
            if path not in best:
                remove(path)


def _as_at_batch_end(loop: dict[str, Any], step: int, validated: bool) -> None:
    """Set the fit loop's saved counters to what they are inside `on_train_batch_end`, the one place Lightning resumes from exactly."""
    for counters in (loop["epoch_loop.batch_progress"]["current"], loop["epoch_loop.batch_progress"]["total"]):
        counters["completed"] = max(0, counters["processed"] - 1)
    loop["epoch_loop.state_dict"]["_batches_that_stepped"] = max(0, step - 1)
    validation = loop["epoch_loop.val_loop.batch_progress"]
    for counters in (validation["current"], validation["total"]):
        # a validation that is due and not done starts over: Lightning reads one begun batch as "in its middle", and goes back to it
        counters.update(ready=int(not validated), started=int(not validated), processed=0, completed=0)
    for counters in (loop["epoch_progress"]["current"], loop["epoch_progress"]["total"]):
        counters.update(ready=1, started=1, processed=0, completed=0)  # a run is one endless epoch


def tracked(module: LightningModule) -> Tracked:
    """The module as what this package's callbacks ask of it."""
    return cast(Tracked, module)  # asked several times a step: a check would cost more than the counters
