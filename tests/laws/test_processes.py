"""Several processes train as one: the same gradients, the same order of the data, the same resumption (TRAP-13, 21, 38)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from runs import assert_same_run, carry_out, settings  # type: ignore[import-not-found]

TWO = {"ranks": 2, "arguments": ["--trainer.devices", "2", "--trainer.strategy", "ddp"]}


def double(corpus: Path, **trainer: Any) -> dict[str, Any]:
    """Three plain gradient steps in float64 on rows with unequal numbers of trained tokens, so that weights show gradients."""
    configuration = settings(corpus)
    configuration["model"]["init_args"]["scheduler"] = "Constant"
    configuration["model"]["init_args"]["optimizer"] = {"class_path": "SGD", "init_args": {"lr": 0.5}}
    configuration["model"]["init_args"]["network"]["init_args"]["shape"]["dropout"] = 0.0
    configuration["data"]["init_args"].update(mask_documents=True, num_workers=0)
    configuration["trainer"].update({"max_steps": 3, "precision": "64-true", **trainer})
    return configuration


def test_two_processes_have_the_gradients_of_one(tmp_path: Path, corpus: Path) -> None:
    one = carry_out(tmp_path / "one", double(corpus, accumulate_grad_batches=2), {})
    two = carry_out(tmp_path / "two", double(corpus, accumulate_grad_batches=1), TWO)
    assert (one.codes, two.codes) == ([[0]], [[0, 0]]), two.output
    assert one.state["framework"]["progress"] == two.state["framework"]["progress"]
    for name, weight in one.state["state_dict"].items():
        torch.testing.assert_close(two.state["state_dict"][name], weight, atol=1e-12, rtol=0)


def test_two_processes_resume(tmp_path: Path, corpus: Path) -> None:
    configuration = settings(corpus)
    configuration["trainer"]["max_steps"] = 30
    resume = {**TWO, "arguments": [*TWO["arguments"], "--resume", "auto"]}  # type: ignore[misc]
    whole = carry_out(tmp_path / "whole", configuration, TWO)
    parts = carry_out(tmp_path / "parts", configuration, {**TWO, "action": "SIGTERM@5"}, {**resume, "action": "SIGKILL@17"}, resume)
    assert parts.codes == [[143, 143], [-9, -9], [0, 0]], parts.output
    assert_same_run(parts, whole)
