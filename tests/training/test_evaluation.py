"""Tasks during training: figures in the logs at the right steps, watched by checkpoints, and no trace in the training itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from framework.datasets.json_lines import JsonLines
from framework.datasets.text_files import TextFiles
from framework.errors import ConfigError
from framework.generation import Generator
from framework.tasks.generated_answers import GeneratedAnswers
from framework.tasks.multiple_choice import MultipleChoice
from framework.tasks.perplexity import Perplexity
from framework.training.checkpoint_io import read_manifest
from framework.training.checkpoints import Checkpoints
from framework.training.evaluation import Evaluation
from framework.training.run_log import RunLog


@pytest.fixture
def tasks(corpus: Path, tmp_path: Path) -> list[Any]:
    """One of each kind."""
    (tmp_path / "choices.jsonl").write_text('{"question": "The cat", "choices": ["sat on", "tree"], "answer": 0}\n' * 3)
    (tmp_path / "sums.jsonl").write_text('{"prompt": "The", "answer": "cat"}\n' * 3)
    rows = {name: JsonLines(str(tmp_path / f"{name}.jsonl")) for name in ("choices", "sums")}
    texts = TextFiles(sorted(map(str, corpus.iterdir()))[:3])
    return [
        Perplexity(texts, name="texts"),
        MultipleChoice(rows["choices"]),
        GeneratedAnswers(rows["sums"], max_new_tokens=4, temperature=1.0),
    ]


def run(small_run: Callable[..., Any], folder: Path, *callbacks: Any) -> tuple[Any, list[dict[str, Any]]]:
    recipe, data, trainer = small_run(
        dropout=0.3,
        data_arguments={"validation_fraction": 0.2},
        logger=[RunLog(folder / "logs")],
        callbacks=list(callbacks),
        enable_checkpointing=any(isinstance(each, Checkpoints) for each in callbacks),
        default_root_dir=folder,
        val_check_interval=2,
        limit_val_batches=1,
        max_steps=8,
    )
    torch.manual_seed(0)
    trainer.fit(recipe, data)
    lines = [json.loads(line) for line in (folder / "logs" / "metrics.jsonl").read_text().splitlines()]
    return recipe, [line for line in lines if any(name.startswith("eval/") for name in line)]


def test_figures_are_logged_and_training_is_not_touched(small_run: Callable[..., Any], tmp_path: Path, tasks: list[Any]) -> None:
    plain, none = run(small_run, tmp_path / "plain")
    recipe, lines = run(small_run, tmp_path / "judged", Evaluation(tasks, every_n_validations=2))
    assert none == [] and [line["step"] for line in lines] == [4, 8]
    texts = {f"eval/texts/{name}" for name in ("nats_per_token", "perplexity", "bits_per_byte")}
    choices = {f"eval/multiple-choice/{name}" for name in ("accuracy", "accuracy_per_byte")}
    assert lines[1].keys() == {"step", *texts, *choices, "eval/generated-answers/accuracy", "eval/generated-answers/score"}
    for one, other in zip(plain.parameters(), recipe.parameters(), strict=True):
        assert torch.equal(one, other)
    last = tasks[0].evaluate(Generator(recipe.network, recipe.data.tokenizer)).metrics["nats_per_token"].value
    assert lines[1]["eval/texts/nats_per_token"] == pytest.approx(last) and lines[0]["eval/texts/nats_per_token"] > last


def test_checkpoints_may_watch_a_figure(small_run: Callable[..., Any], tmp_path: Path, tasks: list[Any]) -> None:
    best = Checkpoints(every_n_steps=0, keep_best=1, monitor="eval/texts/nats_per_token")
    _, lines = run(small_run, tmp_path, Evaluation(tasks[:1]), best)
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    values = {line["step"]: line["eval/texts/nats_per_token"] for line in lines}
    kept = {read_manifest(path)["step"]: read_manifest(path)["metrics"] for path in (tmp_path / "checkpoints").iterdir()}
    assert min(values, key=values.__getitem__) in kept
    assert all(metrics == {"eval/texts/nats_per_token": pytest.approx(values[step])} for step, metrics in kept.items())


def test_counts_survive_a_checkpoint(tasks: list[Any]) -> None:
    first, second = Evaluation(tasks), Evaluation(tasks)
    first._validations = 3
    second.load_state_dict(first.state_dict())
    assert second._validations == 3


def test_senseless_settings_are_refused(tasks: list[Any]) -> None:
    with pytest.raises(ValueError, match="every_n_validations"):
        Evaluation(tasks, every_n_validations=0)
    with pytest.raises(ConfigError, match="a name of its own"):
        Evaluation([tasks[0], tasks[0]])
    with pytest.raises(ConfigError, match="limit is 0"):
        Evaluation(tasks, limit=0)
