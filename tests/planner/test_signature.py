"""Signatures read from the source against those of the imported classes."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from framework.planner.signature import Computed, Required, signature
from framework.registry import registry

FAMILIES = (
    "framework.networks",
    "framework.recipes",
    "framework.batches",
    "framework.optimizers",
    "framework.schedulers",
    "framework.tokenizers",
)


def expected(kind: Any) -> dict[str, Any]:
    return {name: parameter.default for name, parameter in inspect.signature(kind).parameters.items()}


@pytest.mark.parametrize("path", [f"{family}.{name}" for family in FAMILIES for name in registry(family)])
def test_registered_parts(path: str) -> None:
    family, _, name = path.rpartition(".")
    found, wanted = signature(path), expected(registry(family)[name])
    assert found is not None and list(found) == list(wanted)
    for key, default in wanted.items():
        if found[key] is not Computed:
            assert (inspect.Parameter.empty if found[key] is Required else found[key]) == default


def test_lightning_s_trainer() -> None:
    from lightning.pytorch import Trainer

    found = signature("lightning.pytorch.Trainer")
    assert found is not None and list(found) == list(expected(Trainer))
    assert found["accumulate_grad_batches"] == 1 and found["max_steps"] == -1


def test_what_cannot_be_known() -> None:
    assert signature("nowhere.at.All") is None
    assert signature("framework.optimizers.Nothing") is None
    assert signature("json.JSONEncoder") is not None and signature("argparse.Namespace") is None  # it takes anything


def test_nothing_is_imported() -> None:
    code = "import sys; from framework.planner.signature import signature; signature('lightning.pytorch.Trainer'); signature('framework.recipes.PPO'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert not {"torch", "lightning", "numpy"} & set(done.stdout.split())
