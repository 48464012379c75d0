"""What all tests share: a cache of their own, quiet libraries, and a small run to train."""

from __future__ import annotations

import io
import os
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from framework.kernels import calls

os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("FRAMEWORK_KEEP_MEMORY", "0")  # a run in the tests' own process must not change its allocator
torch.set_num_threads(1)  # tiny tensors: threads would only wait for each other


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test of the kernels on a machine that cannot compile them."""
    if item.get_closest_marker("kernels") is not None and not calls.available():
        pytest.skip("no compiler")


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """The number of threads that a test sets is its own."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache directory of this test session: nothing is found that an earlier session left."""
    path = tmp_path_factory.mktemp("cache")
    before = os.environ.get("FRAMEWORK_CACHE")
    os.environ["FRAMEWORK_CACHE"] = str(path)
    yield path
    if before is None:
        del os.environ["FRAMEWORK_CACHE"]
    else:
        os.environ["FRAMEWORK_CACHE"] = before


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty small documents of made-up sentences: enough structure to learn something in a few steps."""
    folder = tmp_path_factory.mktemp("corpus")
    draw = random.Random(0)
    animals, verbs, places = ["cat", "dog", "bird", "fish"], ["sat on", "ran to", "looked at"], ["the mat", "a tree", "the house"]
    for number in range(30):
        sentences = [f"The {draw.choice(animals)} {draw.choice(verbs)} {draw.choice(places)}." for _ in range(40)]
        (folder / f"{number:02}.txt").write_text(" ".join(sentences), encoding="utf-8")
    return folder


class Outcome(NamedTuple):
    """What a command line left: its exit code, and what it wrote."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def framework() -> Callable[..., Outcome]:
    """Runs a command line in this process: `framework("fit", "--config", path)`."""
    from framework.__main__ import main

    def run(*words: object) -> Outcome:
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err), warnings.catch_warnings():
            code = main([str(word) for word in words])
        return Outcome(code, out.getvalue(), err.getvalue())

    return run


TINY_SHAPE = {"num_layers": 2, "width": 32, "num_heads": 2, "positions": "rotary", "norm": "rms", "feedforward": "swiglu"}


@pytest.fixture
def small_run(tmp_path: Path, corpus: Path) -> Callable[..., tuple[Any, Any, Any]]:
    """Gives (recipe, data, trainer) of a tiny pretraining run; keyword arguments change trainer settings and more."""
    from lightning.pytorch import Trainer

    from framework.batches.packed_text import PackedText
    from framework.commands.lightning_cli import TRAINER_DEFAULTS
    from framework.datasets.text_files import TextFiles
    from framework.networks.shape import NetworkShape
    from framework.networks.transformer import Transformer
    from framework.optimizers.adamw import AdamW
    from framework.recipes.pretrain import Pretrain
    from framework.tokenizers.byte import Byte
    from framework.training.checkpoint_io import DurableCheckpointIO

    def build(
        batch_size: int = 4,
        dropout: float = 0.0,
        recipe_arguments: dict[str, Any] | None = None,
        data_arguments: dict[str, Any] | None = None,
        **trainer: Any,
    ) -> tuple[Any, Any, Any]:
        shape = NetworkShape(**TINY_SHAPE, dropout=dropout)  # type: ignore[arg-type]
        arguments: dict[str, Any] = {"optimizer": lambda groups: AdamW(groups, lr=1e-2), **(recipe_arguments or {})}
        recipe = Pretrain(network=lambda **sizes: Transformer(shape, **sizes), **arguments)  # type: ignore[misc]
        data = PackedText(TextFiles(str(corpus)), Byte(), context_length=16, batch_size=batch_size, **(data_arguments or {}))
        settings: dict[str, Any] = {
            **TRAINER_DEFAULTS,
            "max_steps": 4,
            "accelerator": "cpu",
            "logger": False,
            "enable_progress_bar": False,
            "enable_checkpointing": False,
            "limit_val_batches": 0,
            "default_root_dir": tmp_path,
            "plugins": [DurableCheckpointIO()],
            **trainer,
        }
        return recipe, data, Trainer(**settings)

    return build
