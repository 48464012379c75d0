"""Numbers that must not change by accident: the loss curve of a small run. `make golden` writes them anew; look at the difference."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback

GOLDEN = Path(__file__).parent / "golden"
STEPS = 50


class Curve(Callback):
    """Keeps the mean loss of each step, nats."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any, **__: Any) -> None:
        self.losses.append(round(pl_module.last_step.total / pl_module.last_step.num_items, 6))


def compare(name: str, found: dict[str, Any], relative: float) -> None:
    path = GOLDEN / f"{name}.json"
    if os.environ.get("FRAMEWORK_GOLDEN") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n")
    stored = json.loads(path.read_text())
    assert found.keys() == stored.keys()
    for key, values in stored.items():
        assert found[key] == pytest.approx(values, rel=relative), f"{key} of {path.name} has changed"


def test_pretrain(small_run: Any) -> None:
    from framework.optimizers.adamw import AdamW
    from framework.schedulers.schedules import Cosine

    curve = Curve()
    arguments = {"optimizer": lambda groups: AdamW(groups, lr=3e-3), "scheduler": Cosine(warmup_steps=5)}
    recipe, data, trainer = small_run(max_steps=STEPS, recipe_arguments=arguments, callbacks=[curve], gradient_clip_val=1.0)
    trainer.fit(recipe, data)
    assert len(curve.losses) == STEPS
    assert curve.losses[-1] < 0.75 * curve.losses[0]
    compare("pretrain", {"parameters": recipe.network.num_parameters(), "tokens": data.train_tokens, "losses": curve.losses}, relative=1e-3)
