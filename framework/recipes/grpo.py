"""Group-relative policy optimisation (arXiv 2402.03300) and its kin: no critic, a reply is measured against others to the same prompt.

Prompts flow in, a policy whose replies are judged better flows out. Shape legend: S replies, P prompts, G replies to each, R tokens of a
reply, N trained tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from framework.losses import clipped_policy_loss, group_advantages, kl_estimate
from framework.networks.base import Network
from framework.recipes.experience import Experience
from framework.recipes.policy import LogProbsFrom, PolicyRecipe
from framework.recipes.recipe import Objective
from framework.recipes.rollout_log import Written
from framework.rewards.base import Reward
from framework.schedulers.base import Scheduler

LossType = Literal["grpo", "dr_grpo", "dapo"]


class GRPO(PolicyRecipe):
    """GRPO: replies to one prompt are judged against each other; a clipped policy loss over the policy's own replies.

    An optimizer step trains on data.batch_size x trainer.accumulate_grad_batches replies a process; `rollout_size` of them are written
    at a time and visited `num_iterations` times.

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
        rollout_size: replies written at a time, over all processes.
        num_generations: of them to each prompt; at least 2.
        num_iterations: how often each reply is trained on.
        temperature: of the replies, and of every log-probability.
        max_running: replies written side by side: more are faster and take more memory.
        loss_type: grpo: mean over replies of the mean over tokens; dapo: mean over all tokens of the step (arXiv 2503.14476); dr_grpo: sum over
            tokens by the greatest length, so that short and long replies weigh alike (arXiv 2503.20783).
        scale_rewards: divide a group's rewards by their deviation; false as in Dr. GRPO.
        beta: weight of the KL to the reference in the loss; 0: no reference is kept.
        kl_estimator: k3 as GRPO's authors, biased as a loss; k2, whose gradient is the KL's own.
        max_kl: nats a reply over which a warning is printed.
        epsilon: how far a token's probability ratio may leave 1 and still gain.
        epsilon_high: upwards, if another; null: the same.
        mask_truncated_completions: leave out replies that were cut off at their greatest length.
        old_log_probs: those that a token's probability ratio begins at. trainer: a forward over every rollout; engine: as they were when
            the token was drawn, which saves the forward. The gap between both is then measured on the first rollout and on a
            micro-batch of each later one.
        importance_cap: weight tokens by how much likelier the trainer finds them than the engine that drew them did, at most so much
            (truncated importance sampling); null: off.
        max_logprob_gap: mean difference between engine and trainer, nats a token, over which the run ends.
        seed: decides the order of the replies.
        non_finite: what a step with a non-finite loss or gradient does; it never changes anything: `skip` goes on, `stop` ends the run.
        max_non_finite_steps: with `skip`, the run ends after this many such steps in a row.
    """

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
        num_generations: int = 8,
        num_iterations: int = 1,
        temperature: float = 1.0,
        max_running: int = 64,
        loss_type: LossType = "dapo",
        scale_rewards: bool = True,
        beta: float = 0.0,
        kl_estimator: Literal["k2", "k3"] = "k3",
        max_kl: float = 20.0,
        epsilon: float = 0.2,
        epsilon_high: float | None = None,
        mask_truncated_completions: bool = False,
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
            replies_per_prompt=num_generations,
            epochs=num_iterations,
            temperature=temperature,
            max_running=max_running,
            uses_reference=beta > 0,
            max_kl=max_kl,
            old_log_probs=old_log_probs,
            importance_cap=importance_cap,
            max_logprob_gap=max_logprob_gap,
            seed=seed,
            non_finite=non_finite,
            max_non_finite_steps=max_non_finite_steps,
        )
        if num_generations < 2:
            raise ValueError(f"num_generations is {num_generations} and must be at least 2: a reply is measured against others")
        if beta < 0:
            raise ValueError(f"beta is {beta} and must be at least 0")
        self.loss_type, self.scale_rewards, self.beta, self.kl_estimator = loss_type, scale_rewards, beta, kl_estimator
        self.epsilon, self.epsilon_high = epsilon, epsilon if epsilon_high is None else epsilon_high
        self.mask_truncated_completions = mask_truncated_completions

    @property
    def policy(self) -> Network:
        """The network that writes."""
        return self.network

    def _group_advantages(self, written: Written) -> Tensor:
        return group_advantages(written.judgement.scores_S.view(-1, self.replies_per_prompt), self.scale_rewards).flatten()

    def advantages(self, experience: Experience, written: Written) -> tuple[Experience, Mapping[str, Tensor]]:
        """The group's, the same for all tokens of a reply."""
        kept_S = written.judgement.scores_S.isfinite()
        if self.mask_truncated_completions:
            kept_S = kept_S & torch.tensor([reply.finished for reply in written.replies])
        mask_SR = experience.mask_SR & kept_S.to(self.device)[:, None]
        advantages_SR = self._group_advantages(written).to(experience.log_probs_SR)[:, None] * mask_SR
        groups_PG = written.judgement.scores_S.view(-1, self.replies_per_prompt)
        same_P = torch.tensor([float(len(set(group[group.isfinite()].tolist())) < 2) for group in groups_PG])
        return experience._replace(mask_SR=mask_SR, advantages_SR=advantages_SR), {"rollout/groups_without_spread": same_P}

    def placed_scores(self, experience: Experience, written: Written) -> tuple[Tensor, Tensor]:
        """For the self-test: the advantage of each reply's last token, and its group's word, [S] each; trained replies only."""
        trained_S = experience.mask_SR.any(1)
        last_S1 = (experience.reply_lengths() - 1).clamp(min=0)[:, None]
        return experience.advantages_SR.gather(1, last_S1)[:, 0][trained_S], self._group_advantages(written).to(self.device)[trained_S]

    def objective(self, batch: Experience) -> Objective:
        """Summed loss of the replies, and what it is divided by: replies, tokens, or replies by their greatest length."""
        mask_SR = batch.mask_SR
        log_probs_N, entropies_N = self.token_log_probs(self.policy, batch)
        old_N = batch.log_probs_SR[mask_SR]
        loss_N = clipped_policy_loss(log_probs_N, old_N, batch.advantages_SR[mask_SR], self.epsilon, self.epsilon_high)
        if (weights_N := self.importance(batch)) is not None:
            loss_N = loss_N * weights_N
        count = mask_SR.sum()
        if self.beta:
            kl_N = kl_estimate(log_probs_N, batch.reference_log_probs_SR[mask_SR], self.kl_estimator)
            loss_N = loss_N + self.beta * kl_N
            self.measures.add("policy/kl", kl_N.sum(), count)
        ratio_N = (log_probs_N - old_N).detach().exp()
        clipped_N = (ratio_N < 1 - self.epsilon) | (ratio_N > 1 + self.epsilon_high)
        for name, each_N in {"policy/entropy": entropies_N, "policy/ratio": ratio_N, "policy/clipped": clipped_N.float()}.items():
            self.measures.add(name, each_N.sum(), count)
        if self.loss_type == "dapo":
            return Objective(loss_N.sum(), count)
        replies = torch.tensor(len(mask_SR), device=mask_SR.device)
        if self.loss_type == "dr_grpo":
            return Objective(loss_N.sum(), replies * self.prompts.max_new_tokens)
        rows_N = mask_SR.nonzero()[:, 0]
        return Objective((loss_N / mask_SR.sum(1).clamp(min=1)[rows_N]).sum(), replies)
