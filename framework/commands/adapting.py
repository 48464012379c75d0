"""`adapt:` beside `init_from:`: what the model that a run starts from becomes before it is trained.

A composed configuration whose network and tokenizer are a model directory's flows in; their settings flow out, and the LoRA's above
them, so that the saved configuration says it all. Imports no torch.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from framework.commands import check
from framework.commands.compose import Composition
from framework.errors import ConfigError
from framework.formats import sealed
from framework.formats.adaptation import Adaptation

KEY = "adapt"
NETWORK, LORA, SCORES = (f"framework.networks.{name}" for name in ("Pretrained", "LoRA", "ScalarHead"))


def take_adapt(composition: Composition) -> None:
    """Move the settings of `adapt` to the parts that they are about. Raises ConfigError for one that these cannot have."""
    chain = _chain(composition)
    bottom, loras = chain[-1] if chain else {}, [part for part in chain if part["class_path"] == LORA]
    adapt = _given(composition)
    if bottom.get("class_path") != NETWORK or "path" not in (bottom.get("init_args") or {}):
        if adapt:
            raise ConfigError(
                f"adapt.{next(iter(adapt))} is about the model that a run starts from: give --init_from SOURCE, or leave it out."
            )
        return
    quantize = adapt.pop("quantize", None)
    if quantize is not None and not loras:
        raise ConfigError(
            f"adapt.quantize {quantize} is for the frozen network under a LoRA, and this run trains the network itself: take --recipe lora-sft "
            "or --model.network LoRA, or leave it out."
        )
    settings = bottom["init_args"]
    directory = Path(settings["path"])
    _refuse_scores(composition, directory, chain)
    adapt = {**(settings.get(KEY) or {}), **adapt}
    if "dtype" not in adapt and (dtype := _trained_type(directory, bool(loras))):
        adapt["dtype"] = dtype
    if adapt:
        settings[KEY] = adapt
    if new_tokens := adapt.get("new_tokens"):
        composition.get("data.tokenizer")["init_args"]["new_tokens"] = new_tokens
    if loras:
        given = {"new_ids": len(new_tokens or ()), "quantize": quantize}
        loras[-1].setdefault("init_args", {}).update({name: value for name, value in given.items() if value})


def _chain(composition: Composition) -> list[dict[str, Any]]:
    """The parts of the network, from outside in."""
    parts: list[dict[str, Any]] = []
    part = composition.get("model.network")
    while isinstance(part, dict) and "class_path" in part:
        parts.append(part)
        part = (part.get("init_args") or {}).get("base")
    return parts


def _refuse_scores(composition: Composition, directory: Path, chain: Sequence[Mapping[str, Any]]) -> None:
    """Raise ConfigError where a reward model would have to write text."""
    manifest = directory / sealed.MANIFEST
    if not manifest.is_file() or any(part["class_path"] == SCORES for part in chain):
        return
    network = sealed.read_json(manifest).get("network") or {}
    if network.get("class_path") != SCORES:
        return
    from framework.recipes.reward_model import RewardModel

    if not issubclass(check.load(composition.config["model"]["class_path"], "model"), RewardModel):
        raise ConfigError(
            f"{directory} is a reward model, which gives scores and writes no text: start from the model that it was made of."
        )


def _given(composition: Composition) -> dict[str, Any]:
    """The settings of `adapt` that were given, of files and arguments, in their types."""
    values: dict[str, Any] = composition.config.pop(KEY, None) or {}
    for key, value in composition.overrides:
        section, _, name = key.partition(".")
        if section == KEY and name.endswith("+"):
            values[name[:-1]] = [*(values.get(name[:-1]) or []), yaml.safe_load(value)]
        elif section == KEY:
            values[name] = yaml.safe_load(value)
    composition.forget(KEY)
    import jsonargparse

    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Adaptation, KEY)
    try:
        parser.instantiate_classes(parser.parse_object({KEY: values}))
    except jsonargparse.ArgumentError as error:
        from framework.commands.arguments import shorten

        raise ConfigError(shorten(str(error))) from None
    except ValueError as error:
        raise ConfigError(f"adapt: {error}.") from None
    return {name: value for name, value in values.items() if value not in (None, [])}


def _trained_type(directory: Path, is_frozen: bool) -> str | None:
    """The type that the weights of a model directory must have to be trained, where it is another than the stored one."""
    import torch

    from framework.formats.tensor_files import TensorFiles
    from framework.formats.weights import widest

    weights = TensorFiles(directory)
    stored = widest(weights, [name for name in weights.names if weights.dtype(name).is_floating_point])
    if stored == torch.float16 or (stored == torch.bfloat16 and not is_frozen):
        kind = str(stored).removeprefix("torch.")
        print(f"note: {directory} is stored in {kind} and trained in float32 (adapt.dtype bfloat16 takes half the memory)", file=sys.stderr)
        return "float32"
    return None
