"""lm-eval's tasks on a model directory: the numbers that its own Hugging Face model finds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from framework.chat import ChatTemplate
from framework.errors import ConfigError, DataError, RequestError
from framework.generation import Generator
from framework.tasks.base import Options
from framework.tasks.estimates import Z, mean, proportion
from framework.tasks.lm_eval import LMEval, _estimate
from framework.tasks.lm_eval_model import as_lm

CHOICES = """
task: tiny_choices
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/choices.jsonl}}
output_type: multiple_choice
test_split: test
fewshot_split: test
doc_to_text: "{{question}}\\nAnswer:"
doc_to_choice: "{{choices}}"
doc_to_target: answer
metric_list: [{metric: acc}, {metric: acc_norm}, {metric: acc_bytes}]
"""
TEXTS = """
task: tiny_texts
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/texts.jsonl}}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}, {metric: bits_per_byte}]
"""
REPLIES = """
task: tiny_replies
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/replies.jsonl}}
output_type: generate_until
test_split: test
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n", "at"], max_gen_toks: 12, do_sample: false}
metric_list: [{metric: exact_match}]
"""
LAST = """
task: tiny_last
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/replies.jsonl}}
output_type: loglikelihood
test_split: test
doc_to_text: "{{question}}"
doc_to_target: " {{answer}}"
metric_list: [{metric: perplexity}, {metric: acc}]
"""
GROUP = "group: tiny_group\ntask: [tiny_choices, tiny_last]\n"
NAMES = ("tiny_choices", "tiny_texts", "tiny_replies", "tiny_last")


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory: pytest.TempPathFactory, model: Path, sentences: Sequence[str]) -> Path:
    """A directory of tasks with their data; some replies are what the model writes."""
    pytest.importorskip("lm_eval")
    folder = tmp_path_factory.mktemp("benchmarks")
    words = [sentence.split() for sentence in sentences]
    choices = [{"question": " ".join(each[:3]), "choices": [*each[:3], "ö mat"], "answer": len(each) % 4} for each in words]
    generator = Generator.load(model)
    replies = []
    for number, sentence in enumerate(sentences[:12]):
        reply = generator.generate(sentence[:30], temperature=0, max_new_tokens=12, stop=["\n", "at"])
        replies.append({"question": sentence[:30], "answer": reply if number % 2 else "something"})
    for name, rows in {"choices": choices, "texts": [{"text": text} for text in sentences], "replies": replies}.items():
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    for name, text in dict(zip((*NAMES, "tiny_group"), (CHOICES, TEXTS, REPLIES, LAST, GROUP))).items():
        (folder / f"{name}.yaml").write_text(text.replace("FOLDER", str(folder)), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def expected(benchmarks: Path, model: Path) -> dict[str, Any]:
    """What lm-eval finds with the model as transformers opens it."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    theirs = HFLM(pretrained=str(model), device="cpu", batch_size=4, dtype="float32")
    tasks = TaskManager(include_path=str(benchmarks), include_defaults=False)
    found: dict[str, Any] = lm_eval.simple_evaluate(theirs, tasks=list(NAMES), task_manager=tasks, bootstrap_iters=0, log_samples=True)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_the_numbers_are_lm_eval_s(name: str, generator: Generator, benchmarks: Path, expected: dict[str, Any]) -> None:
    found = LMEval(name, str(benchmarks)).evaluate(generator, Options(batch_tokens=200, samples=100))
    theirs = {key.removesuffix(",none"): value for key, value in expected["results"][name].items() if key.endswith(",none")}
    theirs = {key: value for key, value in theirs.items() if not key.endswith("_stderr")}
    assert {metric: estimate.value for metric, estimate in found.metrics.items()} == {
        metric: pytest.approx(value, rel=1e-4) for metric, value in theirs.items()
    }
    assert found.n == expected["n-samples"][name]["effective"] and found.task == name
    for ours, other in zip(found.samples, expected["samples"][name], strict=True):
        assert ours["doc"] == other["doc"]
        if name == "tiny_replies":
            assert ours["resps"] == other["resps"]
        else:
            for mine, yours in zip(ours["filtered_resps"], other["filtered_resps"], strict=True):
                values = [(mine, yours)] if isinstance(mine, float) else [(mine[0], yours[0])]
                assert all(one == pytest.approx(two, abs=2e-3) for one, two in values)
                assert isinstance(mine, float) or bool(mine[1]) == bool(yours[1])


def test_intervals(generator: Generator, benchmarks: Path) -> None:
    choices = LMEval("tiny_choices", str(benchmarks), name="mine").evaluate(generator)
    assert choices.task == "mine" and choices.metrics["acc"].interval == "Wilson" and choices.metrics["acc"].n == 30
    texts = LMEval("tiny_texts", str(benchmarks)).evaluate(generator)
    for estimate in texts.metrics.values():
        assert estimate.interval == "normal over documents" and estimate.low < estimate.value < estimate.high  # type: ignore[operator]
    replies = LMEval("tiny_replies", str(benchmarks)).evaluate(generator)
    assert replies.metrics["exact_match"].value == 0.5 and replies.metrics["exact_match"].interval == "Wilson"


def test_groups_limits_and_worked_examples(generator: Generator, benchmarks: Path) -> None:
    group = LMEval("tiny_group", str(benchmarks)).evaluate(generator, Options(limit=5, samples=1))
    assert group.n == 10 and {"tiny_choices/acc", "tiny_last/perplexity"} <= group.metrics.keys() and len(group.samples) == 2
    shown = LMEval("tiny_choices", str(benchmarks), few_shot=1).evaluate(generator, Options(limit=5))
    assert shown.metrics["acc"].n == 5 and shown.settings["few_shot"] == {"tiny_choices": 1}


def test_chats(generator: Generator, benchmarks: Path) -> None:
    template = ChatTemplate("{% for message in messages %}{{ message.role[0] }}<|endoftext|>{{ message.content }}{% endfor %}a:")
    talker = Generator(generator.engine, generator.tokenizer, template=template)
    found = LMEval("tiny_replies", str(benchmarks), chat=True).evaluate(talker, Options(samples=2, limit=2))
    for sample in found.samples:
        prompt = template.render([_message(sample["doc"]["question"])], generator.tokenizer)
        assert sample["resps"] == [[talker.generate(prompt, temperature=0, max_new_tokens=12, stop=["\n", "at"])]]
    LMEval("tiny_choices", str(benchmarks), chat=True).evaluate(talker, Options(limit=3))
    with pytest.raises(ConfigError, match="no chat template"):
        LMEval("tiny_replies", str(benchmarks), chat=True).evaluate(generator)


def _message(text: str) -> Any:
    from framework.chat import Message

    return Message("user", text)


def test_stdout_stays_empty(generator: Generator, benchmarks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    LMEval("tiny_last", str(benchmarks)).evaluate(generator, Options(limit=4))  # perplexity's standard error is bootstrapped
    assert capsys.readouterr().out == ""


def test_what_cannot_be_done_is_said(generator: Generator, benchmarks: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="lm-eval has no task nowhere_to_be_found"):
        LMEval("nowhere_to_be_found", str(benchmarks)).evaluate(generator)
    with pytest.raises(DataError, match="there is no directory"):
        LMEval("tiny_texts", str(tmp_path / "none")).evaluate(generator)
    (tmp_path / "gone.yaml").write_text(CHOICES.replace("FOLDER", str(tmp_path)).replace("tiny_choices", "gone"))
    with pytest.raises(DataError, match="lm-eval cannot read the data of gone: "):
        LMEval("gone", str(tmp_path)).evaluate(generator)
    model = as_lm(generator)
    for options, message in {
        '{"until": [], "max_gen_toks": 48}': "leave no room for a prompt",
        '{"until": [], "max_gen_toks": 4, "penalty_alpha": 0.6}': "penalty_alpha, which this engine does not know",
    }.items():
        with pytest.raises(RequestError, match=message):
            model.generate_until([type("Request", (), {"args": ("a", json.loads(options))})])


def test_without_lm_eval(generator: Generator) -> None:
    import importlib.util

    if importlib.util.find_spec("lm_eval") is not None:
        pytest.skip("lm-eval is here")
    with pytest.raises(ConfigError, match=r"pip install 'framework\[lm-eval\]'"):
        LMEval("hellaswag").evaluate(generator)


def test_whose_interval_is_taken() -> None:
    assert _estimate("acc", 0.75, [1.0, 1.0, 0.0, 1.0], 0.2, 4) == proportion(3, 4)
    assert _estimate("f1", 0.5, [0.25, 0.75], 0.1, 2) == mean([0.25, 0.75])
    for documents in ([], [1.0, 1.0], [(1, 2)]):  # none, those of another statistic, those of another kind
        found = _estimate("f1", 0.5, documents, 0.1, 9)
        assert (found.low, found.high, found.n) == (0.5 - 0.1 * Z, 0.5 + 0.1 * Z, 9)
    assert _estimate("f1", 0.5, [], "N/A", 9).low is None
