"""`framework evaluate`: tasks from files and by name, the table, the JSON, and one clear line for mistakes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from framework.checkpoint import load, save
from framework.datasets.json_lines import JsonLines
from framework.datasets.text_files import TextFiles
from framework.generation import Generator
from framework.networks.shape import NetworkShape
from framework.networks.transformer import Transformer
from framework.tasks.base import Options
from framework.tasks.multiple_choice import MultipleChoice
from framework.tasks.perplexity import Perplexity
from framework.tokenizers.byte import Byte

CATS = """
class_path: Perplexity
init_args:
  dataset: {class_path: TextFiles, init_args: {paths: [cats.txt, dogs.txt]}}
  name: cats
"""
SEVERAL = """
- cats.yaml
- class_path: GeneratedAnswers
  init_args:
    dataset: {class_path: JsonLines, init_args: {paths: sums.jsonl}}
    reward: {class_path: ExactMatch, init_args: {extract: last_number}}
    max_new_tokens: 5
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model over bytes, data, and tasks/ with YAML files."""
    folder = tmp_path_factory.mktemp("evaluated")
    torch.manual_seed(0)
    shape = NetworkShape(num_layers=1, width=16, num_heads=2, tied_embeddings=False)
    save(folder / "run" / "model", Transformer(shape, Byte().vocab_size, 64), Byte(), {})
    (folder / "tasks").mkdir()
    for name, text in {"cats.yaml": CATS, "several.yaml": SEVERAL, "cats.txt": "The cat sat. " * 30, "dogs.txt": "A dög! " * 9}.items():
        (folder / "tasks" / name).write_text(text, encoding="utf-8")
    choices = [{"question": f"{n}+{n}?", "choices": [str(2 * n), str(2 * n + 1)], "answer": "A"} for n in range(9)]
    sums = [{"prompt": f"{n}+{n}=", "answer": str(2 * n)} for n in range(6)]
    for name, rows in {"choices": choices, "sums": sums}.items():
        (folder / "tasks" / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


@pytest.fixture
def evaluate(framework: Callable[..., Any], place: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs `framework evaluate run ...` in the place."""
    monkeypatch.chdir(place)
    return lambda *words: framework("evaluate", "run", *words)


def test_tasks_of_a_file(evaluate: Callable[..., Any], place: Path, tmp_path: Path) -> None:
    """A list of tasks, one of them in a file of its own, with paths beside the file; the JSON says the same and more."""
    done = evaluate("--tasks", "tasks/several.yaml", "--output", tmp_path / "new" / "out.json", "--samples", 1)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert [line.split()[0] for line in lines[1:6]] == ["cats", "perplexity", "bits_per_byte", "generated-answers", "score"]
    assert lines[6] == "-" * 40 and lines[7] == "cats" and lines.count("-" * 40) == 2 and "  prompt: 0+0=" in lines
    assert "note: generated-answers: 6 of 6 have an answer that was cut off" in done.err
    found = json.loads((tmp_path / "new" / "out.json").read_text())
    assert [result["task"] for result in found["results"]] == ["cats", "generated-answers"]
    assert found["model"] == "run" and found["options"]["samples"] == 1 and found["model_options"]["device"] == "cpu"
    texts = TextFiles([str(place / "tasks" / name) for name in ("cats.txt", "dogs.txt")])
    expected = Perplexity(texts).evaluate(Generator.load(place / "run"))
    metrics = found["results"][0]["metrics"]
    for name, estimate in expected.metrics.items():
        assert metrics[name]["value"] == pytest.approx(estimate.value) and metrics[name]["n"] == 2
        line = next(line for line in lines if name in line.split())
        assert line.endswith(f"{estimate.value:.4f}  {estimate.low:8.4f}  {estimate.high:8.4f}  2") or name == "perplexity"
    assert found["results"][1]["settings"]["reward"]["extract"] == "last_number" and len(found["results"][1]["samples"]) == 1


def test_tasks_by_name(evaluate: Callable[..., Any], place: Path) -> None:
    words = ["--tasks+=tasks/cats.yaml", "--tasks+=MultipleChoice", "--tasks.dataset", "JsonLines"]
    done = evaluate(*words, "--tasks.dataset.paths", "tasks/choices.jsonl", "--tasks.name", "sums", "--limit", 4)
    assert done.code == 0, done.err
    rows = JsonLines(str(place / "tasks" / "choices.jsonl"))
    expected = MultipleChoice(rows).evaluate(Generator.load(place / "run"), Options(limit=4)).metrics["accuracy"]
    assert done.out.splitlines()[4].split() == [
        "sums",
        "accuracy",
        *(f"{v:.4f}" for v in (expected.value, expected.low, expected.high)),
        "4",
    ]


def test_the_model_s_options_reach_it(evaluate: Callable[..., Any], place: Path) -> None:
    exact = evaluate("--tasks", "tasks/cats.yaml")
    rough = evaluate("--tasks", "tasks/cats.yaml", "--dtype", "bfloat16")
    small = evaluate("--tasks", "tasks/cats.yaml", "--quantize", "int8", "--batch_tokens", 64)
    assert exact.code == rough.code == small.code == 0, small.err
    assert exact.out != rough.out != small.out
    values = [float(done.out.splitlines()[1].split()[2]) for done in (exact, rough, small)]
    assert values == pytest.approx([values[0]] * 3, rel=0.02)


def test_a_task_that_fails_costs_no_other(evaluate: Callable[..., Any], tmp_path: Path) -> None:
    words = ["--tasks+=Perplexity", "--tasks.dataset=TextFiles", "--tasks.dataset.paths=nowhere.txt", "--tasks+=tasks/cats.yaml"]
    done = evaluate(*words, "--output", tmp_path / "out.json")
    assert done.code == 2
    assert "error: perplexity: there is no file or directory nowhere.txt" in done.err
    assert done.out.splitlines()[1].startswith("cats")
    assert [result["task"] for result in json.loads((tmp_path / "out.json").read_text())["results"]] == ["cats"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name at least one task"),
        (["--tasks", "Perpelxity"], "Did you mean Perplexity?"),
        (["--tasks+=tasks/cats.yaml", "--tasks+=tasks/cats.yaml"], "several tasks are called cats"),
        (["--tasks", "tasks/cats.yaml", "--limit", "0"], "limit is 0"),
        (["--tasks", "tasks/cats.yaml", "--tasks.strde", "3"], "strde"),
        (["--tasks", "tasks/cats.yaml", "--output", "tasks"], "is a directory"),
        (["--tasks", "tasks/cats.yaml", "--device", "abacus"], "the device abacus cannot be used"),
    ],
)
def test_mistakes_get_one_line(evaluate: Callable[..., Any], words: list[str], message: str) -> None:
    done = evaluate(*words)
    assert done.code == 2 and done.out == ""
    assert message in done.err and done.err.count("\n") == 1, done.err


def test_the_model_stays_as_it_was(evaluate: Callable[..., Any], place: Path) -> None:
    before = {file.name: file.read_bytes() for file in (place / "run" / "model").iterdir()}
    assert evaluate("--tasks", "tasks/several.yaml").code == 0
    assert before == {file.name: file.read_bytes() for file in (place / "run" / "model").iterdir()}
    load(place / "run" / "model")
