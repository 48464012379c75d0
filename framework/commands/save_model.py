"""`framework save-model`: a model directory from a checkpoint, of a run that was stopped or is still going; a LoRA's adapter beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from framework.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from framework.batches.base import Batches
    from framework.recipes.recipe import Recipe


def save_model(run: Path, checkpoint: Path | None = None, output: Path | None = None) -> None:
    """Make a model directory from a run's checkpoint, ready to generate.

    Args:
        run: the run's directory, runs/NAME.
        checkpoint: one of its checkpoints; the newest good one unless given.
        output: where the model directory goes; RUN/model unless given.
    """
    import torch
    import yaml

    from framework import checkpoint as model_directory
    from framework.commands.run_directory import RunDirectory
    from framework.formats.peft import save_beside
    from framework.training.checkpoint_io import DurableCheckpointIO

    directory = RunDirectory(run)
    if not directory.config.is_file():
        raise ConfigError(f"{run} is no run (it has no config.yaml); runs are in runs/NAME.")
    path = directory.checkpoint(str(checkpoint) if checkpoint else "auto")
    if path is None:
        raise CheckpointError(f"{run} has no checkpoint yet.")
    state = DurableCheckpointIO().load_checkpoint(path, map_location="cpu")
    about = state["framework"]
    recipe, data = _instantiate(about["config"] or yaml.safe_load(directory.config.read_text(encoding="utf-8")))
    data.prepare_data()
    data.setup("fit")
    network = recipe.build_network(data)
    prefix = "network."
    with torch.no_grad():
        network.load_state_dict(
            {name.removeprefix(prefix): tensor for name, tensor in state["state_dict"].items() if name.startswith(prefix)}
        )
    lineage = {key: about[key] for key in ("tokenizer", "data", "progress", "metrics", "plugins", "config")}
    lineage["checkpoint"] = path.name
    recipe.network = network
    network, place = recipe.network_to_save(), output or directory.model
    print(model_directory.save(place, network, data.tokenizer, lineage, template=data.chat_template))
    if adapter := save_beside(place, network, lineage, data.tokenizer, data.chat_template):
        print(adapter)


def _instantiate(config: dict[str, Any]) -> tuple[Recipe, Batches]:
    """Recipe and data of a resolved configuration."""
    import jsonargparse

    from framework.batches.base import Batches
    from framework.recipes.recipe import Recipe

    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Recipe, "model", required=True)
    parser.add_subclass_arguments(Batches, "data", required=True)
    made = parser.instantiate_classes(parser.parse_object({"model": config["model"], "data": config["data"]}))
    return made.model, made.data
