"""Looking at steps changes nothing of the run; pages are written where they should be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from framework.errors import ConfigError
from framework.inspection.learning.pages import LearningPages, OneStep, Seen


class Randomness(Callback):
    """What the generators say at each step's end."""

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def on_train_batch_end(self, *_: Any) -> None:
        self.seen.append(torch.get_rng_state())


def trained(run: tuple[Any, Any, Any], *callbacks: Callback) -> tuple[Any, Any]:
    recipe, data, trainer = run
    trainer.callbacks += callbacks
    trainer.fit(recipe, data)
    return recipe, trainer


OPTIONS = [
    {
        "dropout": 0.3,
        "accumulate_grad_batches": 2,
        "gradient_clip_val": 0.5,
        "max_steps": 6,
        "limit_val_batches": 2,
        "val_check_interval": 3,
    },
    {"precision": "bf16-mixed"},
    {"recipe_arguments": {"optimizer": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9)}},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_the_run_is_the_same_to_the_bit(small_run: Any, tmp_path: Path, options: dict[str, Any]) -> None:
    alone, plain = Randomness(), small_run(**options)
    watched, seen = Randomness(), small_run(**options)
    recipe, trainer = trained(plain, alone)
    pages = LearningPages([1, 3, 4], directory=tmp_path / "pages")
    same, other = trained(seen, pages, watched)
    assert len(list((tmp_path / "pages").iterdir())) == 6
    for (name, one), two in zip(recipe.state_dict().items(), same.state_dict().values(), strict=True):
        assert torch.equal(one, two), name
    states = [list(run.optimizers[0].state.values()) for run in (trainer, other)]
    for one, two in zip(*states, strict=True):
        assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one if isinstance(one[key], torch.Tensor))
    assert recipe.progress == same.progress and recipe.last_step == same.last_step
    assert all(torch.equal(one, two) for one, two in zip(alone.seen, watched.seen, strict=True))
    assert {name: mode.training for name, mode in recipe.named_modules()} == {name: mode.training for name, mode in same.named_modules()}
    assert not other.optimizers[0]._optimizer_step_pre_hooks


def test_measures_of_the_run_are_its_own(small_run: Any, tmp_path: Path) -> None:
    recipe, _ = trained(small_run(), LearningPages([2], directory=tmp_path))
    assert recipe.measures.take() == {}
    assert recipe.metric.update_count == 0


def test_pages_of_chosen_steps(small_run: Any, tmp_path: Path) -> None:
    recipe, trainer = trained(small_run(), LearningPages([2, 4], rows=1, weights=["norm.weight[3]"]))
    folder = Path(trainer.default_root_dir) / "logs" / "learning"
    assert sorted(path.name for path in folder.iterdir()) == [f"step-0000000{n}.{kind}" for n in (2, 4) for kind in ("html", "json")]
    second, fourth = (json.loads((folder / f"step-0000000{n}.json").read_text()) for n in (2, 4))
    assert [one["summary"]["step"] for one in (second, fourth)] == [2, 4]
    assert [(one["parameter"], one["index"]) for one in second["weights"]] == [("norm.weight", [3])]
    assert fourth["weights"][0]["state_before"]["step"] == 3 and len(fourth["batch"]["rows"]) == 1
    assert fourth["weights"][0]["after"] == recipe.network.norm.weight[3].item()


def test_one_step_ends_the_run(small_run: Any) -> None:
    recipe, data, trainer = small_run(max_steps=50)
    trainer.callbacks.append(OneStep(steps_before=2))
    with pytest.raises(Seen) as seen:
        trainer.fit(recipe, data)
    assert seen.value.learning.summary.step == 3 and recipe.progress.step == 3


@pytest.mark.parametrize("arguments", [{"steps": []}, {"steps": [0]}, {"steps": [1], "rows": 0}])
def test_what_cannot_be_meant_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"step|rows"):
        LearningPages(**arguments)


def test_several_processes_are_refused() -> None:
    class Several:
        world_size = 2

    with pytest.raises(ConfigError, match=r"2: --trainer\.devices 1"):
        LearningPages([1]).on_train_start(Several(), None)  # type: ignore[arg-type]
