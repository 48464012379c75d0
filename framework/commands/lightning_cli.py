"""LightningCLI itself, told our conventions: run directories, our checkpoints, logs and bar, no hidden resets.

A composition flows in; it is parsed, instantiated and run. Errors flow out as exceptions (fit.py makes exit codes of them).
"""

from __future__ import annotations

import logging
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from enum import Enum
from pathlib import Path
from typing import Any

import jsonargparse
import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.rank_zero import _get_rank
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import LambdaCallback, Timer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger

from framework.batches.base import Batches
from framework.commands.arguments import shorten
from framework.commands.compose import PATH_KEYS, Composition, absolute_paths
from framework.commands.run_directory import RunDirectory
from framework.errors import ConfigError, UserError
from framework.formats.adaptation import Adaptation
from framework.recipes.recipe import Recipe
from framework.training import heap
from framework.training.checkpoint_io import DurableCheckpointIO, read_manifest
from framework.training.checkpoints import Checkpoints
from framework.training.progress_bar import StepBar
from framework.training.run_log import RunLog

TRAINER_DEFAULTS = {
    "max_epochs": -1,  # a run is measured in steps
    "check_val_every_n_epoch": None,
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 20,
    "use_distributed_sampler": False,  # the order of the data is ours: a function of seed and position
    "enable_model_summary": False,
}
QUIET = (
    ".*does not have many workers.*",
    ".*`IterableDataset` has `__len__` defined.*",
    ".*LightningCLI's args parameter is intended.*",
    ".*It is recommended to use `self.log.*sync_dist.*",  # torchmetrics has done it
    ".*isinstance.treespec, LeafSpec.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*module\\(s\\) in eval mode at the start of training.*",  # reinforcement learning has no dropout
    ".*Total length of `list` across ranks is zero.*",  # no validation documents
    ".*but have no logger configured.*",  # validate prints
    ".*is supported for historical reasons but its usage is discouraged.*",
)


# what a resumed run may do otherwise; files may have moved: their content is compared by fingerprint
MAY_CHANGE = ("num_workers", "compile", "activation_checkpointing", "chat_template", *PATH_KEYS)


class RunTooShort(UserError):
    """The run ended before its target."""

    exit_code = 1


def sections() -> dict[str, Any]:
    """Top-level configuration keys that hold a class's arguments."""
    return {"trainer": Trainer, "checkpoints": Checkpoints, "adapt": Adaptation}


def run(subcommand: str, composition: Composition, plugins: dict[str, str]) -> None:
    """Parse, instantiate, run. Raises ConfigError for what cannot be parsed or built."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    for message in QUIET:
        warnings.filterwarnings("ignore", message=message)
    arguments = [subcommand, *composition.flags]
    if composition.config:
        arguments += ["--config", yaml.safe_dump(composition.config, sort_keys=False)]
    for key, value in composition.overrides:
        arguments += [f"--{key}", value]
    CommandLine.subcommand_name, CommandLine.plugins = subcommand, plugins
    try:
        CommandLine(
            model_class=Recipe,
            datamodule_class=Batches,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            trainer_defaults=TRAINER_DEFAULTS,
            seed_everything_default=0,
            parser_kwargs={"exit_on_error": False, subcommand: {"exit_on_error": False}},
            args=arguments,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )
    except jsonargparse.ArgumentError as error:
        raise ConfigError(_locate(shorten(str(error)), composition)) from error


class CommandLine(LightningCLI):
    """One subcommand with our arguments beside Lightning's."""

    subcommand_name = "fit"
    plugins: dict[str, str] = {}

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Only the one that was asked for: each parser costs a second. Lightning's checkpoint arguments are ours to give."""
        skipped = {"model", "datamodule", "train_dataloaders", "val_dataloaders", "dataloaders", "ckpt_path", "weights_only"}
        known = LightningCLI.subcommands()
        return {CommandLine.subcommand_name: known[CommandLine.subcommand_name] | skipped}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """What a run is called, where it lives, what it starts from, and when it is saved."""
        parser.add_argument("--name", type=str, default="run", help="The run's name: it lives in RUNS_DIR/NAME.")
        parser.add_argument("--runs_dir", type=Path, default=Path("runs"), help="Where runs live.")
        parser.add_argument(
            "--resume", type=str | None, default=None, help="auto (the newest good checkpoint of this run; none: start) or a checkpoint."
        )
        parser.add_argument("--overwrite", type=bool, default=False, help="Start again where a run of this name exists, deleting it.")
        parser.add_argument(
            "--init_from", type=str | None, default=None, help="A model directory or run whose network and tokenizer to start from."
        )
        parser.add_class_arguments(Adaptation, "adapt")
        parser.add_lightning_class_args(Checkpoints, "checkpoints")

    def _parse_ckpt_path(self) -> None:
        """Not Lightning's way: hyper-parameters in a checkpoint never decide over what the user says."""

    def before_instantiate_classes(self) -> None:
        """Settle the run directory and what the run starts from, before anything slow."""
        config = self.config[self.subcommand]
        if (config.trainer.max_epochs or -1) != -1:
            raise ConfigError("trainer.max_epochs is not used here: a run is measured in optimizer steps, --trainer.max_steps N.")
        self.run_directory = RunDirectory.named(Path(config.runs_dir), config.name)
        self.checkpoint: Path | None = None
        if self.subcommand == "validate":
            self.checkpoint = self.run_directory.checkpoint(config.resume or "auto")
            return
        if config.resume is not None:
            self.checkpoint = self.run_directory.checkpoint(config.resume)
        if self.checkpoint is None and not config.overwrite and not config.trainer.fast_dev_run and not _get_rank():
            self.run_directory.refuse_to_overwrite()

    def instantiate_classes(self) -> None:
        """Build recipe, data and trainer; what their constructors refuse is the configuration's fault."""
        try:
            super().instantiate_classes()
        except (ValueError, TypeError, MisconfigurationException, ModuleNotFoundError) as error:
            raise ConfigError(shorten(str(error))) from error
        self.model.config = self._resolved()
        self.model.plugins = self.plugins

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Lightning's Trainer with our checkpoint files, log and bar."""
        config = self._get(self.config_init, "trainer")
        loggers = config.get("logger")
        chosen = [] if loggers in (None, True, False) else loggers if isinstance(loggers, list) else [loggers]
        if self.subcommand != "fit":
            chosen, loggers = [], False  # judging a run leaves its logs as they are
        log: list[Logger] = [] if loggers is False or config.get("fast_dev_run") else [RunLog(self.run_directory.logs)]
        plugins = config.get("plugins") or []
        kwargs["plugins"] = [*(plugins if isinstance(plugins, list) else [plugins]), DurableCheckpointIO()]
        kwargs["logger"] = [*log, *chosen]
        kwargs["default_root_dir"] = str(self.run_directory.root)
        callbacks = config.get("callbacks") or []
        config["callbacks"] = [*(callbacks if isinstance(callbacks, list) else [callbacks]), LambdaCallback(on_train_start=_begin)]
        if config.get("enable_progress_bar") is not False:
            config["callbacks"].append(StepBar())
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (ValueError, TypeError, MisconfigurationException) as error:
            raise ConfigError(f"trainer: {shorten(str(error))}") from error
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, Checkpoints):
                callback.directory = self.run_directory.checkpoints
        return trainer

    def _resolved(self) -> dict[str, Any]:
        """The configuration as plain values, every default filled in: what config.yaml and checkpoints hold."""
        parser = self._parser(self.subcommand)
        text = parser.dump(_without_enums(self.config[self.subcommand]), format="yaml", skip_validation=True)
        resolved: dict[str, Any] = yaml.safe_load(text)
        kept = {key: value for key, value in resolved.items() if key not in ("config", "resume", "overwrite", "init_from", "adapt")}
        return absolute_paths(kept)

    # the subcommands

    def fit(self, **kwargs: Any) -> None:
        """Train; write the model directory; say where everything is."""
        model, trainer = self.model, self.trainer
        dry = bool(self._get(self.config_init, "trainer").get("fast_dev_run"))
        resumed_at = None
        if self.checkpoint is not None:
            self._refuse_changes(self.checkpoint)
            resumed_at = read_manifest(self.checkpoint)["step"]
        keeps_files = not dry and not _get_rank()
        new = keeps_files and self.checkpoint is None
        with self.run_directory.replaced(lambda: model.progress.step > 0) if new else nullcontext():
            if keeps_files:
                header = "# The resolved configuration of this run; framework fit --config THIS --name NEW repeats it.\n"
                self.run_directory.root.mkdir(parents=True, exist_ok=True)  # another run's checkpoint may begin this one
                self.run_directory.config.write_text(header + yaml.safe_dump(model.config, sort_keys=False), encoding="utf-8")
            with _settings_that_fail_late():
                trainer.fit(ckpt_path=self.checkpoint, **kwargs)
        progress = model.progress
        if progress.step == resumed_at and self.run_directory.model.is_dir():
            print(f"finished already at step {progress.step}; model in {self.run_directory.model}", file=sys.stderr)
            return
        short = progress.step < trainer.max_steps and (not trainer.should_stop or _out_of_time(trainer))
        if trainer.is_global_zero and not dry and progress.step:
            model.save_model(self.run_directory.model)
            metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
            shown = ", ".join(f"{name} {metrics[name]:.4f}" for name in ("val/loss", "val/bits_per_byte", "val/reward") if name in metrics)
            ended = "ended early" if short else "finished"
            print(f"{ended}: step {progress.step}{f', {shown}' if shown else ''}; model in {self.run_directory.model}", file=sys.stderr)
        if short and not dry:
            why = " (trainer.max_time is over)" if _out_of_time(trainer) else ""
            raise RunTooShort(f"the run ended at step {progress.step} of {trainer.max_steps}{why}; go on with --resume auto.")

    def validate(self, **kwargs: Any) -> None:
        """Print the metrics of the checkpoint as a table."""
        if self.checkpoint is None:
            raise ConfigError(f"{self.run_directory.root} has no checkpoint to validate; train first, or name one with --resume PATH.")
        results = self.trainer.validate(ckpt_path=self.checkpoint, **{**kwargs, "verbose": False})
        if self.trainer.is_global_zero:
            for name, value in results[0].items():
                print(f"{name:20} {value:.6f}")

    def _refuse_changes(self, checkpoint: Path) -> None:
        """A resumed run is the run that was saved: recipe and data may not differ; where it runs and how long may."""
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["framework"].get("config") or {}
        for section in ("model", "data"):
            for key, before, now in _differences(saved.get(section), self.model.config.get(section), section):
                if key.rpartition(".")[2] not in MAY_CHANGE:
                    raise ConfigError(
                        f"{key} is {now!r} and was {before!r} when {checkpoint} was saved: a resumed run goes on as it was. "
                        "Give the old value, or start a new run from the weights with --init_from."
                    )
        steps = (saved.get("trainer") or {}).get("max_steps")
        if steps is not None and steps != self.trainer.max_steps:
            print(
                f"note: trainer.max_steps is {self.trainer.max_steps} and was {steps}: the rest of the schedule changes with it",
                file=sys.stderr,
            )


@contextmanager
def _settings_that_fail_late() -> Iterator[None]:
    """What Lightning finds wrong with settings only while it runs is the user's to mend all the same."""
    try:
        yield
    except MisconfigurationException as error:
        raise ConfigError(f"trainer: {shorten(str(error))}") from error
    except RuntimeError as error:
        if not str(error).startswith("Early stopping conditioned on metric"):
            raise
        raise ConfigError(f"trainer.callbacks: {shorten(str(error))}") from error


def _out_of_time(trainer: Trainer) -> bool:
    """Whether `trainer.max_time` ended the run."""
    timers = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]  # type: ignore[attr-defined]
    return any((left := timer.time_remaining()) is not None and left <= 0 for timer in timers)


def _begin(trainer: Trainer, recipe: LightningModule) -> None:
    """Say what is about to be trained, and let its steps hand memory on to each other."""
    if trainer.strategy.root_device.type == "cpu":
        heap.keep_freed()
    if trainer.is_global_zero and isinstance(recipe, Recipe):
        print(recipe.describe(), file=sys.stderr)


def _without_enums(value: Any) -> Any:
    """Some of Lightning's defaults are enumerations of strings, which YAML cannot hold."""
    if isinstance(value, list):
        return [_without_enums(item) for item in value]
    if not isinstance(value, jsonargparse.Namespace):
        return str(value.value) if isinstance(value, str) and isinstance(value, Enum) else value
    plain = value.clone()
    for key, inner in vars(value).items():
        plain[key] = _without_enums(inner)
    return plain


def _differences(before: Any, now: Any, at: str) -> list[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*before, *(key for key in now if key not in before)]
        return [found for key in keys for found in _differences(before.get(key), now.get(key), f"{at}.{key}".replace(".init_args", ""))]
    return [] if before == now else [(at, before, now)]


def _locate(message: str, composition: Composition) -> str:
    """An error about a key with where that key came from."""
    dotted = message.partition(": ")[0]
    if not re.fullmatch(r"[\w.]+", dotted):
        return message
    given = any(key.replace("init_args.", "") == dotted for key, _ in composition.overrides)
    return f"{message} (from {'the command line' if given else composition.origin(composition.full_path(dotted))})"
