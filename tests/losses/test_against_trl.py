"""Our losses, advantages and gradients beside what TRL's code computed: the numbers in tests/oracles, whose scripts say how they were made.

How a loss is summed and normalised is a recipe's affair, so it is written out here, as TRL does it.

Shape legend: B sequences (of pairs: the chosen, then the rejected ones), T tokens, N tokens, D width, V vocabulary, P prompts, G replies.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from framework.formats.gpt2 import GPT2
from framework.losses import (
    IGNORE,
    clipped_policy_loss,
    clipped_value_loss,
    dpo_loss,
    generalised_advantages,
    group_advantages,
    kl_estimate,
    log_probs,
    next_token,
    preference_loss,
    whiten,
)
from framework.networks.transformer import Transformer

ORACLES = Path(__file__).parents[1] / "oracles"
NUMBERS = ("inputs", "made_by")  # what is no case of its own

close = torch.testing.assert_close
exact: Any = {"rtol": 1e-9, "atol": 1e-10}  # both sides in float64; twelve digits are stored
rounded: Any = {"rtol": 1e-6, "atol": 1e-6}  # what TRL divides by a quotient of whole numbers, which torch makes in fp32


@cache
def oracle(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((ORACLES / f"{name}.json").read_text(encoding="utf-8"))
    return content


def cases(name: str) -> list[Any]:
    return [pytest.param(case, id=key) for key, case in oracle(name).items() if key not in NUMBERS]


def tensor(stored: Any) -> Tensor:
    """Stored lists as a tensor: float64, int64 or bool."""
    found = torch.tensor(stored)
    return torch.tensor(stored, dtype=torch.float64) if found.is_floating_point() else found


def tensors(stored: dict[str, Any]) -> dict[str, Tensor]:
    """Those entries that are lists of numbers."""
    return {name: tensor(value) for name, value in stored.items() if isinstance(value, list) and not isinstance(value[0], dict)}


def gradients(loss: Tensor, **leaves: Tensor) -> dict[str, Tensor]:
    return {f"d_{name}": found for name, found in zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True)}


def masked_mean(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    return (values_BT * mask_BT).sum() / mask_BT.sum()


def assert_stored(found: dict[str, Tensor], case: dict[str, Any], within: Any = exact) -> None:
    for name, value in found.items():
        close(value.detach(), tensor(case[name]), **within, msg=lambda text, name=name: f"{name}: {text}")


def test_the_numbers_come_from_the_releases_that_are_meant() -> None:
    releases = {file.stem: oracle(file.stem)["made_by"]["trl"] for file in ORACLES.glob("*.json")}
    last_with_ppo = {"ppo", "dpo_smoothed"}
    assert releases == {
        name: "0.19.1" if name in last_with_ppo else "1.16.0"
        for name in [*last_with_ppo, "dpo", "grpo", "log_probs", "reward_model", "sft"]
    }


# log-probabilities and supervised fine-tuning


@pytest.mark.parametrize("chunk_tokens", [None, 5])
@pytest.mark.parametrize("case", cases("log_probs"))
def test_log_probs_and_entropies(case: dict[str, Any], chunk_tokens: int | None) -> None:
    inputs = tensors(oracle("log_probs")["inputs"])
    hidden_ND, head_VD = inputs["hidden"].requires_grad_(), inputs["head"].requires_grad_()
    found_N, entropies_N = log_probs(hidden_ND, head_VD, inputs["targets"], case["temperature"], chunk_tokens=chunk_tokens)
    total = (found_N * inputs["weights"] + entropies_N * inputs["entropy_weights"]).sum()
    assert_stored({"log_probs": found_N, "entropies": entropies_N, **gradients(total, hidden=hidden_ND, head=head_VD)}, case)


@pytest.mark.parametrize("case", cases("sft"))
def test_a_demonstration_is_trained_on_its_reply_alone(case: dict[str, Any]) -> None:
    inputs = tensors({name: value for name, value in case.items() if name != "rows"})
    hidden_BTD, head_VD = inputs["hidden"].requires_grad_(), inputs["head"].requires_grad_()
    targets_BT = torch.full_like(inputs["ids"], IGNORE)
    for row, demonstration in enumerate(case["rows"]):
        for t, (token, is_reply) in enumerate(zip(demonstration["input_ids"], demonstration["completion_mask"], strict=True)):
            if is_reply:
                targets_BT[row, t - 1] = token
    loss = next_token(hidden_BTD, head_VD, targets_BT) / (targets_BT != IGNORE).sum()
    assert_stored({"loss": loss, **gradients(loss, hidden=hidden_BTD, head=head_VD)}, case)


# preferences


def reply_log_probs(hidden_BTD: Tensor, head_VD: Tensor, ids_BT: Tensor, mask_BT: Tensor, mean: bool) -> Tensor:
    """Of each sequence the sum, or the mean, over its reply."""
    found_N, _ = log_probs(hidden_BTD[:, :-1].flatten(0, 1), head_VD, ids_BT[:, 1:].flatten())
    sums_B = (found_N.view_as(mask_BT[:, 1:]) * mask_BT[:, 1:]).sum(1)
    return sums_B / mask_BT.sum(1) if mean else sums_B


@pytest.mark.parametrize("case", cases("dpo"))
def test_dpo_from_hidden_states_to_their_gradients(case: dict[str, Any]) -> None:
    inputs = tensors(oracle("dpo")["inputs"])
    hidden_BTD, head_VD = inputs["hidden"].requires_grad_(), inputs["head"].requires_grad_()
    rest = (inputs["ids"], inputs["completion_mask"], case["kind"] == "ipo")
    chosen_B, rejected_B = reply_log_probs(hidden_BTD, head_VD, *rest).chunk(2)
    reference_chosen_B, reference_rejected_B = reply_log_probs(inputs["reference_hidden"], head_VD.detach(), *rest).chunk(2)
    references = (reference_chosen_B, reference_rejected_B)
    loss = dpo_loss(chosen_B, rejected_B, *references, case["beta"], case["kind"], case["label_smoothing"]).mean()
    assert_stored({"loss": loss, **gradients(loss, hidden=hidden_BTD, head=head_VD)}, case)


@pytest.mark.parametrize("case", [case for case in cases("dpo") if "ipo" not in str(case.id)])
def test_rewards_of_dpo(case: dict[str, Any]) -> None:
    """What is logged: beta times the log ratio, its margin, and how often the chosen reply has more of it."""
    inputs = tensors(oracle("dpo")["inputs"])
    policy_B, reference_B = (
        reply_log_probs(inputs[name], inputs["head"], inputs["ids"], inputs["completion_mask"], mean=False)
        for name in ("hidden", "reference_hidden")
    )
    chosen_B, rejected_B = (case["beta"] * (policy_B - reference_B)).chunk(2)
    logged = case["metrics"]
    assert chosen_B.mean().item() == pytest.approx(logged["rewards/chosen"], rel=1e-6)
    assert (chosen_B - rejected_B).mean().item() == pytest.approx(logged["rewards/margins"], rel=1e-6)
    assert (chosen_B > rejected_B).double().mean().item() == pytest.approx(logged["rewards/accuracies"], rel=1e-6)


@pytest.mark.parametrize("case", cases("dpo_smoothed"))
def test_dpo_of_each_pair_and_label_smoothing(case: dict[str, Any]) -> None:
    inputs = tensors(oracle("dpo_smoothed")["inputs"])
    chosen_B, rejected_B = inputs["chosen"].requires_grad_(), inputs["rejected"].requires_grad_()
    references = (inputs["reference_chosen"], inputs["reference_rejected"])
    losses_B = dpo_loss(chosen_B, rejected_B, *references, case["beta"], case["kind"], case["label_smoothing"])
    assert_stored({"losses": losses_B, **gradients(losses_B.sum(), chosen=chosen_B, rejected=rejected_B)}, case)


@pytest.mark.parametrize("case", cases("reward_model"))
def test_the_reward_model_with_margins_and_centring(case: dict[str, Any]) -> None:
    inputs = tensors(oracle("reward_model")["inputs"])
    scores_B = inputs["scores"].requires_grad_()
    chosen_B, rejected_B = scores_B.chunk(2)
    loss = preference_loss(chosen_B, rejected_B, inputs["margins"] if case["margins"] else None).mean()
    loss = loss + case["centring"] * (chosen_B + rejected_B).square().mean()
    assert_stored({"loss": loss, **gradients(loss, scores=scores_B)}, case)


# group-relative policy optimisation


NORMALISED: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {  # by the kind of loss: (losses_BT, mask_BT, longest reply allowed)
    "grpo": lambda losses_BT, mask_BT, _: ((losses_BT * mask_BT).sum(1) / mask_BT.sum(1).clamp(min=1)).mean(),
    "bnpo": lambda losses_BT, mask_BT, _: masked_mean(losses_BT, mask_BT),
    "dapo": lambda losses_BT, mask_BT, _: masked_mean(losses_BT, mask_BT),  # of the whole optimizer step: here all there is
    "dr_grpo": lambda losses_BT, mask_BT, longest: (losses_BT * mask_BT).sum() / (len(mask_BT) * longest),
}


@pytest.mark.parametrize("case", [case for case in cases("grpo") if "advantages" not in str(case.id)])
def test_grpo(case: dict[str, Any]) -> None:
    inputs = tensors(oracle("grpo")["inputs"])
    log_probs_BT, mask_BT = inputs["log_probs"].requires_grad_(), inputs["mask"]
    advantages_B1 = inputs["advantages"][:, None]
    losses_BT = clipped_policy_loss(log_probs_BT, inputs["old_log_probs"], advantages_B1, case["clip_low"], case["clip_high"])
    kl_BT = kl_estimate(log_probs_BT, inputs["reference_log_probs"], "k3")
    if case["kl_weighted_by_ratio"]:  # TRL's default since DeepSeek-V3.2 (arXiv 2512.02556)
        kl_BT = kl_BT * (log_probs_BT - inputs["old_log_probs"]).exp()
    loss = NORMALISED[case["kind"]](losses_BT + case["beta"] * kl_BT, mask_BT, case["max_reply_length"])
    assert_stored({"loss": loss, **gradients(loss, log_probs=log_probs_BT)}, case)
    if case["beta"]:
        assert masked_mean(kl_BT, mask_BT).item() == pytest.approx(case["metrics"]["kl"], rel=1e-6)


@pytest.mark.parametrize("case", [case for case in cases("grpo") if "advantages" in str(case.id)])
def test_advantages_within_groups(case: dict[str, Any]) -> None:
    """A reply that nobody judged is null there and NaN here."""
    rewards_PG = tensor([[float("nan") if reward is None else reward for reward in group] for group in case["rewards"]])
    assert_stored({"advantages": group_advantages(rewards_PG, case["scale"])}, case, rounded)


# proximal policy optimisation


PPO = cases("ppo")


@pytest.mark.parametrize("case", PPO)
def test_kl_penalties(case: dict[str, Any]) -> None:
    stored = tensors(case)
    kept_BT = ~stored["padding_mask"]
    kl_BT = kl_estimate(stored["logprobs"], stored["ref_logprobs"], case["settings"]["kl_estimator"])
    close(kl_BT * kept_BT, stored["kl"] * kept_BT, **exact)
    assert (kl_BT * kept_BT).sum(1).mean().item() == pytest.approx(case["metrics"]["objective/kl"], rel=1e-6)


@pytest.mark.parametrize("case", PPO)
def test_a_reply_without_an_end_is_penalised(case: dict[str, Any]) -> None:
    stored = tensors(case)
    ended_B = (stored["replies"] == case["settings"]["end"]).any(1)
    assert 0 < ended_B.sum() < len(ended_B)
    close(stored["scores_before_penalty"] - case["settings"]["missing_eos_penalty"] * ~ended_B, stored["scores"], **exact)


def test_rewards_are_theirs_where_the_reply_fills_its_length() -> None:
    """The score goes on a reply's last token; TRL puts it one place later where there is one, which is padding."""
    case = oracle("ppo")["plain"]
    stored = tensors(case)
    kept_BT = ~stored["padding_mask"]
    rewards_BT = -case["settings"]["kl_coef"] * kl_estimate(stored["logprobs"], stored["ref_logprobs"], "k1") * kept_BT
    lengths_B = kept_BT.sum(1)
    rewards_BT[torch.arange(len(lengths_B)), lengths_B - 1] += stored["scores"]
    full_B = lengths_B == kept_BT.shape[1]
    assert 0 < full_B.sum() < len(full_B)
    close(rewards_BT[full_B], stored["rewards"][full_B], **exact)
    close(rewards_BT.sum(1), stored["rewards"].sum(1), **exact)
    for row in (~full_B).nonzero().flatten().tolist():
        close(stored["rewards"][row, lengths_B[row]], stored["scores"][row], **exact)


@pytest.mark.parametrize("case", PPO)
def test_advantages_and_returns(case: dict[str, Any]) -> None:
    """Over the places where TRL has a value, which is one more than a reply has tokens."""
    stored, settings = tensors(case), case["settings"]
    mask_BT = ~stored["padding_mask_p1"]
    advantages_BT, returns_BT = generalised_advantages(stored["rewards"], stored["values"], mask_BT, settings["gamma"], settings["lam"])
    close(returns_BT, stored["returns"], **exact)
    close(advantages_BT, tensor(case["whitened"][-1]["values"]), **exact)


@pytest.mark.parametrize("case", [whitened for case in PPO for whitened in case.values[0]["whitened"]])
def test_whitening(case: dict[str, Any]) -> None:
    stored = tensors(case)
    close(whiten(stored["values"], stored["mask"], case["shift_mean"]), stored["whitened"] * stored["mask"], **rounded)


@pytest.mark.parametrize("case", PPO)
def test_policy_and_value_losses_of_each_step(case: dict[str, Any]) -> None:
    """With their gradients, from the first step (ratio 1) to the last, and how often the bounds decided."""
    stored, settings = tensors(case), case["settings"]
    advantages_BT = whiten(tensor(case["whitened"][-1]["values"]), ~stored["padding_mask"])
    clipped = []
    for step in case["steps"]:
        rows, found = step["rows"], tensors({name: value for name, value in step.items() if name != "rows"})
        kept_BT, valued_BT = ~stored["padding_mask"][rows], ~stored["padding_mask_p1"][rows]
        new_BT, values_BT = found["new_logprobs"].requires_grad_(), found["vpred"].requires_grad_()
        surrogate = (new_BT, stored["logprobs"][rows], advantages_BT[rows])
        policy_BT = clipped_policy_loss(*surrogate, settings["cliprange"], settings["cliprange"])
        value_BT = clipped_value_loss(values_BT, stored["values"][rows], stored["returns"][rows], settings["cliprange_value"])
        policy, value = masked_mean(policy_BT, kept_BT), masked_mean(value_BT, valued_BT)
        total = policy + settings["vf_coef"] * value
        assert_stored({"pg_loss": policy, "vf_loss": value, **gradients(total, new_logprobs=new_BT, vpred=values_BT)}, step, rounded)
        unclipped_BT = clipped_policy_loss(*surrogate, 1.0, float("inf"))
        clipped.append(masked_mean((policy_BT > unclipped_BT + 1e-9).double(), kept_BT).item())
    assert sum(clipped) / len(clipped) == pytest.approx(case["metrics"]["policy/clipfrac_avg"], rel=1e-6)


def test_the_stored_update_reaches_the_bounds() -> None:
    """Otherwise the test above would say little."""
    metrics = oracle("ppo")["plain"]["metrics"]
    assert metrics["policy/clipfrac_avg"] > 0.1
    assert metrics["val/clipfrac_avg"] > 0.1


class Update:
    """TRL's stored update made again with our network and losses."""

    def __init__(self, case: dict[str, Any]) -> None:
        self.case, self.stored, self.settings = case, tensors(case), case["settings"]
        self.form = GPT2()
        self.sizes = self.form.from_config(case["policy"]["config"])
        self.network = Transformer(*self.sizes).double().eval()
        self.network.load_state_dict(self.to_ours("before"))
        self.kept_BT = ~self.stored["padding_mask"]
        self.advantages_BT = whiten(tensor(case["whitened"][-1]["values"]), self.kept_BT)

    def to_ours(self, name: str) -> dict[str, Tensor]:
        return self.form.to_ours(tensors(self.case["policy"][name]), self.sizes)

    def log_probs(self, rows: list[int]) -> Tensor:
        """Of replies, 0 at padding: each sequence by itself, without any padding."""
        found_BT = torch.zeros(len(rows), self.kept_BT.shape[1], dtype=torch.float64)
        for place, row in enumerate(rows):
            query, reply = self.stored["queries"][row], self.stored["replies"][row][self.kept_BT[row]]
            ids = torch.cat([query[query != self.settings["pad"]], reply])
            hidden_TD = self.network(ids[None, :-1])[0, -len(reply) :]
            found_BT[place, : len(reply)] = log_probs(
                hidden_TD, self.network.head_weight_VD, reply, self.settings["temperature"]
            ).log_probs_N
        return found_BT

    def gradients(self, rows: list[int]) -> dict[str, Tensor]:
        """Of the policy's loss over a minibatch."""
        old_BT, kept_BT, clip = self.stored["logprobs"][rows], self.kept_BT[rows], self.settings["cliprange"]
        losses_BT = clipped_policy_loss(self.log_probs(rows), old_BT, self.advantages_BT[rows], clip, clip)
        parameters = dict(self.network.named_parameters())
        found = torch.autograd.grad(masked_mean(losses_BT, kept_BT), list(parameters.values()))
        return dict(zip(parameters, found, strict=True))


def test_log_probs_of_a_rollout_are_those_of_the_network() -> None:
    """Left-padded queries of different lengths there, no padding here; temperature 0.8; learned positions, which show a shift."""
    update = Update(oracle("ppo")["plain"])
    rows = list(range(len(update.kept_BT)))
    found_BT = update.log_probs(rows)
    close(found_BT, update.stored["logprobs"] * update.kept_BT, rtol=0, atol=2e-6)  # TRL divides by the temperature plus 1e-7


def test_a_whole_update_ends_at_their_weights() -> None:
    """Two epochs of two minibatches: the first gradient and the weights afterwards."""
    update = Update(oracle("ppo")["plain"])
    for number, step in enumerate(update.case["steps"]):
        gradients = update.gradients(step["rows"])
        if number == 0:
            for name, expected in update.to_ours("first_gradient").items():
                close(gradients[name], expected, rtol=0, atol=1e-6)
        with torch.no_grad():
            for name, parameter in update.network.named_parameters():
                parameter -= update.settings["learning_rate"] * gradients[name]
    before, after, found = update.to_ours("before"), update.to_ours("after"), update.network.state_dict()
    for name, expected in after.items():
        assert (expected - before[name]).abs().max() > 1e-3
        close(found[name], expected, rtol=0, atol=1e-6)
