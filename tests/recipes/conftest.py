"""Small fine-tuning runs: sums of one digit, a byte tokenizer, a network of two layers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from framework.batches.demonstrations import Demonstrations
from framework.batches.preferences import Preferences
from framework.batches.prompts import Prompts
from framework.datasets.json_lines import JsonLines
from framework.networks.scalar_head import ScalarHead
from framework.networks.shape import NetworkShape
from framework.networks.transformer import Transformer
from framework.optimizers.adamw import AdamW
from framework.tokenizers.byte import Byte

SHAPE = NetworkShape(num_layers=2, width=32, num_heads=2, positions="learned", norm="layer", feedforward="gelu")
ROWS = [
    {"prompt": f"{a}+{b}=", "completion": str(a + b), "chosen": str(a + b), "rejected": str((a + b) * 3 + 1), "answer": str(a + b)}
    for a in range(10)
    for b in range(10)
]


def rows(folder: Path, *fields: str) -> JsonLines:
    path = folder / f"{'-'.join(fields)}.jsonl"
    path.write_text("".join(json.dumps({name: row[name] for name in fields}) + "\n" for row in ROWS))
    return JsonLines(str(path))


def network(**sizes: Any) -> Transformer:
    return Transformer(SHAPE, **sizes)


def scored(**sizes: Any) -> ScalarHead:
    return ScalarHead(network, **sizes)  # type: ignore[arg-type]


def adamw(rate: float = 3e-3) -> Callable[[Any], AdamW]:
    return lambda groups: AdamW(groups, lr=rate)


class Data:
    """Gives the three kinds of DataModules over the sums."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def demonstrations(self, **arguments: Any) -> Demonstrations:
        return Demonstrations(rows(self.folder, "prompt", "completion"), Byte(), **{"context_length": 32, "batch_size": 4, **arguments})

    def preferences(self, **arguments: Any) -> Preferences:
        return Preferences(
            rows(self.folder, "prompt", "chosen", "rejected"), Byte(), **{"context_length": 32, "batch_size": 4, **arguments}
        )

    def prompts(self, **arguments: Any) -> Prompts:
        defaults = {"context_length": 32, "max_new_tokens": 6, "batch_size": 4, **arguments}
        return Prompts(rows(self.folder, "prompt", "answer"), Byte(), **defaults)


@pytest.fixture
def data(tmp_path: Path) -> Data:
    return Data(tmp_path)


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., Any]:
    """Trains a recipe and returns it; keyword arguments are the trainer's, `resume` a checkpoint to go on from."""
    from lightning.pytorch import Trainer

    from framework.commands.lightning_cli import TRAINER_DEFAULTS
    from framework.training.checkpoint_io import DurableCheckpointIO
    from framework.training.checkpoints import Checkpoints

    def run(recipe: Any, data: Any, resume: Path | None = None, save_every: int = 0, **settings: Any) -> Any:
        saver = [Checkpoints(every_n_steps=save_every, keep_last=100, keep_best=0)] if save_every else []
        trainer = Trainer(
            **{
                **TRAINER_DEFAULTS,
                "max_steps": 4,
                "accelerator": "cpu",
                "logger": False,
                "enable_progress_bar": False,
                "enable_checkpointing": bool(saver),
                "limit_val_batches": 0,
                "log_every_n_steps": 1,
                "default_root_dir": tmp_path,
                "plugins": [DurableCheckpointIO()],
                **settings,
                "callbacks": [*saver, *settings.get("callbacks", [])],
            }
        )
        trainer.fit(recipe, data, ckpt_path=resume)
        return recipe

    return run


def weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


class Recorder(torch.optim.SGD):
    """SGD that keeps the gradients it was given."""

    def __init__(self, groups: Any, lr: float = 0.1) -> None:
        super().__init__(groups, lr=lr)
        self.seen: list[dict[int, torch.Tensor]] = []

    def step(self, closure: Any = None) -> Any:
        loss = closure()
        every = [p for group in self.param_groups for p in group["params"]]
        self.seen.append({number: p.grad.clone() for number, p in enumerate(every) if p.grad is not None})
        super().step()
        return loss
