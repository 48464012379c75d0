"""Samples during training: written after validations, resumed without repeats, and without a trace in the training itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from framework.generation import Generator
from framework.training.run_log import RunLog
from framework.training.samples import Samples, append


def run(small_run: Callable[..., Any], tmp_path: Path, samples: Samples | None) -> tuple[Any, list[dict[str, Any]]]:
    recipe, data, trainer = small_run(
        dropout=0.3,
        data_arguments={"validation_fraction": 0.2},
        logger=[RunLog(tmp_path / "logs")],
        callbacks=[samples] if samples else [],
        val_check_interval=2,
        limit_val_batches=1,
        max_steps=8,
    )
    torch.manual_seed(0)
    trainer.fit(recipe, data)
    path = tmp_path / "logs" / "samples.jsonl"
    return recipe, [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_samples_are_written_and_change_nothing(small_run: Callable[..., Any], tmp_path: Path) -> None:
    plain, none = run(small_run, tmp_path / "plain", None)
    recipe, lines = run(small_run, tmp_path / "sampled", Samples(["The ", ""], every_n_validations=2, max_new_tokens=5))
    assert none == [] and [(line["step"], line["prompt"]) for line in lines] == [(4, "The "), (4, ""), (8, "The "), (8, "")]
    assert all(line["text"] for line in lines)
    for one, other in zip(plain.parameters(), recipe.parameters(), strict=True):
        assert torch.equal(one, other)
    last = Generator(recipe.network, recipe.data.tokenizer).generate("The ", temperature=0.8, top_k=50, seed=0, max_new_tokens=5)
    assert lines[2]["text"] == last


def test_a_resumed_run_repeats_no_line(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    for step in (2, 4, 6):
        append(path, step, [json.dumps({"step": step})])
    path.write_text(path.read_text() + '{"step": 8, "pro')  # a killed write of another tool
    append(path, 4, [json.dumps({"step": 4, "again": True})])
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"step": 2}, {"step": 4, "again": True}]


def test_counts_survive_a_checkpoint() -> None:
    first, second = Samples(), Samples()
    first._validations = 3
    second.load_state_dict(first.state_dict())
    assert second._validations == 3


def test_senseless_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="every_n_validations"):
        Samples(every_n_validations=0)
