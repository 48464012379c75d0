"""Generated answers: what is asked, how it is judged, and that nothing that goes wrong is hidden."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from framework.chat import ChatTemplate, Message
from framework.engine.engine import Engine
from framework.errors import DataError, RequestError
from framework.generation import Generator
from framework.networks.base import Network
from framework.networks.cache import View
from framework.rewards.exact_match import ExactMatch
from framework.tasks.base import Options
from framework.tasks.estimates import mean
from framework.tasks.generated_answers import GeneratedAnswers
from framework.tokenizers.byte import Byte

TEMPLATE = "{% for message in messages %}{{ message.role[0] }} {{ message.content }}\n{% endfor %}{% if messages[-1].content == 'refuse' %}{{ raise_exception('never') }}{% endif %}a "
JUDGES = '''
import time
from framework.rewards.base import Reward

class Picky(Reward):
    """Half a point for what is finished, and trouble with some questions."""
    def score(self, sample):
        if sample.fields.get("trouble") == "raise":
            raise ValueError("no such luck")
        if sample.fields.get("trouble") == "hang":
            time.sleep(60)
        return 1.0 if sample.fields.get("answer") == sample.reply else 0.5 if sample.finished else 0.0

class Recorder(Reward):
    """What it is asked, in its failure."""
    def score(self, sample):
        raise ValueError(repr((sample.prompt, sample.reply, sample.finished, sorted(sample.fields))))
'''


@pytest.fixture
def judges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A module of rewards that their own process can import."""
    (tmp_path / "judges_of_tests.py").write_text(JUDGES)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("judges_of_tests")
    import sys

    del sys.modules["judges_of_tests"]


class Chain(Network):
    """Writes the byte that a table has after the last one."""

    def __init__(self, after: Mapping[str, str]) -> None:
        super().__init__()
        self.vocab_size, self.context_length = 257, 64
        table_VV = torch.zeros(257, 257)
        for last, following in after.items():
            table_VV[Byte().eos_id if not following else ord(following), ord(last)] = 50.0
        self.register_buffer("table_VV", table_VV)

    def forward(
        self, ids_BT: Tensor, positions_BT: Tensor | None = None, documents_BT: Tensor | None = None, cache: View | None = None
    ) -> Tensor:
        return F.one_hot(ids_BT, 257).float()

    @property
    def head_weight_VD(self) -> Tensor:
        return self.table_VV  # type: ignore[return-value]

    @property
    def init_args(self) -> dict[str, Any]:
        return {}

    def flops_per_token(self, length: int) -> int:
        return 0


@pytest.fixture
def calculator() -> Generator:
    """Answers 42 to what ends with =, and x for ever to all else that ends with x."""
    network = Chain({"=": "4", "4": "2", "2": "", "x": "x", " ": "4", "?": "?"})
    return Generator(Engine(network, max_running=4), Byte(), template=None)


def with_template(generator: Generator) -> Generator:
    return Generator(generator.engine, generator.tokenizer, template=ChatTemplate(TEMPLATE))


def test_right_and_wrong_answers(calculator: Generator, table: Any) -> None:
    rows = [{"prompt": "6*7=", "answer": "42.0"}, {"prompt": "1+1=", "answer": 2}, {"prompt": "40+2=", "answer": "42"}]
    told: list[tuple[int, int | None]] = []
    found = GeneratedAnswers(table(*rows)).evaluate(calculator, Options(samples=2), lambda *now: told.append(now))
    accuracy = found.metrics["accuracy"]
    assert (accuracy.value, accuracy.n, accuracy.interval, found.n) == (2 / 3, 3, "Wilson", 3)
    assert found.metrics["score"] == mean([1.0, 0.0, 1.0])
    assert found.counts == {"refused": 0, "unjudged": 0, "cut_off": 0} and found.problems == []
    assert told[-1] == (3, 3)
    assert found.samples == [
        {"source": "row:1", "prompt": "6*7=", "reply": "42", "score": 1.0, "problem": None, "fields": {"answer": "42.0"}},
        {"source": "row:2", "prompt": "1+1=", "reply": "42", "score": 0.0, "problem": None, "fields": {"answer": 2}},
    ]
    json.dumps(found.settings)


def test_gsm8k_s_format(calculator: Generator, table: Any) -> None:
    """A worked solution in the row; the question as a template has it."""
    rows = [{"question": "6*7", "answer": "Six times seven.\n#### 42"}, {"question": "2*2", "answer": "Easy.\n#### 4"}]
    arguments = {"template": "{question}=", "max_new_tokens": 10}
    found = GeneratedAnswers(table(*rows), reward=ExactMatch(extract="last_number"), **arguments).evaluate(calculator)
    assert found.metrics["accuracy"].value == 0.5
    strict = GeneratedAnswers(table(*rows), reward=ExactMatch(extract="gsm8k"), **arguments).evaluate(calculator)
    assert strict.metrics["accuracy"].value == 0.0  # no reply has ####


def test_nothing_that_goes_wrong_is_hidden(calculator: Generator, table: Any, judges: Any) -> None:
    """A reward that raises, one that hangs, a question that is too long, a reply that does not end: counted, told, and wrong."""
    rows = [
        {"prompt": "6*7=", "answer": "42"},
        {"prompt": "1=", "answer": "42", "trouble": "raise"},
        {"prompt": "2=", "answer": "42", "trouble": "hang"},
        {"prompt": "y" * 70, "answer": "42"},
        {"prompt": "x", "answer": "no"},
        {"prompt": "3=", "answer": "no"},
    ]
    task = GeneratedAnswers(table(*rows), reward=judges.Picky(), max_new_tokens=5, timeout_seconds=0.5)
    found = task.evaluate(calculator, Options(samples=6))
    assert found.counts == {"refused": 1, "unjudged": 2, "cut_off": 1}
    assert found.metrics["accuracy"].value == 1 / 6 and found.metrics["accuracy"].n == 6
    assert found.metrics["score"] == mean([1.0, 0.0, 0.5])
    assert [problem.partition(":")[0] for problem in found.problems] == ["row", "row", "row"]
    assert "shorten the prompt" in found.problems[0] and "no such luck" in found.problems[1] and "longer than 0.5 s" in found.problems[2]
    assert [sample["score"] for sample in found.samples] == [1.0, None, None, None, 0.0, 0.5]
    assert found.samples[3]["reply"] is None and found.samples[4]["reply"] == "xxxxx"
    half = GeneratedAnswers(table(*rows[4:]), reward=judges.Picky(), max_new_tokens=5, right_score=0.5).evaluate(calculator)
    assert half.metrics["accuracy"].value == 0.5


def test_a_reward_that_judges_nothing_leaves_no_score(calculator: Generator, table: Any, judges: Any) -> None:
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}, {"role": "user", "content": "6*7="}]
    found = GeneratedAnswers(table({"prompt": chat, "answer": "42", "id": 3}), reward=judges.Recorder(), max_new_tokens=9).evaluate(
        calculator
    )
    assert list(found.metrics) == ["accuracy"] and found.metrics["accuracy"].value == 0 and found.counts["unjudged"] == 1
    assert "('6*7=', '42', True, ['answer', 'id'])" in found.problems[0]


def replies(generator: Generator, task: GeneratedAnswers, **options: Any) -> list[str]:
    return [sample["reply"] for sample in task.evaluate(generator, Options(samples=9, **options)).samples]


PLAIN = ["The cat ", "A dog ran to", "Where "]


def test_what_is_asked_as_plain_text(generator: Generator, table: Any) -> None:
    rows = [{"prompt": text, "answer": str(number)} for number, text in enumerate(PLAIN)]
    short = {"max_new_tokens": 8}
    alone = [generator.generate(text, temperature=0, **short) for text in PLAIN]
    assert replies(generator, GeneratedAnswers(table(*rows), **short)) == alone
    assert replies(with_template(generator), GeneratedAnswers(table(*rows), **short)) == alone  # auto: a text stays one
    before = "The cat  0\n\nA dog ran to 1\n\n"
    shown = replies(generator, GeneratedAnswers(table(*rows), few_shot=2, **short))
    assert shown == [generator.generate(f"{before}Where ", temperature=0, stop=["\n\n"], **short)]
    elsewhere = GeneratedAnswers(table(rows[2]), few_shot=2, few_shot_dataset=table(*rows), **short)
    assert replies(generator, elsewhere) == shown
    bare = GeneratedAnswers(table(rows[2]), few_shot=1, few_shot_dataset=table(*rows), delimiter="", stop=[], **short)
    assert replies(generator, bare) == [generator.generate("The cat 0\n\nWhere ", temperature=0, **short)]


def test_what_is_asked_as_a_chat(generator: Generator, table: Any) -> None:
    talker, short = with_template(generator), {"max_new_tokens": 6}
    system, hi = {"role": "system", "content": "Be"}, {"role": "user", "content": "Hi"}
    rows = [{"question": "Who sat?", "answer": "the cat"}, {"messages": [system, hi]}, {"prompt": "The dog"}]
    user = [[Message("user", "Who sat?")], [Message("system", "Be"), Message("user", "Hi")], [Message("user", "The dog")]]

    def said(*messages: Message) -> str:
        return "".join(chunk.text for chunk in talker.chat(messages, temperature=0, **short))

    as_they_are = [said(*user[0]), said(*user[1]), talker.generate("The dog", temperature=0, **short)]
    assert replies(talker, GeneratedAnswers(table(*rows), **short)) == as_they_are
    assert replies(talker, GeneratedAnswers(table(*rows), chat=True, **short)) == [said(*messages) for messages in user]
    as_texts = [talker.generate(text, temperature=0, **short) for text in ("Who sat?", "Be\n\nHi", "The dog")]
    assert replies(talker, GeneratedAnswers(table(*rows), chat=False, **short)) == as_texts
    assert replies(generator, GeneratedAnswers(table(*rows), **short)) == as_texts  # auto, and no template
    shown = replies(talker, GeneratedAnswers(table(*rows), chat=True, few_shot=1, **short))
    example = (Message("user", "Who sat?"), Message("assistant", "the cat"))
    assert shown == [said(user[1][0], *example, user[1][1]), said(*example, *user[2])]
    systems = GeneratedAnswers(table({"messages": [system, hi], "answer": "Ho"}, rows[0]), few_shot=1, **short)
    assert replies(talker, systems) == [
        said(user[1][1], Message("assistant", "Ho"), *user[0])
    ]  # one system message at most: the question's
    with pytest.raises(RequestError, match="no chat template"):
        GeneratedAnswers(table(*rows), chat=True).evaluate(generator)


def test_a_chat_that_the_template_refuses_is_counted(calculator: Generator, table: Any) -> None:
    rows = [{"question": "refuse", "answer": "42"}, {"question": "6*7", "answer": "42"}]
    found = GeneratedAnswers(table(*rows), max_new_tokens=4).evaluate(with_template(calculator), Options(samples=2))
    assert found.counts["refused"] == 1 and "never" in found.problems[0] and found.metrics["accuracy"].value == 0.5
    assert [sample["reply"] for sample in found.samples] == [None, "42"]


def test_drawn_replies_repeat_with_their_seed(generator: Generator, table: Any) -> None:
    task = GeneratedAnswers(table(*({"prompt": text, "answer": ""} for text in PLAIN * 2)), temperature=2.0, max_new_tokens=12)
    first = replies(generator, task, seed=1)
    assert first == replies(generator, task, seed=1) != replies(generator, task, seed=2)
    assert first[:3] != first[3:]
    texts = {number: texts[0] for number, texts in generator.batch(PLAIN * 2, temperature=2.0, max_new_tokens=12, seed=1)}  # type: ignore[index]
    assert first == [texts[number] for number in range(6)]


def test_mistakes_are_said(generator: Generator, table: Any) -> None:
    with pytest.raises(DataError, match="row:1: no prompt"):
        GeneratedAnswers(table({"nothing": 1})).evaluate(generator)
    with pytest.raises(DataError, match="row:1 has no field answer; it has prompt"):
        GeneratedAnswers(table({"prompt": "a"}, {"prompt": "b"}), few_shot=1).evaluate(generator)
    with pytest.raises(ValueError, match="max_new_tokens"):
        GeneratedAnswers(table(), max_new_tokens=0)
