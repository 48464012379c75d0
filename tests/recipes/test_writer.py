"""The policy's replies: of which distribution they are drawn, what ends them, and that they are of the weights as they are."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

sys.path.insert(0, str(Path(__file__).parent))
from conftest import Data, network  # type: ignore[import-not-found]

from framework.recipes.sft import SFT
from framework.recipes.writer import Reply, RolloutFailed, Writer

VOCABULARY = 120
PROMPTS = [list(range(1, 18)), [5], list(range(40, 70))]  # of two blocks of the cache and a part, of one token, of nearly two
END = frozenset({7, 11, 13, 17, 19, 23, 29, 31, 37})


@pytest.fixture
def policy() -> Any:
    torch.manual_seed(0)
    return network(vocab_size=VOCABULARY, context_length=64).double().eval()


def writer(policy: Any, **settings: Any) -> Writer:
    return Writer(policy, **{"end_ids": END, "max_new_tokens": 20, "temperature": 0.7, "max_running": 4, "vocab_size": 100, **settings})


@torch.no_grad()
def log_probs(policy: Any, prompt: list[int], reply: Reply, temperature: float) -> list[float]:
    """By one pass over the whole, of what may be drawn at all."""
    ids = torch.tensor([[*prompt, *reply.ids]])
    table = (policy.logits(policy(ids))[0, :, :100] / temperature).log_softmax(-1)
    return [table[len(prompt) + place - 1, token].item() for place, token in enumerate(reply.ids)]


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_log_probabilities_are_of_what_was_drawn_from(temperature: float, policy: Any) -> None:
    written = writer(policy, temperature=temperature).write(PROMPTS, [1, 2, 3], replies=2)
    for prompt, group in zip(PROMPTS, written, strict=True):
        for reply in group:
            assert reply.log_probs == pytest.approx(log_probs(policy, prompt, reply, temperature), abs=1e-6)


def test_what_ends_a_reply(policy: Any) -> None:
    replies = [reply for group in writer(policy).write(PROMPTS, [1, 2, 3], replies=8) for reply in group]
    assert {reply.finished for reply in replies} == {True, False}
    for reply in replies:
        assert not set(reply.ids[:-1]) & END and len(reply.ids) == len(reply.log_probs) and max(reply.ids) < 100
        assert (reply.ids[-1] in END) if reply.finished else len(reply.ids) == 20


def test_a_reply_depends_on_its_prompt_and_seed_alone(policy: Any) -> None:
    together = writer(policy).write(PROMPTS, [1, 2, 3], replies=3)
    for number, prompt in enumerate(PROMPTS):
        for place in range(3):
            (alone,) = writer(policy, max_running=1).write([prompt], [number + 1 + place])
            assert alone[0].ids == together[number][place].ids
    assert len({tuple(reply.ids) for group in together for reply in group}) == 9


def test_greedy(policy: Any) -> None:
    for prompt, (reply,) in zip(PROMPTS, writer(policy).write(PROMPTS, [0, 0, 0], greedy=True), strict=True):
        ids = list(prompt)
        for token in reply.ids:
            with torch.no_grad():
                assert token == policy.logits(policy(torch.tensor([ids])))[0, -1, :100].argmax().item()
            ids.append(token)


class Writes(Callback):
    """After every step, how far the log-probabilities of replies to the same prompts are from what the network has by then."""

    def __init__(self) -> None:
        self.gaps: list[float] = []
        self.writer: Writer | None = None

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any, **__: Any) -> None:
        self.writer = self.writer or writer(pl_module.network, temperature=1.0, end_ids=())
        for prompt, (reply,) in zip(PROMPTS, self.writer.write(PROMPTS, [1, 2, 3]), strict=True):
            expected = log_probs(pl_module.network, prompt, reply, 1.0)
            self.gaps += [abs(one - other) for one, other in zip(reply.log_probs, expected, strict=True)]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("adapted", [False, True])
def test_replies_are_of_the_weights_as_they_are(adapted: bool, fused: bool, data: Data, train: Any) -> None:
    """Fused optimizers change weights without a trace, and neither prompts read before nor merged matrices may go on with old ones."""
    from framework.networks.lora import LoRA
    from framework.optimizers.adamw import AdamW

    writes = Writes()
    policy = (lambda **sizes: LoRA(network, rank=4, **sizes)) if adapted else network
    recipe = SFT(policy, lambda groups: AdamW(groups, lr=3e-2, fused=fused))
    train(recipe, data.demonstrations(context_length=64), max_steps=4, callbacks=[writes])
    assert max(writes.gaps) < 1e-4


def test_a_reply_that_cannot_be_written(policy: Any) -> None:
    with torch.no_grad():
        policy.embedding.weight[5] = torch.nan
    with pytest.raises(RolloutFailed, match="could not be written"):
        writer(policy).write(PROMPTS, [1, 2, 3])
