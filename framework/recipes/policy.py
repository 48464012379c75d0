"""What PPO and GRPO share: the policy writes replies, they are judged, and it is trained on them for a few epochs.

Prompts flow in, a policy whose replies are judged better flows out. A concrete recipe says what the advantages are (`advantages`) and
what the loss is (`objective`); this class writes, judges, measures, tests itself before the first step, and resumes to the bit.

Shape legend: S replies of this process, R tokens of a reply, N trained tokens, D width.
"""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer
from torchmetrics import Metric

from framework.batches.prompts import Prompts, Question
from framework.batches.types import PromptBatch
from framework.errors import ConfigError
from framework.losses import log_probs
from framework.losses.log_probs import TokenLogProbs
from framework.networks.base import Network
from framework.recipes import self_test
from framework.recipes.alarms import Alarms
from framework.recipes.experience import Experience, Rollouts, Schedule
from framework.recipes.frozen import Reference
from framework.recipes.judge import Judge
from framework.recipes.metrics import RewardMetrics
from framework.recipes.recipe import Recipe
from framework.recipes.rollout_log import Written, log, measure, samples
from framework.recipes.writer import Writer
from framework.rewards.base import Reward
from framework.schedulers.base import Scheduler
from framework.training.randomness import split_mix

LogProbsFrom = Literal["trainer", "engine"]


class PolicyRecipe(Recipe):
    """Reinforcement learning of a policy on its own replies. All dropout is off: replies and gradients are of one distribution.

    Args: those of PPO and GRPO, which see.
    """

    item = "tokens"
    served = "replies"

    def __init__(
        self,
        network: Callable[[], Network],
        optimizer: Callable[[Iterable[Any]], Optimizer] | None,
        scheduler: Scheduler | None,
        rewards: Sequence[Reward],
        reward_weights: Sequence[float] | None,
        reward_model: Path | None,
        reward_model_weight: float,
        reward_timeout_seconds: float,
        max_reward_failures: float,
        rollout_size: int,
        replies_per_prompt: int,
        epochs: int,
        temperature: float,
        max_running: int,
        uses_reference: bool,
        max_kl: float,
        old_log_probs: LogProbsFrom,
        importance_cap: float | None,
        max_logprob_gap: float,
        seed: int,
        non_finite: Literal["skip", "stop"],
        max_non_finite_steps: int,
    ) -> None:
        super().__init__(network, optimizer, scheduler, seed, non_finite, max_non_finite_steps)
        for name, value in {"rollout_size": rollout_size, "epochs": epochs, "max_running": max_running}.items():
            if value < 1:
                raise ValueError(f"{name} is {value} and must be at least 1")
        if temperature <= 0:
            raise ValueError(f"temperature is {temperature} and must be over 0: replies must be drawn")
        if importance_cap is not None and importance_cap < 1:
            raise ValueError(f"importance_cap is {importance_cap} and must be at least 1")
        if importance_cap is not None and old_log_probs == "engine":
            raise ValueError("importance_cap compares the trainer's log-probabilities with the engine's: it needs old_log_probs trainer")
        self._rewards, self._reward_weights = list(rewards), reward_weights
        self._reward_model, self._reward_model_weight = reward_model, reward_model_weight
        self._reward_timeout_seconds, self._max_reward_failures = reward_timeout_seconds, max_reward_failures
        self.rollout_size, self.replies_per_prompt, self.epochs = rollout_size, replies_per_prompt, epochs
        self.temperature, self.max_running, self.uses_reference = temperature, max_running, uses_reference
        self.old_log_probs, self.importance_cap, self.max_logprob_gap = old_log_probs, importance_cap, max_logprob_gap
        self.alarms = Alarms(max_kl)
        self._reference: list[Reference] = []  # in a list, out of this module's own parameters
        self._judge: list[Judge] = []
        self._writer: list[Writer] = []
        self._experience: Experience | None = None
        self._rollout = -1  # the number of the rollout that `_experience` is

    # what a concrete recipe says

    @property
    @abstractmethod
    def policy(self) -> Network:
        """The network that writes."""

    @abstractmethod
    def advantages(self, experience: Experience, written: Written) -> tuple[Experience, Mapping[str, Tensor]]:
        """The experience with values, advantages and returns; and figures of each reply, [S], for the log."""

    @abstractmethod
    def placed_scores(self, experience: Experience, written: Written) -> tuple[Tensor, Tensor]:
        """For the self-test: what became of the replies' scores, and what should have; of one shape."""

    # set-up

    @property
    def _unit(self) -> float:
        """Tokens, not replies: where every reply is as long as can be, gradients need no scaling."""
        return float(self.prompts.batch_size * self.prompts.max_new_tokens)

    def train(self, mode: bool = True) -> PolicyRecipe:
        """Everything stays in evaluation mode."""
        super().train(False)
        return self

    @property
    def prompts(self) -> Prompts:
        """The DataModule."""
        data = self.data
        if not isinstance(data, Prompts):
            raise ConfigError(f"{type(self).__name__} trains on prompts (--data Prompts), not on {type(data).__name__}.")
        return data

    def configure_model(self) -> None:
        """Build the networks; remember the policy as it is."""
        super().configure_model()
        if self._judge:
            return
        data = self.prompts
        if self.uses_reference:
            self._reference = [Reference(self.policy)]
        self._judge = [
            Judge(
                data.tokenizer,
                self._rewards,
                self._reward_weights,
                self._reward_model,
                self._reward_model_weight,
                self._reward_timeout_seconds,
                self._max_reward_failures,
                data.batch_size,
            )
        ]
        room = self.max_running * data.context_length
        sizes = data.max_new_tokens, self.temperature, self.max_running, data.tokenizer.vocab_size, room
        self._writer = [Writer(self.policy, data.examples.end_ids, *sizes)]

    def on_fit_start(self) -> None:
        """Check the sizes against each other; move what Lightning does not know of."""
        self.schedule_of_replies()
        for reference in self._reference:
            reference.follow(self.policy)
        for judge in self._judge:
            judge.to(self.device)

    def on_validation_start(self) -> None:
        """As on_fit_start, for a validation by itself."""
        for judge in self._judge:
            judge.to(self.device)

    def teardown(self, stage: str) -> None:
        """End the reward functions' processes."""
        for judge in self._judge:
            judge.close()

    def schedule_of_replies(self) -> Schedule:
        """How a rollout becomes micro-batches on this process. Raises ConfigError for sizes that do not divide each other."""
        data, world = self.prompts, self.trainer.world_size
        share = data.batch_size * world
        if self.rollout_size % (share * self.trainer.accumulate_grad_batches):
            raise ConfigError(
                f"model.rollout_size ({self.rollout_size} replies) must be a multiple of an optimizer step's replies: data.batch_size "
                f"{data.batch_size} x trainer.accumulate_grad_batches {self.trainer.accumulate_grad_batches} x {world} processes."
            )
        if self.rollout_size % (self.replies_per_prompt * world):
            raise ConfigError(
                f"model.rollout_size ({self.rollout_size} replies) must be a multiple of {self.replies_per_prompt} replies a prompt x {world} processes."
            )
        seed = split_mix(self.seed % 2**64 ^ self.global_rank) % 2**63
        return Schedule(seed, self.rollout_size // world, data.batch_size, self.epochs)

    # writing and judging

    def rollouts(self) -> Rollouts:
        """What the DataModule serves as training batches."""
        return Rollouts(self.schedule_of_replies(), self.progress.batches // self.trainer.world_size, self._experience_of)

    def _experience_of(self, rollout: int) -> Experience:
        """The replies of a rollout: written now, or those that the micro-batches before came from."""
        if self._experience is None or rollout != self._rollout:
            self._experience, self._rollout = self._roll_out(rollout), rollout
        return self._experience

    @torch.no_grad()
    def _roll_out(self, rollout: int) -> Experience:
        data, world, rank = self.prompts, self.trainer.world_size, self.global_rank
        prompts = self.rollout_size // self.replies_per_prompt // world
        first = (rollout * world + rank) * prompts
        asked = [data.question(first + number) for number in range(prompts)]
        seeds = [split_mix(split_mix(data.seed % 2**64) ^ (first + number)) >> 1 for number in range(prompts)]
        written = self._write(asked, seeds)
        experience, figures = self.advantages(self._look(written), written)
        self._log(experience, written, figures)
        if not self.progress.batches:
            self_test.check(self, experience, written)
        return experience

    def _write(self, asked: Sequence[Question], seeds: Sequence[int]) -> Written:
        groups = self._writer[0].write(
            [question.ids for question in asked],
            seeds,
            self.replies_per_prompt,
            show_progress=self.trainer.is_global_zero and sys.stderr.isatty(),
        )
        questions = [question for question in asked for _ in range(self.replies_per_prompt)]
        replies = [reply for group in groups for reply in group]
        return Written(questions, replies, self._judge[0].judge(questions, replies, self.device))

    def _look(self, written: Written) -> Experience:
        """The replies as the trainer sees them: log-probabilities under policy and reference."""
        starts = [len(question.ids) for question in written.questions]
        lengths = [len(reply.ids) for reply in written.replies]
        size = (len(starts), max(lengths))
        ids_ST = torch.full((size[0], max(map(sum, zip(starts, lengths)))), self.data.tokenizer.pad_id)
        mask_SR, engine_SR = torch.zeros(size, dtype=torch.bool), torch.zeros(size)
        for row, (question, reply) in enumerate(zip(written.questions, written.replies)):
            ids_ST[row, : starts[row] + lengths[row]] = torch.tensor([*question.ids, *reply.ids])
            mask_SR[row, : lengths[row]] = True
            engine_SR[row, : lengths[row]] = torch.tensor(reply.log_probs)
        zeros_SR = torch.zeros(size)
        fields = (ids_ST, torch.tensor(starts), mask_SR, zeros_SR, engine_SR, zeros_SR, zeros_SR, zeros_SR, zeros_SR)
        experience = Experience(*(field.to(self.device) for field in fields))
        compared = experience.select(range(self.num_compared(size[0])))
        found_SR = self.in_parts(compared, lambda part: part.spread(self.token_log_probs(self.policy, part).log_probs_N))
        policy_SR = experience.engine_log_probs_SR.to(found_SR.dtype, copy=True)
        policy_SR[: len(found_SR), : found_SR.shape[1]] = found_SR
        reference_SR = zeros_SR.to(policy_SR)
        if self._reference:
            compute = self._reference[0].run
            reference_SR = self.in_parts(
                experience, lambda part: part.spread(compute(lambda network: self.token_log_probs(network, part).log_probs_N))
            )
        return experience._replace(log_probs_SR=policy_SR, reference_log_probs_SR=reference_SR)

    def num_compared(self, replies: int) -> int:
        """How many of a rollout's replies, from the first on, the trainer gives log-probabilities of its own: all, or a micro-batch's."""
        every = self.old_log_probs == "trainer" or not self.progress.batches
        return replies if every else min(replies, self.prompts.batch_size)

    def in_parts(self, experience: Experience, compute: Callable[[Experience], Tensor]) -> Tensor:
        """What `compute` gives for each reply's tokens, [S, R], from as many replies at a time as a micro-batch has, of like length."""
        result_SR: Tensor | None = None
        total_S = experience.starts_S + experience.reply_lengths()
        by_length = total_S.argsort(descending=True).tolist()
        for start in range(0, len(by_length), self.prompts.batch_size):
            rows = by_length[start : start + self.prompts.batch_size]
            with self.precision():  # or no ratio would begin at 1
                part_BR = compute(experience.select(rows))
            if result_SR is None:
                result_SR = torch.zeros(experience.mask_SR.shape, dtype=part_BR.dtype, device=part_BR.device)
            result_SR[rows, : part_BR.shape[1]] = part_BR
        assert result_SR is not None
        return result_SR

    def token_log_probs(self, network: Network, experience: Experience, hidden_ND: Tensor | None = None) -> TokenLogProbs:
        """Log-probabilities of the trained tokens and entropies under a network, at the temperature they were drawn with.

        Args:
            network: the policy or another.
            experience: the replies.
            hidden_ND: the network's hidden states at `experience.places()`, where they are known.
        """
        if hidden_ND is None:
            hidden_ND = network.hidden_at(experience.places(), experience.inputs_ST)
        weight_VD, softcap = network.head_weight_VD, network.logit_softcap
        return log_probs(hidden_ND, weight_VD, experience.targets_N, self.temperature, softcap=softcap)

    def importance(self, experience: Experience) -> Tensor | None:
        """Weights that make up for what the engine drew with slightly other probabilities, [N], cut off at `importance_cap`; None: off."""
        if self.importance_cap is None:
            return None
        mask_SR = experience.mask_SR
        return (experience.log_probs_SR[mask_SR] - experience.engine_log_probs_SR[mask_SR]).exp().clamp(max=self.importance_cap)

    def over_processes(self, sums: Tensor) -> Tensor:
        """Sums over all processes."""
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(sums)
        return sums

    def _log(self, experience: Experience, written: Written, figures: Mapping[str, Tensor]) -> None:
        """Log a rollout, warn of what goes wrong, and refuse an engine that computes something else than the trainer."""
        compared = self.num_compared(len(written.replies))
        metrics = measure(self.trainer, experience, written, figures, bool(self._reference), self.device, compared)
        log(self.trainer, self.progress.step, metrics, [*samples(self._judge[0], written)])
        if self.trainer.is_global_zero:
            kl = metrics.get("rollout/kl", 0.0)
            for warning in self.alarms.look(kl, metrics["rollout/score_length_correlation"], metrics["rollout/length"]):
                print(f"warning: step {self.progress.step}: {warning}", file=sys.stderr)
        self_test.check_gap(metrics["rollout/logprob_gap"], self.max_logprob_gap)

    # validation

    def new_metric(self) -> Metric:
        """`val/reward`, `val/length`, `val/finished`, `val/not_judged`."""
        return RewardMetrics()

    def evaluate(self, batch: PromptBatch) -> None:
        """Add a validation batch: each prompt's likeliest reply, judged."""
        counted = int(batch.weights_B.sum())
        asked = [self.prompts.validation[number] for number in batch.index_B[:counted].tolist()]
        if not asked:
            return
        with torch.autocast(self.device.type, enabled=False):  # as in training, where replies are written outside of it
            replies = [group[0] for group in self._writer[0].write([question.ids for question in asked], [0] * counted, greedy=True)]
            scores_S = self._judge[0].judge(asked, replies, self.device).scores_S
        lengths_S, finished_S = torch.tensor([len(reply.ids) for reply in replies]), torch.tensor([reply.finished for reply in replies])
        self.metric.update(scores_S, lengths_S, finished_S)

    def flops_per_item(self) -> float | None:
        """Most of the time is not training."""
        return None

    # checkpoints

    def rollout_state(self) -> dict[str, Any]:
        """What a concrete recipe carries from rollout to rollout."""
        return {}

    def load_rollout_state(self, state: dict[str, Any]) -> None:
        """Take it up."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the replies under way: their writer is gone when the run resumes."""
        super().on_save_checkpoint(checkpoint)
        experience = None if self._experience is None else [field.cpu() for field in self._experience]
        if self.trainer.world_size > 1:
            gathered: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(gathered, experience)
        else:
            gathered = [experience]
        checkpoint["framework"]["rollout"] = {
            "number": self._rollout,
            "experience": gathered,
            "alarms": self.alarms.state_dict(),
            **self.rollout_state(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the replies under way."""
        super().on_load_checkpoint(checkpoint)
        state = dict(checkpoint["framework"]["rollout"])
        kept = state.pop("experience")
        if len(kept) != self.trainer.world_size:
            raise ConfigError(f"the checkpoint was saved by {len(kept)} processes; resume with as many: each has replies of its own.")
        mine = kept[self.global_rank]
        self._rollout = state.pop("number")
        self._experience = None if mine is None else Experience(*(field.to(self.device) for field in mine))
        self.alarms.load_state_dict(state.pop("alarms"))
        self.load_rollout_state(state)
