"""reasoning-gym's questions as rows: against a stand-in, and the package itself where it is installed."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType
from typing import Any

import pytest

from framework.datasets.base import Message
from framework.datasets.reasoning_gym import ReasoningGym
from framework.datasets.records import RowError, demonstration, prompt, read
from framework.errors import ConfigError


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def create_dataset(name: str, size: int, seed: int, answers: bool = True) -> list[dict[str, Any]]:
        if name != "doubles":
            raise ValueError(f"Dataset '{name}' not registered")
        return [
            {"question": f"2 * {number + seed}?", "answer": str(2 * (number + seed)) if answers else None, "metadata": {"n": number}}
            for number in range(size)
        ]

    module = ModuleType("reasoning_gym")
    module.create_dataset = create_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "reasoning_gym", module)


@pytest.mark.usefixtures("stand_in")
def test_rows_are_demonstrations_and_prompts_with_what_a_verifier_asks_for() -> None:
    dataset = ReasoningGym("doubles", size=2, seed=10, start=3)
    assert [(each.prompt, each.reply, each.source) for each in read(dataset, demonstration)] == [
        ("2 * 13?\n", "26", "doubles:3"),
        ("2 * 14?\n", "28", "doubles:4"),
    ]
    first = read(dataset, prompt)[0]
    assert first.prompt == "2 * 13?\n"
    assert first.fields == {"completion": "26", "question": "2 * 13?", "answer": "26", "metadata": {"n": 3}}
    chat = read(ReasoningGym("doubles", size=1, chat=True), demonstration)[0]
    assert (chat.prompt, chat.reply) == ((Message("user", "2 * 0?"),), (Message("assistant", "0"),))


@pytest.mark.usefixtures("stand_in")
def test_tasks_without_answers_are_prompts_only() -> None:
    (row,) = ReasoningGym("doubles", size=1, config={"answers": False}).rows()
    assert prompt(row).fields == {"question": "2 * 0?", "answer": None, "metadata": {"n": 0}}
    with pytest.raises(RowError, match="no demonstration"):
        demonstration(row)


@pytest.mark.usefixtures("stand_in")
def test_mistakes_are_named() -> None:
    with pytest.raises(ConfigError, match="no dataset triples with its own settings: Dataset 'triples' not registered"):
        next(ReasoningGym("triples").rows())
    with pytest.raises(ConfigError, match=r"with \{'digits': 3\}: .*unexpected keyword argument 'digits'"):
        next(ReasoningGym("doubles", config={"digits": 3}).rows())
    with pytest.raises(ConfigError, match="size of at least 1"):
        ReasoningGym("doubles", size=0)


def test_without_the_package_the_fix_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(ConfigError, match=r'pip install "framework\[reason\]"'):
        next(ReasoningGym("doubles").rows())


def test_every_setting_is_in_the_fingerprint() -> None:
    others: list[dict[str, Any]] = [{"task": "b"}, {"size": 9}, {"seed": 1}, {"start": 1}, {"config": {"a": 1}}, {"chat": True}]
    assert len({ReasoningGym(**{"task": "a", **other}).fingerprint() for other in [{}, *others]}) == len(others) + 1


@pytest.mark.skipif(importlib.util.find_spec("reasoning_gym") is None, reason="reasoning-gym is not installed")
def test_the_real_package() -> None:
    import reasoning_gym

    verify = reasoning_gym.get_score_answer_fn("chain_sum")
    for each in read(ReasoningGym("chain_sum", size=5, config={"max_terms": 3}), prompt):
        assert verify(each.fields["answer"], dict(each.fields)) == 1.0
        assert verify("nonsense", dict(each.fields)) < 1.0
    whole = [row.fields["question"] for row in ReasoningGym("chain_sum", size=6).rows()]
    assert [row.fields["question"] for row in ReasoningGym("chain_sum", size=2, start=4).rows()] == whole[4:]
