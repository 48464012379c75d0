"""Proximal policy optimisation with a critic: RLHF as in Ouyang et al. 2022 (arXiv 2203.02155).

Prompts flow in, a policy whose replies are judged better flows out. Shape legend: S replies, R tokens of a reply, N trained tokens, D width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from framework.losses import clipped_policy_loss, clipped_value_loss, generalised_advantages, kl_estimate, whiten
from framework.losses.advantages import moments_of
from framework.networks.actor_critic import ActorCritic
from framework.networks.base import Network
from framework.networks.scalar_head import ScalarHead
from framework.recipes.experience import Experience
from framework.recipes.judge import load_reward_model
from framework.recipes.kl_control import KLControl
from framework.recipes.policy import LogProbsFrom, PolicyRecipe
from framework.recipes.recipe import Objective
from framework.recipes.rollout_log import Written
from framework.recipes.self_test import undiscounted_returns
from framework.rewards.base import Reward
from framework.schedulers.base import Scheduler


class PPO(PolicyRecipe):
    """PPO: clipped policy and value losses over several epochs of the policy's own replies, KL to the reference in the reward.

    An optimizer step trains on data.batch_size x trainer.accumulate_grad_batches replies a process; `rollout_size` of them are written
    at a time and visited `num_ppo_epochs` times.

    Args:
        network: the policy, usually fine-tuned before (--init_from).
        optimizer: default AdamW.
        scheduler: factor of the learning rate at each update; default Constant.
        rewards: reward functions (`framework.rewards`), each in a process of its own.
        reward_weights: of the functions; null: 1 each.
        reward_model: directory of a reward model, made by the recipe reward-model; null: functions alone.
        reward_model_weight: of its score beside the functions'.
        reward_timeout_seconds: of a function for one reply; over it the reply is not judged and not trained on.
        max_reward_failures: share of a rollout's replies that a function may fail to judge before the run ends.
        missing_eos_penalty: subtracted from the score of a reply that was cut off at its greatest length.
        score_scaling: running: scores are divided by their running deviation; none: taken as they are.
        rollout_size: replies written at a time, over all processes.
        replies_per_prompt: of them to each prompt.
        num_ppo_epochs: how often each reply is trained on.
        temperature: of the replies, and of every log-probability.
        max_running: replies written side by side: more are faster and take more memory.
        kl_coef: what a nat of KL to the reference costs, in reward.
        kl_estimator: of the KL of a token: k1 (its expectation is the KL) or k3 (never negative).
        kl_target: null: kl_coef is fixed; else nats a reply that the coefficient steers towards.
        kl_horizon: replies over which it follows an error.
        max_kl: nats a reply over which a warning is printed.
        gamma: discount of rewards to come.
        lam: lambda of generalised advantage estimation.
        whiten_rewards: scale each rollout's token rewards to deviation 1.
        whiten_advantages: scale and shift each rollout's advantages to deviation 1, mean 0.
        cliprange: how far a token's probability ratio may leave 1 and still gain.
        cliprange_value: how far the critic may move at once and still gain.
        vf_coef: weight of the critic's loss.
        entropy_coef: reward of a nat of entropy, in the loss.
        critic: policy: a network of its own that begins as a copy of the policy, its head zero; reward_model: one that begins as the
            reward model; shared: a head of zeros on the policy's own hidden states (half the memory).
        old_log_probs: those that a token's probability ratio begins at. trainer: a forward over every rollout; engine: as they were when
            the token was drawn, which saves the forward. The gap between both is then measured on the first rollout and on a
            micro-batch of each later one.
        importance_cap: weight tokens by how much likelier the trainer finds them than the engine that drew them did, at most so much
            (truncated importance sampling); null: off.
        max_logprob_gap: mean difference between engine and trainer, nats a token, over which the run ends.
        seed: decides the order of the replies and the critic's first weights.
        non_finite: what a step with a non-finite loss or gradient does; it never changes anything: `skip` goes on, `stop` ends the run.
        max_non_finite_steps: with `skip`, the run ends after this many such steps in a row.
    """

    network: ActorCritic

    def __init__(
        self,
        network: Callable[[], Network],
        rollout_size: int,
        optimizer: Callable[[Iterable[Any]], Optimizer] | None = None,
        scheduler: Scheduler | None = None,
        rewards: list[Reward] | None = None,
        reward_weights: list[float] | None = None,
        reward_model: Path | None = None,
        reward_model_weight: float = 1.0,
        reward_timeout_seconds: float = 10.0,
        max_reward_failures: float = 0.5,
        missing_eos_penalty: float | None = None,
        score_scaling: Literal["none", "running"] = "none",
        replies_per_prompt: int = 1,
        num_ppo_epochs: int = 4,
        temperature: float = 0.7,
        max_running: int = 64,
        kl_coef: float = 0.05,
        kl_estimator: Literal["k1", "k3"] = "k1",
        kl_target: float | None = None,
        kl_horizon: int = 10_000,
        max_kl: float = 20.0,
        gamma: float = 1.0,
        lam: float = 0.95,
        whiten_rewards: bool = False,
        whiten_advantages: bool = True,
        cliprange: float = 0.2,
        cliprange_value: float = 0.2,
        vf_coef: float = 0.1,
        entropy_coef: float = 0.0,
        critic: Literal["policy", "reward_model", "shared"] = "policy",
        old_log_probs: LogProbsFrom = "trainer",
        importance_cap: float | None = None,
        max_logprob_gap: float = 0.05,
        seed: int = 0,
        non_finite: Literal["skip", "stop"] = "skip",
        max_non_finite_steps: int = 10,
    ) -> None:
        super().__init__(
            network,
            optimizer,
            scheduler,
            rewards=rewards or [],
            reward_weights=reward_weights,
            reward_model=reward_model,
            reward_model_weight=reward_model_weight,
            reward_timeout_seconds=reward_timeout_seconds,
            max_reward_failures=max_reward_failures,
            rollout_size=rollout_size,
            replies_per_prompt=replies_per_prompt,
            epochs=num_ppo_epochs,
            temperature=temperature,
            max_running=max_running,
            uses_reference=True,
            max_kl=max_kl,
            old_log_probs=old_log_probs,
            importance_cap=importance_cap,
            max_logprob_gap=max_logprob_gap,
            seed=seed,
            non_finite=non_finite,
            max_non_finite_steps=max_non_finite_steps,
        )
        if kl_coef < 0 or kl_horizon < 1 or (kl_target is not None and kl_target <= 0):
            raise ValueError(
                f"kl_coef ({kl_coef}) must be at least 0, kl_horizon ({kl_horizon}) at least 1, kl_target ({kl_target}) over 0"
            )
        if not (0 <= gamma <= 1 and 0 <= lam <= 1):
            raise ValueError(f"gamma ({gamma}) and lam ({lam}) must be between 0 and 1")
        if critic == "reward_model" and reward_model is None:
            raise ValueError("critic is reward_model, and there is none: give reward_model, or critic policy")
        self.missing_eos_penalty, self.score_scaling = missing_eos_penalty or 0.0, score_scaling
        self.kl = KLControl(kl_coef, kl_target, kl_horizon)
        self.kl_estimator, self.gamma, self.lam = kl_estimator, gamma, lam
        self.whiten_rewards, self.whiten_advantages = whiten_rewards, whiten_advantages
        self.cliprange, self.cliprange_value, self.vf_coef, self.entropy_coef = cliprange, cliprange_value, vf_coef, entropy_coef
        self.critic = critic
        self._score_moments = torch.zeros(3, dtype=torch.float64)  # of all scores so far: count, sum, sum of squares

    def build_network(self, data: Any) -> Network:
        """The policy and its critic."""
        policy = super().build_network(data)
        if self.critic == "shared":
            return ActorCritic(policy, None)
        if self.critic == "policy":
            return ActorCritic(policy, ScalarHead(lambda **_: copy.deepcopy(policy), zero=True))
        assert self._reward_model is not None
        critic = load_reward_model(self._reward_model, data.tokenizer)
        with torch.no_grad():  # its scores are normalised: the critic begins with them, not with the head's own numbers
            critic.head.bias.sub_(critic.mean).div_(critic.deviation)
            critic.head.weight.div_(critic.deviation)
            critic.normalise(0.0, 1.0)
        return ActorCritic(policy, critic)

    @property
    def policy(self) -> Network:
        """The network that writes."""
        return self.network.policy

    def network_to_save(self) -> Network:
        """The policy alone."""
        return self.policy

    # rewards and advantages

    def scores(self, written: Written) -> Tensor:
        """Scores as they enter the rewards, [S]: less the penalty for a missing end, scaled; NaN where a reply could not be judged."""
        unfinished_S = torch.tensor([0.0 if reply.finished else 1.0 for reply in written.replies])
        return written.judgement.scores_S / self._score_deviation() - self.missing_eos_penalty * unfinished_S

    def _score_deviation(self) -> float:
        count, total, squares = self._score_moments.tolist()
        if self.score_scaling == "none" or count < 2:
            return 1.0
        return max((squares - total**2 / count) / (count - 1), 1e-8) ** 0.5

    def token_rewards(self, experience: Experience, scores_S: Tensor) -> Tensor:
        """-kl_coef x KL for every token, and the score at the reply's last one, [S, R]."""
        kl_SR = kl_estimate(experience.log_probs_SR, experience.reference_log_probs_SR, self.kl_estimator)
        rewards_SR = -self.kl.coefficient * kl_SR * experience.mask_SR
        last_S = (experience.reply_lengths() - 1).clamp(min=0)
        scored_S = torch.where(experience.mask_SR.any(1), scores_S.to(rewards_SR), 0.0)
        return rewards_SR.scatter_add(1, last_S[:, None], scored_S[:, None])

    def advantages(self, experience: Experience, written: Written) -> tuple[Experience, Mapping[str, Tensor]]:
        """Values, advantages and returns of a rollout."""
        if self.score_scaling == "running":
            judged_S = written.judgement.scores_S
            moments = self.over_processes(moments_of(judged_S.nan_to_num(0.0), judged_S.isfinite()).to(self.device)).cpu()
            self._score_moments = self._score_moments + moments
        scores_S = self.scores(written).to(self.device)
        experience = experience._replace(mask_SR=experience.mask_SR & scores_S.isfinite()[:, None])
        mask_SR = experience.mask_SR
        rewards_SR = self.token_rewards(experience, scores_S)
        figures = {"rollout/rlhf_reward": torch.where(mask_SR.any(1), rewards_SR.sum(1), torch.nan)}
        if self.whiten_rewards:
            rewards_SR = whiten(rewards_SR, mask_SR, shift_mean=False, moments=self.over_processes(moments_of(rewards_SR, mask_SR)))
        values_SR = self.in_parts(experience, lambda part: part.spread(self.network.values(part.places(), part.inputs_ST)))
        advantages_SR, returns_SR = generalised_advantages(rewards_SR, values_SR, mask_SR, self.gamma, self.lam)
        if self.whiten_advantages:
            advantages_SR = whiten(advantages_SR, mask_SR, moments=self.over_processes(moments_of(advantages_SR, mask_SR)))
        figures["rollout/kl_coefficient"] = torch.full((1,), self.kl.coefficient)
        kl_S = ((experience.log_probs_SR - experience.reference_log_probs_SR) * mask_SR).sum(1)
        kl, count = self.over_processes(torch.stack([kl_S.sum(), mask_SR.any(1).sum()])).tolist()
        if count and self.progress.batches:
            self.kl.update(kl / count, int(count))
        return experience._replace(values_SR=values_SR, advantages_SR=advantages_SR, returns_SR=returns_SR), figures

    def placed_scores(self, experience: Experience, written: Written) -> tuple[Tensor, Tensor]:
        """For the self-test: what arrives at each reply's first token, and the score less the KL, [S] each; judged replies only."""
        scores_S = self.scores(written).to(self.device)
        kl_SR = kl_estimate(experience.log_probs_SR, experience.reference_log_probs_SR, self.kl_estimator) * experience.mask_SR
        judged_S = scores_S.isfinite()
        expected_S = scores_S - self.kl.coefficient * kl_SR.sum(1)
        return undiscounted_returns(experience, self.token_rewards(experience, scores_S))[judged_S], expected_S[judged_S]

    # the loss

    def objective(self, batch: Experience) -> Objective:
        """Summed policy, value and entropy losses of the trained tokens, and their number."""
        places = batch.places()
        hidden_ND = self.policy.hidden_at(places, batch.inputs_ST)
        log_probs_N, entropies_N = self.token_log_probs(self.policy, batch, hidden_ND)
        values_N = self.network.values(places, batch.inputs_ST, hidden_ND)
        old_N, advantages_N, old_values_N, returns_N = (
            field[batch.mask_SR] for field in (batch.log_probs_SR, batch.advantages_SR, batch.values_SR, batch.returns_SR)
        )
        policy_N = clipped_policy_loss(log_probs_N, old_N, advantages_N, self.cliprange, self.cliprange)
        if (weights_N := self.importance(batch)) is not None:
            policy_N = policy_N * weights_N
        value_N = clipped_value_loss(values_N, old_values_N, returns_N, self.cliprange_value)
        count = batch.mask_SR.sum()
        log_ratio_N = (log_probs_N - old_N).detach()
        for name, each_N in {
            "loss/policy": policy_N,
            "loss/value": value_N,
            "policy/entropy": entropies_N,
            "policy/ratio": log_ratio_N.exp(),
            "policy/approximate_kl": 0.5 * log_ratio_N.square(),
            "policy/clipped": ((log_ratio_N.exp() - 1).abs() > self.cliprange).float(),
        }.items():
            self.measures.add(name, each_N.sum(), count)
        return Objective((policy_N + self.vf_coef * value_N - self.entropy_coef * entropies_N).sum(), count)

    # checkpoints

    def rollout_state(self) -> dict[str, Any]:
        """The KL coefficient and the running statistics of scores."""
        return {"kl_coefficient": self.kl.coefficient, "score_moments": self._score_moments}

    def load_rollout_state(self, state: dict[str, Any]) -> None:
        """Take them up."""
        self.kl.coefficient, self._score_moments = state["kl_coefficient"], state["score_moments"]
