"""Which keys hold parts, and what their names stand for."""

from __future__ import annotations

from typing import Any

import pytest

from framework.commands.slots import expand, family_of, is_file, is_list, normalise
from framework.errors import ConfigError
from framework.registry import UnknownPlugin


@pytest.mark.parametrize(
    "key, family",
    [
        ("model", "framework.recipes"),
        ("data", "framework.batches"),
        ("model.network", "framework.networks"),
        ("model.init_args.teacher_network", "framework.networks"),
        ("validation_dataset", "framework.datasets"),
        ("datasets", "framework.datasets"),
        ("samplers+", "framework.samplers"),
        ("tasks+", "framework.tasks"),
        ("tasks.reward", "framework.rewards"),
        ("trainer.callbacks", "lightning.pytorch.callbacks"),
        ("trainer.logger", "lightning.pytorch.loggers"),
        ("trainer.max_steps", None),
        ("model.network.shape", None),
        ("metadata", None),
        ("model.seed", None),
        ("model.reward_model", None),
    ],
)
def test_families_of_keys(key: str, family: str | None) -> None:
    assert family_of(key) == family


def test_lists_and_files() -> None:
    assert is_list("samplers") and is_list("samplers+") and is_list("trainer.callbacks")
    assert not is_list("model.optimizer") and not is_list("trainer.devices")
    assert is_file("a/b.yaml") and is_file("x.yml") and not is_file("yaml") and not is_file(3)


def test_names() -> None:
    assert expand("framework.optimizers", "AdamW", "model.optimizer", "here") == "framework.optimizers.AdamW"
    assert expand("framework.optimizers", "torch.optim.Adam", "model.optimizer", "here") == "torch.optim.Adam"
    assert expand("lightning.pytorch.callbacks", "Anything", "callbacks", "here") == "lightning.pytorch.callbacks.Anything"
    with pytest.raises(UnknownPlugin, match=r"model\.optimizer \(from run\.yaml:3\): there is no Adam in .* Did you mean AdamW\?"):
        expand("framework.optimizers", "Adam", "model.optimizer", "run.yaml:3")
    with pytest.raises(ConfigError, match=r"model\.optimizer: 'adam w' names no part \(from run\.yaml:3\)"):
        expand("framework.optimizers", "adam w", "model.optimizer", "run.yaml:3")


ADAMW = "framework.optimizers.AdamW"


@pytest.mark.parametrize(
    "key, value, full",
    [
        ("optimizer", "AdamW", {"class_path": ADAMW}),
        ("optimizer", {"class_path": "AdamW", "init_args": {"lr": 1}}, {"class_path": ADAMW, "init_args": {"lr": 1}}),
        ("optimizer", {"lr": 1}, {"init_args": {"lr": 1}}),
        ("optimizer", {"init_args": {"lr": 1}}, {"init_args": {"lr": 1}}),
        ("optimizer", {}, {}),
        ("optimizer", None, None),
        ("optimizers", ["AdamW", {"class_path": ADAMW}], [{"class_path": ADAMW}, {"class_path": ADAMW}]),
        ("lr", "AdamW", "AdamW"),
        ("logger", False, False),
    ],
)
def test_full_form(key: str, value: Any, full: Any) -> None:
    assert normalise(key, value, "here") == full
    assert normalise(key, full, "here") == full
