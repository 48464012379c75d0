"""PPO and GRPO: what must hold at the first step, what must never change, what must be learnt, and how they resume."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

sys.path.insert(0, str(Path(__file__).parent))
from conftest import Data, Recorder, adamw, network, scored, weights  # type: ignore[import-not-found]
from rewards_for_tests import CountOf, Hangs, Raises  # type: ignore[import-not-found]

from framework.errors import ConfigError
from framework.recipes.experience import Experience, Schedule
from framework.recipes.grpo import GRPO
from framework.recipes.kl_control import KLControl
from framework.recipes.ppo import PPO
from framework.recipes.self_test import SelfTestFailed
from framework.rewards.runner import RewardError


def ppo(**arguments: Any) -> PPO:
    defaults = {"rollout_size": 16, "rewards": [CountOf("a")], "temperature": 1.0, "optimizer": adamw(), "num_ppo_epochs": 2}
    return PPO(network, **{**defaults, **arguments})


def grpo(**arguments: Any) -> GRPO:
    defaults = {"rollout_size": 16, "rewards": [CountOf("a")], "num_generations": 4, "optimizer": adamw()}
    return GRPO(network, **{**defaults, **arguments})


class Watch(Callback):
    """Keeps every micro-batch and the figures of its loss."""

    def __init__(self) -> None:
        self.batches: list[Experience] = []
        self.ratios: list[float] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.batches.append(batch)
        again_N = pl_module.token_log_probs(pl_module.policy, batch).log_probs_N
        self.ratios.append(float((again_N - batch.log_probs_SR[batch.mask_SR]).detach().abs().max()))


@pytest.mark.parametrize("make", [ppo, grpo])
def test_the_first_minibatch_has_ratio_one(make: Any, data: Data, train: Any) -> None:
    """TRAP-50: to 1e-4 in fp32, and to 1e-10 in float64."""
    for precision, bound in (("32-true", 1e-4), ("64-true", 1e-10)):
        watch = Watch()
        train(make(), data.prompts(), max_steps=4, callbacks=[watch], precision=precision)
        assert watch.ratios[0] <= bound
        assert watch.ratios[-1] > 1e-3  # the policy has moved since the replies were written


@pytest.mark.parametrize("critic", ["policy", "shared"])
def test_a_learning_rate_of_zero_changes_nothing(critic: Any, data: Data, train: Any) -> None:
    watch = Watch()
    recipe = ppo(optimizer=adamw(0.0), critic=critic)
    recipe.on_fit_start, original = lambda: (before.update(weights(recipe.network)), original())[1], recipe.on_fit_start  # type: ignore[method-assign]
    before: dict[str, torch.Tensor] = {}
    train(recipe, data.prompts(), max_steps=8, callbacks=[watch])
    assert max(watch.ratios) <= 1e-4
    for name, weight in weights(recipe.network).items():
        assert torch.equal(weight, before[name]), name


def test_reference_and_reward_model_never_change(data: Data, train: Any, tmp_path: Path) -> None:
    from framework import checkpoint
    from framework.recipes.reward_model import RewardModel

    judge = train(RewardModel(scored, adamw()), data.preferences())
    judge.save_model(tmp_path / "judge")
    recipe = ppo(rewards=[], reward_model=tmp_path / "judge", critic="reward_model")
    train(recipe, data.prompts(), max_steps=8)
    torch.manual_seed(0)
    fresh = network(vocab_size=recipe.policy.vocab_size, context_length=32)
    for name, weight in weights(recipe._reference[0].network).items():
        assert torch.equal(weight, dict(fresh.named_parameters())[name]), name
    stored = checkpoint.load_network(tmp_path / "judge")
    for name, weight in weights(recipe._judge[0].reward_model).items():
        assert torch.equal(weight, dict(stored.named_parameters())[name]), name
    assert any(not torch.equal(weight, dict(fresh.named_parameters())[name]) for name, weight in weights(recipe.policy).items())


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "dr_grpo"])
def test_accumulation_is_invisible_in_grpo(loss_type: Any, data: Data, train: Any) -> None:
    check_accumulation(lambda: grpo(loss_type=loss_type, optimizer=Recorder, beta=0.1), data, train)


def test_accumulation_is_invisible_in_ppo(data: Data, train: Any) -> None:
    check_accumulation(lambda: ppo(optimizer=Recorder, entropy_coef=0.01, vf_coef=0.5), data, train)


def check_accumulation(make: Any, data: Data, train: Any) -> None:
    """TRAP-66: micro-batches of replies of unequal lengths have the gradient of one large batch (float64)."""
    options = {"precision": "64-true", "max_steps": 1}  # one step over a whole rollout: the order inside it does not matter
    whole = train(make(), data.prompts(batch_size=16), **options)
    split = train(make(), data.prompts(batch_size=4), accumulate_grad_batches=4, **options)
    one, many = whole.optimizers().seen[0], split.optimizers().seen[0]
    assert one.keys() == many.keys() and whole.progress.items == split.progress.items
    for number in one:
        torch.testing.assert_close(many[number], one[number], atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("critic", ["shared", "policy"])
def test_ppo_has_the_gradient_of_its_loss_written_out(critic: Any, data: Data, train: Any) -> None:
    """float64, one step, from the papers: clipped policy, clipped value, entropy, over all trained tokens of the step."""
    watch = Watch()
    recipe = ppo(optimizer=Recorder, entropy_coef=0.01, vf_coef=0.5, temperature=0.7, critic=critic)
    before: dict[str, Any] = {}
    recipe.on_fit_start, original = lambda: (before.update(network=copy.deepcopy(recipe.network)), original())[1], recipe.on_fit_start  # type: ignore[method-assign]
    train(recipe, data.prompts(batch_size=16), max_steps=1, precision="64-true", callbacks=[watch])
    fresh, batch = before["network"], watch.batches[0]
    total, count = torch.zeros((), dtype=torch.float64), 0
    for row in range(16):
        length, start = int(batch.mask_SR[row].sum()), int(batch.starts_S[row])
        ids = batch.ids_ST[row : row + 1, : start + length]
        hidden = fresh.policy(ids)
        table = (fresh.policy.logits(hidden)[0] / 0.7).log_softmax(-1)
        values = fresh.value_head(hidden)[0, :, 0] if critic == "shared" else fresh.critic.values(fresh.critic(ids))[0]
        for step in range(length):
            place = start + step - 1
            log_prob = table[place, ids[0, place + 1]]
            ratio = (log_prob - batch.log_probs_SR[row, step]).exp()
            advantage = batch.advantages_SR[row, step]
            policy = -torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
            old, target = batch.values_SR[row, step], batch.returns_SR[row, step]
            clipped = old + (values[place] - old).clamp(-0.2, 0.2)
            value = 0.5 * torch.max((values[place] - target) ** 2, (clipped - target) ** 2)
            total = total + policy + 0.5 * value - 0.01 * -(table[place].exp() * table[place]).sum()
            count += 1
    (total / count).backward()
    expected = [parameter.grad for group in recipe.optimizers().param_groups for parameter in _like(group["params"], recipe.network, fresh)]
    for number, gradient in recipe.optimizers().seen[0].items():
        torch.testing.assert_close(gradient, expected[number], atol=1e-11, rtol=1e-8)


def _like(parameters: list[Any], ours: Any, theirs: Any) -> list[Any]:
    names = {id(parameter): name for name, parameter in ours.named_parameters()}
    return [dict(theirs.named_parameters())[names[id(parameter)]] for parameter in parameters]


@pytest.mark.parametrize("length", [1, 2, 5])
def test_the_score_arrives_whatever_the_length(length: int) -> None:
    """TRAP-57, 58: with discount and lambda 1 and no critic the return at the first token is the score less the summed KL's cost."""
    from framework.recipes.self_test import undiscounted_returns

    recipe = ppo(kl_coef=0.3)
    torch.manual_seed(0)
    mask = torch.arange(5)[None] < torch.tensor([[length], [5]])
    policy, reference = torch.randn(2, 5, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    zeros = torch.zeros_like(policy)
    experience = Experience(torch.zeros(2, 8, dtype=torch.long), torch.tensor([3, 3]), mask, policy, policy, reference, zeros, zeros, zeros)
    scores = torch.tensor([2.5, -1.0], dtype=torch.float64)
    returns = undiscounted_returns(experience, recipe.token_rewards(experience, scores))
    torch.testing.assert_close(returns, scores - 0.3 * ((policy - reference) * mask).sum(1), atol=1e-12, rtol=0)
    likelier = experience._replace(log_probs_SR=policy + 1.0)
    assert (undiscounted_returns(likelier, recipe.token_rewards(likelier, scores)) < returns).all()


def test_the_kl_coefficient_follows_its_target() -> None:
    control = KLControl(0.2, target=6.0, horizon=10_000)
    control.update(kl=12.0, replies=256)
    assert control.coefficient == pytest.approx(0.201024)
    fixed = KLControl(0.2, target=None, horizon=10_000)
    fixed.update(kl=12.0, replies=256)
    assert fixed.coefficient == 0.2


def test_every_epoch_visits_every_reply_once() -> None:
    schedule = Schedule(seed=3, replies=24, batch_size=4, epochs=3)
    assert schedule.micro_batches == 18
    epochs = [[row for number in range(6 * epoch, 6 * epoch + 6) for row in schedule.rows(number)] for epoch in range(6)]
    assert all(sorted(rows) == list(range(24)) for rows in epochs)
    assert len({tuple(rows) for rows in epochs}) == 6


@pytest.mark.parametrize("make", [ppo, grpo])
def test_resuming_anywhere_is_never_having_stopped(make: Any, data: Data, train: Any, tmp_path: Path) -> None:
    """TRAP-71: mid-rollout too; weights, moments, KL coefficient, statistics of the scores."""
    options = {"kl_target": 0.5, "kl_horizon": 100, "score_scaling": "running"} if make is ppo else {"num_iterations": 2, "beta": 0.1}
    whole = train(make(**options), data.prompts(), max_steps=12, save_every=1)
    for step in (1, 5, 8, 11):
        resumed = train(make(**options), data.prompts(), max_steps=12, resume=tmp_path / "checkpoints" / f"step-{step:08}.ckpt")
        for name, weight in weights(resumed.network).items():
            assert torch.equal(weight, weights(whole.network)[name]), (step, name)
        assert resumed.rollout_state().keys() == whole.rollout_state().keys()
        assert str(resumed.rollout_state()) == str(whole.rollout_state())
    if make is ppo:
        assert whole.kl.coefficient != ppo().kl.coefficient


@pytest.mark.parametrize(
    "make, steps",
    [
        (lambda: ppo(rollout_size=64, kl_coef=0.0, critic="shared", optimizer=adamw(1e-2)), 160),
        (lambda: grpo(rollout_size=64, num_generations=16, optimizer=adamw(1e-2)), 96),
    ],
)
def test_a_rewarded_character_is_learnt(make: Any, steps: int, data: Data, train: Any) -> None:
    """TRAP-70: its share rises more than fivefold."""
    recipe = make()
    scores: list[float] = []
    original = recipe._log
    recipe._log = lambda experience, written, figures: (
        scores.append(float(written.judgement.scores_S.mean())),
        original(experience, written, figures),
    )[1]
    train(recipe, data.prompts(batch_size=8), max_steps=steps)
    assert sum(scores[-3:]) / 3 > 5 * max(scores[0], 1 / 256), scores


def test_a_reward_that_hangs_costs_its_replies_only(data: Data, train: Any) -> None:
    recipe = ppo(rewards=[Hangs()], reward_timeout_seconds=0.5, rollout_size=16)
    train(recipe, data.prompts(), max_steps=4)
    judged = [bool(row.any()) for row in recipe._experience.mask_SR]
    assert recipe.progress.step == 4 and any(judged)


def test_a_reward_that_judges_nothing_ends_the_run(data: Data, train: Any) -> None:
    with pytest.raises(RewardError, match="no idea"):
        train(ppo(rewards=[Raises()]), data.prompts())


def test_the_self_test_refuses_a_policy_that_is_random(data: Data, train: Any) -> None:
    recipe = ppo()
    original = recipe.token_log_probs

    def noisy(*arguments: Any) -> Any:
        found = original(*arguments)
        return found._replace(log_probs_N=found.log_probs_N + 0.01 * torch.rand_like(found.log_probs_N))

    recipe.token_log_probs = noisy  # type: ignore[method-assign]
    with pytest.raises(SelfTestFailed, match="ratio must be 1"):
        train(recipe, data.prompts())


def test_the_self_test_refuses_a_lost_score(data: Data, train: Any) -> None:
    recipe = ppo(rewards=[CountOf("a"), CountOf("b")])
    original = recipe.token_rewards
    recipe.token_rewards = lambda experience, scores: original(experience, scores) + 0.5  # type: ignore[method-assign]
    with pytest.raises(SelfTestFailed, match="lost or moved"):
        train(recipe, data.prompts())


def test_an_engine_that_differs_from_the_trainer_is_refused(data: Data, train: Any) -> None:
    recipe = ppo()
    original = recipe._look

    def shifted(written: Any) -> Any:
        found = original(written)
        return found._replace(engine_log_probs_SR=found.engine_log_probs_SR - 0.2)

    recipe._look = shifted  # type: ignore[method-assign]
    with pytest.raises(SelfTestFailed, match="max_logprob_gap"):
        train(recipe, data.prompts())


@pytest.mark.parametrize("make", [ppo, grpo])
def test_the_engine_s_log_probs_save_a_forward_and_train_alike(make: Any, data: Data, train: Any) -> None:
    policies, compared = [], {}
    for source in ("trainer", "engine"):
        recipe = make(old_log_probs=source)
        original, compared[source] = recipe.num_compared, []
        recipe.num_compared = lambda replies, of=original, seen=compared[source]: seen.append(of(replies)) or of(replies)  # type: ignore[method-assign]
        train(recipe, data.prompts(), max_steps=20)
        policies.append(weights(recipe.policy))
    first, *later = compared["engine"]
    assert set(compared["trainer"]) == {16} and first == 16 and set(later[1:]) == {4}
    for name, weight in policies[0].items():
        torch.testing.assert_close(policies[1][name], weight, rtol=1e-3, atol=1e-4)


def test_an_engine_that_comes_to_differ_is_refused_where_its_log_probs_serve(data: Data, train: Any) -> None:
    recipe = ppo(old_log_probs="engine")
    original = recipe._write

    def shifted(*arguments: Any) -> Any:
        written = original(*arguments)
        if not recipe.progress.batches:
            return written
        return written._replace(replies=[reply._replace(log_probs=[each - 0.2 for each in reply.log_probs]) for reply in written.replies])

    recipe._write = shifted  # type: ignore[method-assign]
    with pytest.raises(SelfTestFailed, match="max_logprob_gap"):
        train(recipe, data.prompts(), max_steps=20)
    assert recipe.progress.batches


def test_a_cap_needs_both_log_probs() -> None:
    with pytest.raises(ValueError, match="old_log_probs trainer"):
        ppo(old_log_probs="engine", importance_cap=2.0)


@pytest.mark.parametrize(
    "arguments, named", [({"rollout_size": 18}, "multiple of an optimizer step"), ({"replies_per_prompt": 3}, "replies a prompt")]
)
def test_sizes_that_do_not_divide_each_other(arguments: dict[str, Any], named: str, data: Data, train: Any) -> None:
    with pytest.raises(ConfigError, match=named):
        train(ppo(**arguments), data.prompts())


def test_nothing_that_judges(data: Data, train: Any) -> None:
    with pytest.raises(ConfigError, match="nothing judges"):
        train(ppo(rewards=[]), data.prompts())


def test_other_data_is_refused(data: Data, train: Any) -> None:
    with pytest.raises(ConfigError, match="trains on prompts"):
        train(ppo(), data.demonstrations())


def test_truncated_replies_can_be_left_out(data: Data, train: Any) -> None:
    """TRAP-79: when none is left, nothing is trained and nothing breaks."""
    recipe = grpo(mask_truncated_completions=True, num_iterations=1)
    train(recipe, data.prompts(max_new_tokens=1), max_steps=2)
    assert recipe.progress.step == 2 and all(parameter.isfinite().all() for parameter in recipe.network.parameters())
