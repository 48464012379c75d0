"""A step of every recipe: its table by hand, its sums, its gradients."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from lightning.pytorch import Trainer
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parent))
from looking import Look, looked_at  # type: ignore[import-not-found]

from framework.batches.demonstrations import Demonstrations
from framework.batches.preferences import Preferences
from framework.batches.prompts import Prompts
from framework.batches.types import IGNORE
from framework.commands.lightning_cli import TRAINER_DEFAULTS
from framework.datasets.arithmetic import Arithmetic
from framework.errors import ConfigError
from framework.inspection.learning.batch import batch_table
from framework.networks.lora import LoRA
from framework.networks.scalar_head import ScalarHead
from framework.networks.shape import NetworkShape
from framework.networks.transformer import Transformer
from framework.optimizers.adamw import AdamW
from framework.recipes.dpo import DPO
from framework.recipes.grpo import GRPO
from framework.recipes.ppo import PPO
from framework.recipes.reward_model import RewardModel
from framework.recipes.sft import SFT
from framework.rewards.length import Brevity
from framework.tokenizers.byte import Byte

SHAPE = NetworkShape(
    num_layers=1, width=32, num_heads=2, feedforward="gelu", logit_softcap=5.0
)  # a cap that is forgotten somewhere is seen


def network(**sizes: Any) -> Transformer:
    return Transformer(SHAPE, **sizes)


def look_at(recipe: Any, kind: Any, form: Any, step: int, folder: Path, rows: int = 4, **arguments: Any) -> Look:
    data = kind(Arithmetic(form=form, digits=1, size=60), Byte(), **{"context_length": 32, "batch_size": 4, **arguments})
    trainer = Trainer(
        **{
            **TRAINER_DEFAULTS,
            "max_steps": step,
            "accelerator": "cpu",
            "logger": False,
            "enable_progress_bar": False,
            "enable_checkpointing": False,
            "limit_val_batches": 0,
            "default_root_dir": folder,
        }
    )
    return looked_at((recipe, data, trainer), Look(step, rows=rows))


def adamw(groups: Any) -> AdamW:
    return AdamW(groups, lr=3e-3)


def check_whatever_the_recipe(look: Look, kind: str) -> None:
    found = look.learning
    assert found.batch.kind == kind and found.summary.loss == pytest.approx(found.summary.loss_again, rel=1e-6)
    assert sum(found.batch.row_losses) == pytest.approx(found.batch.total, rel=1e-5, abs=1e-5)
    assert found.batch.total / found.batch.num_items == pytest.approx(found.summary.loss, rel=1e-5, abs=1e-6)
    assert found.weights and all(weight.disagreement < 1e-4 for weight in found.weights)
    assert {node.parameter for call in found.graph.walk() for node in call.nodes} - {None} == {
        name for name, parameter in look.before.named_parameters() if parameter.requires_grad and name in look.step.gradients
    }


@pytest.mark.parametrize("packing", [True, False])
def test_sft_shows_what_is_read_and_what_is_trained(tmp_path: Path, packing: bool) -> None:
    look = look_at(SFT(network, adamw), Demonstrations, "demonstration", 2, tmp_path, packing=packing)
    check_whatever_the_recipe(look, "tokens")
    batch = look.batches[0]
    for row in look.learning.batch.rows:
        targets, ids = batch.targets_BT[row.row].tolist(), batch.ids_BT[row.row].tolist()
        assert {guess.position for guess in row.guesses if guess.trained} == {n for n, target in enumerate(targets) if target != IGNORE}
        for guess in row.guesses:
            after = targets[guess.position] if guess.trained else ids[guess.position + 1]
            assert guess.target == bytes(Byte().token_bytes(after)).decode()
            documents = [0] * len(ids) if batch.documents_BT is None else batch.documents_BT[row.row].tolist()
            own = [token for token, number in zip(ids[: guess.position + 1], documents) if number == documents[guess.position]]
            assert Byte().decode(own).endswith(guess.context)  # of its own document alone
            if packing and not guess.trained:  # nobody is asked for another document's first token
                assert batch.documents_BT[row.row, guess.position] == batch.documents_BT[row.row, guess.position + 1]
        assert any(not guess.trained for guess in row.guesses)
        assert row.loss == pytest.approx(sum(guess.loss for guess in row.guesses if guess.trained), rel=1e-6)
        assert row.free is not None and row.free.prefix.endswith("=")  # it goes on from the prompt
    assert "val/loss" in look.learning.summary.validation_before


def test_lora_shows_the_weights_that_are_trained(tmp_path: Path) -> None:
    look = look_at(
        SFT(lambda **sizes: LoRA(lambda **inner: network(**{**sizes, **inner}), rank=2, **sizes), adamw),  # type: ignore[misc]
        Demonstrations,
        "demonstration",
        2,
        tmp_path,
    )
    check_whatever_the_recipe(look, "tokens")
    assert all("adapters" in one.name for one in look.learning.parameters)


def test_a_reward_model_s_pairs(tmp_path: Path) -> None:
    look = look_at(
        RewardModel(lambda **sizes: ScalarHead(network, **sizes), adamw),  # type: ignore[arg-type, misc]
        Preferences,
        "preference",
        2,
        tmp_path,
    )
    check_whatever_the_recipe(look, "pairs")
    (batch,), network_before = look.batches, look.before.double()
    scores = [network_before.head(network_before(ids[None]))[0, int(length) - 1, 0] for ids, length in zip(batch.ids_RT, batch.lengths_R)]
    for number, pair in enumerate(look.learning.batch.pairs):
        margin = (scores[number] - scores[number + 4]).item()
        assert pair.figures["margin"] == pytest.approx(margin, abs=1e-5)
        assert pair.loss == pytest.approx(math.log1p(math.exp(-margin)), rel=1e-5)
        assert pair.prompt.endswith("=") and pair.chosen != pair.rejected
        assert eval(pair.prompt[:-1]) == int(pair.chosen.removesuffix("<|endoftext|>")) != int(pair.rejected.removesuffix("<|endoftext|>"))


@pytest.mark.parametrize("reference", ["live", "precomputed"])
def test_dpo_s_pairs(tmp_path: Path, reference: Any) -> None:
    first = look_at(DPO(network, adamw, beta=0.5, reference=reference), Preferences, "preference", 1, tmp_path)
    assert all(pair.loss == pytest.approx(math.log(2), rel=1e-6) and pair.figures["margin"] == 0 for pair in first.learning.batch.pairs)
    look = look_at(DPO(network, adamw, beta=0.5, reference=reference), Preferences, "preference", 3, tmp_path)
    check_whatever_the_recipe(look, "pairs")
    (batch,) = look.batches

    def reply_log_probs(made: Any) -> torch.Tensor:
        log_probs_RTV = made.double().logits(made.double()(batch.ids_RT)).log_softmax(-1)
        kept_RT = log_probs_RTV.gather(2, batch.targets_RT.clamp(min=0)[..., None])[..., 0]
        return (kept_RT * (batch.targets_RT != IGNORE)).sum(1).detach()

    gains_R = 0.5 * (reply_log_probs(look.before) - reply_log_probs(first.before))
    for number, pair in enumerate(look.learning.batch.pairs):
        margin = (gains_R[number] - gains_R[number + 4]).item()
        assert pair.figures["margin"] == pytest.approx(margin, abs=1e-4)
        assert pair.figures["chosen_reward"] == pytest.approx(gains_R[number].item(), abs=1e-4)
        assert pair.loss == pytest.approx(-F.logsigmoid(torch.tensor(margin)).item(), abs=1e-4)


@pytest.mark.parametrize("kind", ["ppo", "grpo"])
def test_a_policy_s_replies(tmp_path: Path, kind: str) -> None:
    settings: dict[str, Any] = {"rollout_size": 8, "rewards": [Brevity(free=1, penalty=0.5)], "optimizer": adamw, "temperature": 0.8}
    recipe: Any = PPO(network, num_ppo_epochs=2, **settings) if kind == "ppo" else GRPO(network, num_generations=4, beta=0.1, **settings)
    look = look_at(recipe, Prompts, "prompt", 2, tmp_path, max_new_tokens=5)
    check_whatever_the_recipe(look, "replies")
    assert look.learning.summary.validation_before == {}
    (batch,) = look.batches
    policy = look.before.policy if kind == "ppo" else look.before
    logits = policy.double().logits(policy(batch.ids_ST)) / 0.8
    for row, reply in enumerate(look.learning.batch.replies):
        start = int(batch.starts_S[row])
        assert reply.prompt == Byte().decode(batch.ids_ST[row, :start].tolist()) and len(reply.tokens) == int(batch.mask_SR[row].sum())
        for place, token in enumerate(reply.tokens):
            target = int(batch.ids_ST[row, start + place])
            expected = logits[row, start + place - 1].log_softmax(-1)[target].item()
            assert token.log_prob == pytest.approx(expected, abs=1e-5)
            assert token.old_log_prob == batch.log_probs_SR[row, place].item()
            assert token.ratio == pytest.approx(math.exp(token.log_prob - token.old_log_prob), rel=1e-5)
            assert token.advantage == batch.advantages_SR[row, place].item()
            assert token.further["reference_log_prob"] == batch.reference_log_probs_SR[row, place].item()
            assert ("value" in token.further and "return" in token.further) == (kind == "ppo")
    assert any(abs(token.ratio - 1) > 1e-4 for reply in look.learning.batch.replies for token in reply.tokens)
    assert "ratio" in look.learning.batch.replies[0].figures


def test_another_kind_of_batch_is_refused_by_name(tmp_path: Path) -> None:
    class OwnBatch(NamedTuple):
        ids_BT: torch.Tensor

    look = look_at(SFT(network, adamw), Demonstrations, "demonstration", 1, tmp_path)
    recipe = look.recipe
    recipe.objective = lambda batch: SFT.objective(recipe, look.batches[0])
    with pytest.raises(ConfigError, match=r"SFT trains on OwnBatch.*Pretrain, SFT.*DPO, RewardModel.*PPO, GRPO"):
        batch_table(recipe, OwnBatch(torch.zeros(1)), 1, lambda: None)
