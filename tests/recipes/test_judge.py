"""What replies are worth: functions, a reward model, or both, whatever stands beside them (TRAP-43, 47, 48)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from conftest import network, scored  # type: ignore[import-not-found]
from rewards_for_tests import CountOf, Raises  # type: ignore[import-not-found]

from framework.batches.prompts import Question
from framework.checkpoint import load_network, save
from framework.errors import ConfigError
from framework.recipes.judge import Judge
from framework.recipes.writer import Reply
from framework.rewards.runner import RewardError
from framework.tokenizers.byte import Byte

TOKENIZER = Byte()
CPU = torch.device("cpu")


def reply(text: str, finished: bool = True) -> Reply:
    ids = [*text.encode(), *([TOKENIZER.eos_id] if finished else [])]
    return Reply(ids, [0.0] * len(ids), finished)


QUESTIONS = [Question([*text.encode()], text, {}) for text in ("1+1=", "2", "what is it?")]
REPLIES = [reply("aa"), reply("ba", finished=False), reply("a" * 12)]


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = scored(vocab_size=TOKENIZER.vocab_size, context_length=32)
    model.normalise(0.3, 2.0)
    save(tmp_path / "runs" / "judge" / "model", model, TOKENIZER, {})
    return tmp_path / "runs" / "judge"


def judge(**settings: Any) -> Judge:
    defaults: dict[str, Any] = {"rewards": [], "weights": None, "reward_model": None, "reward_model_weight": 1.0, "batch_size": 2}
    return Judge(TOKENIZER, **{**defaults, "timeout_seconds": 10.0, "max_failures": 0.5, **settings})


def test_a_reward_models_score_is_that_of_the_reply_alone(stored: Path) -> None:
    found = judge(reward_model=stored).judge(QUESTIONS, REPLIES, CPU)
    model: Any = load_network(stored / "model")
    for question, each, score in zip(QUESTIONS, REPLIES, found.scores_S.tolist(), strict=True):
        ids = torch.tensor([[*question.ids, *each.ids]])
        with torch.no_grad():
            value = model.head(model.base(ids))[0, -1, 0].item()
        assert score == pytest.approx((value - 0.3) / 2.0, abs=1e-6)
    assert torch.equal(found.parts["reward_model"], found.scores_S)


def test_functions_and_model_add_up_with_weights(stored: Path) -> None:
    both = judge(rewards=[CountOf("a"), CountOf("b")], weights=[2.0, -1.0], reward_model=stored, reward_model_weight=0.5)
    try:
        found = both.judge(QUESTIONS, REPLIES, CPU)
    finally:
        both.close()
    counts_a, counts_b = torch.tensor([2, 1, 12]) / 6, torch.tensor([0, 1, 0]) / 6
    torch.testing.assert_close(found.scores_S, 2 * counts_a - counts_b + 0.5 * found.parts["reward_model"])
    assert found.scores_S.dtype == torch.float32


@pytest.mark.parametrize("default", [torch.float32, torch.float64, torch.bfloat16])
def test_scores_have_their_type_whatever_a_trainer_sets(default: torch.dtype, stored: Path) -> None:
    torch.set_default_dtype(default)
    try:
        found = judge(reward_model=stored).judge(QUESTIONS, REPLIES, CPU)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.scores_S.dtype == found.parts["reward_model"].dtype == torch.float32


def test_people_and_functions_see_text_without_its_end() -> None:
    made = judge(rewards=[CountOf("a")])
    made.close()
    assert [made.sample(question, each).reply for question, each in zip(QUESTIONS, REPLIES)] == ["aa", "ba", "a" * 12]
    assert [made.sample(QUESTIONS[0], each).finished for each in REPLIES] == [True, False, True]


def test_functions_that_judge_nothing_end_the_run() -> None:
    made = judge(rewards=[Raises()])
    with pytest.raises(RewardError, match="no idea"):
        made.judge(QUESTIONS, REPLIES, CPU)
    made.close()


def test_who_cannot_judge_is_refused(stored: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing judges"):
        judge()
    with pytest.raises(ConfigError, match="there is no directory"):
        judge(reward_model=tmp_path / "nowhere")
    save(tmp_path / "policy", network(vocab_size=TOKENIZER.vocab_size, context_length=32), TOKENIZER, {})
    with pytest.raises(ConfigError, match="holds a Transformer, which gives no score"):
        judge(reward_model=tmp_path / "policy")


def test_a_reward_model_of_another_tokenizer_is_refused(stored: Path) -> None:
    from framework.tokenizers.bpe import BPE

    other = BPE.train(["some text of some words"], 262)
    with pytest.raises(ConfigError, match="another tokenizer than the policy's"):
        Judge(other, [], None, stored, 1.0, 1.0, 0.5, 2)
