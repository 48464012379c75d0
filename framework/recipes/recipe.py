"""The core LightningModule: everything a training run does whatever it trains, exactly once per optimizer step.

Batches flow in, a network that has learnt flows out. A concrete recipe says what the loss is (`objective`) and how it is
judged (`evaluate`); this class normalises gradients over micro-batches and ranks, clips, refuses non-finite steps, sets
the learning rate, counts, and resumes to the bit. Must not know text or the command line.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim import Optimizer
from torchmetrics import Metric

from framework import __version__
from framework.batches.base import Batches
from framework.errors import CheckpointError, ConfigError, UserError
from framework.networks.base import Network
from framework.optimizers.groups import parameter_groups
from framework.registry import Registry, registry
from framework.schedulers.base import Scheduler
from framework.training.checkpoint_io import FORMAT
from framework.training.environment import environment
from framework.training.measures import Measures
from framework.training.monitor import Monitor
from framework.training.progress import Progress, StepResult
from framework.training.randomness import seed_generators

REGISTRIES = ("tokenizers", "optimizers", "schedulers", "samplers", "recipes", "networks", "datasets", "rewards")


class NonFiniteLoss(UserError):
    """The loss or the gradient stayed non-finite."""

    exit_code = 1


class Objective(NamedTuple):
    """What a micro-batch contributes to an optimizer step.

    Attributes:
        total: summed loss of its items, a scalar with a graph.
        num_items: a scalar; the step's loss is the sum of totals over the sum of items, over micro-batches and ranks.
    """

    total: Tensor
    num_items: Tensor


class Recipe(LightningModule, ABC):
    """A network, an optimizer and a schedule, trained on what a DataModule of this project serves.

    Args:
        network: gives the network when called with `vocab_size` and `context_length` (in a config: a part, without those two).
        optimizer: gives the optimizer when called with parameter groups; default AdamW.
        scheduler: factor of the learning rate at each update; default Constant.
        seed: decides initial weights and dropout; the data has its own.
        non_finite: what a step with a non-finite loss or gradient does: it never changes weights, optimizer or schedule; `skip` goes on
            with the next batch, `stop` ends the run.
        max_non_finite_steps: with `skip`, the run ends after this many such steps in a row.
    """

    registries: Mapping[str, Registry] = {name: registry(f"framework.{name}") for name in REGISTRIES}
    item: str = "tokens"  # what the loss is a mean over
    served: str | None = None  # what a batch of the data is counted in, where that is something else

    def __init__(
        self,
        network: Callable[[], Network],
        optimizer: Callable[[Iterable[Any]], Optimizer] | None = None,
        scheduler: Scheduler | None = None,
        seed: int = 0,
        non_finite: Literal["skip", "stop"] = "skip",
        max_non_finite_steps: int = 10,
    ) -> None:
        super().__init__()
        self._make_network, self._make_optimizer, self._scheduler = network, optimizer, scheduler
        self.seed, self.non_finite, self.max_non_finite_steps = seed, non_finite, max_non_finite_steps
        self.network: Network
        self.metric = self.new_metric()
        self.progress = Progress()
        self.measures = Measures()
        self.at_step_boundary = True
        self.last_step: StepResult | None = None
        self.config: dict[str, Any] = {}  # the resolved configuration, where a command line made this recipe
        self.plugins: dict[str, str] = {}  # distribution -> version of third-party parts in use
        self._window: list[Objective] = []  # this rank's micro-batches of the optimizer step under way

    # what a concrete recipe says

    @abstractmethod
    def objective(self, batch: Any) -> Objective:
        """The summed loss of a micro-batch and what it sums over."""

    @abstractmethod
    def new_metric(self) -> Metric:
        """The metric that judges held-out data; its `compute` gives a mapping of names (`val/loss`, ...) to values."""

    @abstractmethod
    def evaluate(self, batch: Any) -> None:
        """Update `self.metric` with a validation batch."""

    # set-up

    @property
    def data(self) -> Batches:
        """The DataModule of the run."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, Batches):
            raise ConfigError(f"{type(self).__name__} trains on a DataModule of framework.batches, not on {type(data).__name__}.")
        return data

    def precision(self) -> AbstractContextManager[None]:
        """The context that Lightning calls training and validation steps in: what is computed elsewhere to be compared with them needs it too."""
        return self.trainer.precision_plugin.forward_context()

    def configure_callbacks(self) -> list[Any]:
        """What every run has: measurements."""
        return [] if any(isinstance(callback, Monitor) for callback in self.trainer.callbacks) else [Monitor()]  # type: ignore[attr-defined]

    def configure_model(self) -> None:
        """Build the network, once, and set it to training: a stored one is not, and Lightning leaves every module as it finds it."""
        if not hasattr(self, "network"):
            self.network = self.build_network(self.data)
            self.train()

    def build_network(self, data: Batches) -> Network:
        """The untrained network for the data's vocabulary and context, from this recipe's seed alone. Raises ConfigError when they do not fit."""
        vocab_size = data.tokenizer.vocab_size
        explicit = getattr(self._make_network, "keywords", {}).get("vocab_size")
        if explicit is not None and explicit < vocab_size:
            raise ConfigError(
                f"model.network.vocab_size is {explicit} and the tokenizer has {vocab_size} ids; "
                "leave vocab_size out (it then comes from the tokenizer) or make it at least that."
            )
        torch.manual_seed(self.seed)
        try:
            return self._make_network(vocab_size=explicit or vocab_size, context_length=data.context_length)  # type: ignore[call-arg]
        except ValueError as error:
            raise ConfigError(f"model.network cannot be built: {error}") from error

    def configure_optimizers(self) -> Optimizer:
        """The optimizer over parameter groups by role; its learning rate is set by `schedule`, not by a Lightning scheduler."""
        if self.trainer.max_steps < 1:
            raise ConfigError("trainer.max_steps is not set: a run is measured in optimizer steps (--trainer.max_steps 1000).")
        try:
            if self._scheduler is not None:
                self._scheduler.factor(0, self.trainer.max_steps)
        except ValueError as error:
            raise ConfigError(f"model.scheduler does not fit the run: {error}") from error
        groups = parameter_groups(self.network.named_parameters(), self.network.roles())
        if self._make_optimizer is None:
            from framework.optimizers import AdamW

            optimizer: Optimizer = AdamW(groups)
        else:
            try:
                optimizer = self._make_optimizer(groups)
            except ValueError as error:
                raise ConfigError(f"model.optimizer cannot be built: {error}") from error
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        return optimizer

    # one optimizer step

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The micro-batch's share of the loss, in units that `configure_gradient_clipping` makes exact."""
        objective = self.objective(batch)
        self._window.append(Objective(objective.total.detach(), objective.num_items))
        return objective.total / self._unit

    @property
    def _unit(self) -> float:
        """Nominal items of a micro-batch: the same on all ranks and at every step, so that it cancels."""
        return float(self.data.items_per_batch)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed every generator from (seed, micro-batch, rank): randomness resumes to the bit whatever ran in between."""
        self.at_step_boundary = False
        seed_generators(self.seed, self.progress.batches + self.global_rank)

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Normalise the accumulated, reduced gradients by the step's items; clip; take no step where something is not finite.

        Lightning has divided by the number of micro-batches and averaged over ranks; what remains is exact in one multiplication,
        shared with clipping, and none at all when every micro-batch was full.
        """
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        total, num_items, norm_in_units = self._measure(gradients)
        scale = self._unit * self.trainer.accumulate_grad_batches * self.trainer.world_size / num_items if num_items else 0.0
        norm_before_clipping = norm_in_units * scale
        learning_rate = self.schedule(optimizer)
        self.last_step = StepResult(total, num_items, norm_before_clipping, learning_rate)
        self.progress.items += int(num_items)
        if not (math.isfinite(total) and math.isfinite(norm_before_clipping)) or not num_items:
            self._refuse(optimizer, total, norm_before_clipping)
            return
        self.progress.updates += 1
        self.progress.skipped_in_a_row = 0
        if gradient_clip_val and gradient_clip_algorithm in (None, "norm"):
            scale *= min(1.0, gradient_clip_val / (norm_before_clipping + 1e-6))
        if scale != 1.0:
            torch._foreach_mul_(gradients, scale)
        if gradient_clip_val and gradient_clip_algorithm == "value":
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def _measure(self, gradients: list[Tensor]) -> tuple[float, float, float]:
        """Summed loss and items of the step over all ranks, and the norm of the gradients as they are."""
        norm = full(torch.nn.utils.get_total_norm(gradients)) if gradients else torch.zeros((), device=self.device)
        if self.trainer.world_size == 1 and self.device.type == "cpu":  # reading a number costs nothing there
            return sum(part.total.item() for part in self._window), sum(part.num_items.item() for part in self._window), norm.item()
        sums = torch.stack([torch.stack([part.total.double(), part.num_items.double()]) for part in self._window]).sum(0)
        if self.trainer.world_size > 1:
            sums = self.trainer.strategy.reduce(sums, reduce_op="sum")
        total, num_items, norm_in_units = torch.cat([sums, norm.reshape(1).double()]).tolist()  # the one wait for the device in a step
        return total, num_items, norm_in_units

    def schedule(self, optimizer: Optimizer) -> float:
        """Set the learning rates for the update under way; the first group's."""
        factor = 1.0 if self._scheduler is None else self._scheduler.factor(self.progress.updates, self.trainer.max_steps)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        return float(optimizer.param_groups[0]["lr"])

    def _refuse(self, optimizer: Optimizer, total: float, norm: float) -> None:
        """Leave weights and optimizer as they are: optimizers pass over parameters without a gradient."""
        drop_gradients(optimizer)
        self.progress.skipped_in_a_row += 1
        if self.non_finite == "stop" or self.progress.skipped_in_a_row >= self.max_non_finite_steps:
            raise NonFiniteLoss(
                f"step {self.progress.step + 1}: the summed loss is {total} and the gradient norm {norm}, {self.progress.skipped_in_a_row} time(s) in a "
                "row; weights are unchanged since the last good step. Lower the learning rate, lengthen the warm-up, or look at the data."
            )

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Nothing: Lightning calls callbacks first, and they need the counters (see `optimizer_step` and `on_after_backward`)."""

    def on_after_backward(self) -> None:
        """Count the micro-batch, on all ranks together."""
        self.progress.batches += self.trainer.world_size

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None) -> None:
        """Step, then count it: callbacks see a boundary.

        The gradients go at once, not after the next forward pass as Lightning would have it: they need not be there beside its activations.
        """
        optimizer.step(closure=optimizer_closure)
        # fused kernels write to weights without saying so, and an engine or an adapter would go on with what it made of the old ones
        torch.autograd.graph.increment_version([parameter for group in optimizer.param_groups for parameter in group["params"]])
        drop_gradients(optimizer)
        self._window.clear()
        self.progress.step += 1
        self.at_step_boundary = True

    def describe(self) -> str:
        """One line about the run: network, data, length."""
        data = ", ".join(f"{name.replace('_', ' ')} {value:,}" for name, value in self.data.describe().items() if isinstance(value, int))
        items = self.data.items_per_batch * self.trainer.accumulate_grad_batches * self.trainer.world_size
        steps = f"{self.trainer.max_steps - self.progress.step:,} steps of {items:,} {self.served or self.item}"
        trained = sum(parameter.numel() for parameter in self.network.parameters() if parameter.requires_grad)
        size = f"{self.network.num_parameters():,} parameters" + (
            f", {trained:,} of them trained," if trained < self.network.num_parameters() else ""
        )
        return f"{type(self).__name__}: {type(self.network).__name__} with {size} on {self.device}; {data}; {steps}"

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        """Nothing: `optimizer_step` has dropped them."""

    def flops_per_item(self) -> float | None:
        """Floating-point operations of training on one item (a token, unless the recipe says otherwise); None where that says nothing."""
        return float(self.network.flops_per_token(self.data.context_length))

    # validation

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Add the batch to the metrics."""
        self.evaluate(batch)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the whole validation set, at this run's own step (Lightning's is one behind here)."""
        metrics = self.metric.compute()
        self.metric.reset()
        fitting = self.trainer.state.fn == "fit"
        self.log_dict(metrics, logger=not fitting)
        if fitting and not self.trainer.sanity_checking:
            for logger in self.trainer.loggers:
                logger.log_metrics({name: float(value) for name, value in metrics.items()}, step=self.progress.step)

    # model directory and checkpoints

    def save_model(self, directory: Path) -> None:
        """Write the model directory: the network ready for use, with where it came from."""
        from framework import checkpoint
        from framework.formats import peft

        network, lineage, tokenizer, template = self.network_to_save(), self.lineage(), self.data.tokenizer, self.data.chat_template
        checkpoint.save(directory, network, tokenizer, lineage, template=template)
        peft.save_beside(directory, network, lineage, tokenizer, template)

    def network_to_save(self) -> Network:
        """What the model directory is to hold: the network, or the part of it that is of use without the recipe."""
        return self.network

    def lineage(self) -> dict[str, Any]:
        """What made this network: fingerprints, counters, configuration, plugins, environment."""
        return {
            "recipe": type(self).__name__,
            "tokenizer": self.data.tokenizer.fingerprint,
            "data": self.data.fingerprint(),
            "progress": self.progress.state_dict(),
            "metrics": {name: float(value) for name, value in self.trainer.callback_metrics.items()},
            "plugins": self.plugins,
            "environment": environment(self.trainer.strategy.root_device, self.trainer.world_size),
            "config": self.config,
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what resuming needs, as plain values; drop what would let a checkpoint choose classes."""
        for key in ("hyper_parameters", "datamodule_hyper_parameters", "hparams_name", "datamodule_hparams_name"):
            checkpoint.pop(key, None)
        checkpoint.setdefault("framework", {}).update(
            format=FORMAT,
            version=__version__,
            progress=self.progress.state_dict(),
            config=self.config,
            plugins=self.plugins,
            data=self.data.fingerprint(),
            tokenizer=self.data.tokenizer.fingerprint,
            world_size=self.trainer.world_size,
        )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the counters and the position in the data. Raises CheckpointError when the run is not the one that was saved."""
        saved = checkpoint["framework"]
        if saved["tokenizer"] != self.data.tokenizer.fingerprint:
            raise CheckpointError(
                "the checkpoint was trained with another tokenizer; resume with that one, or start a new run from its weights with --init_from."
            )
        if saved["data"] != self.data.fingerprint():
            raise CheckpointError(
                "the checkpoint was trained on other data (corpus, context length, batch size or seed differ); "
                "resume with the same, or start a new run from its weights with --init_from."
            )
        check_shapes(self.state_dict(), checkpoint["state_dict"])
        self.progress.load_state_dict(saved["progress"])
        self.data.first_batch = self.progress.batches


def check_shapes(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError naming the first tensor that does not fit: missing, unexpected or of another shape."""
    for name in ours.keys() | theirs.keys():
        ours_shape, theirs_shape = (tuple(state[name].shape) if name in state else None for state in (ours, theirs))
        if ours_shape != theirs_shape:
            raise CheckpointError(
                f"the checkpoint holds another network: {name} is {theirs_shape or 'absent'} there and {ours_shape or 'absent'} here; "
                "resume with the network it was trained with."
            )


def drop_gradients(optimizer: Any) -> None:
    """Free every gradient; optimizers pass over parameters without one."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None


def full(tensor: Tensor) -> Tensor:
    """A sharded tensor's whole value; an ordinary tensor itself."""
    return tensor.full_tensor() if isinstance(tensor, torch.distributed.tensor.DTensor) else tensor
