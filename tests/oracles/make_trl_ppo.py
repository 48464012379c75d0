"""Makes ppo.json and dpo_smoothed.json: what the last TRL with PPO computes.

    python tests/oracles/make_trl_ppo.py        in a Python with torch 2.13.0, trl 0.19.1 and transformers 4.53

PPOTrainer runs one update of tiny float64 networks as it is. Only its generation is replaced, by replies of chosen lengths (some
end early, one at its last token, some never) with the log-probabilities of the policy; everything else is read where TRL has it:
in its functions' arguments and in the variables of its training loop.

Shape legend: B sequences, Q tokens of a query (padded on the left), T tokens of a reply (padded on the right), V vocabulary.
"""

from __future__ import annotations

import math
import sys
import tempfile
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from recording import Draw, write
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel, PreTrainedTokenizerFast
from trl import PPOConfig, PPOTrainer
from trl.core import masked_whiten
from trl.trainer import ppo_trainer
from trl.trainer.dpo_trainer import DPOTrainer

B, Q, T, V = 8, 4, 7, 11
PAD, END = 0, 1
SHAPE: dict[str, Any] = {
    "n_embd": 8,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 16,
    **dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), 0.0),
}
LEARNING_RATE = 0.05  # of plain gradient descent, large enough for ratios to leave the clip range
REPLY_LENGTHS = (7, 3, 7, 1, 5, 7, 2, 7)  # the end counted; which of them end: below
ENDS = (False, True, True, True, True, False, True, False)
QUERY_LENGTHS = (4, 2, 3, 4, 1, 2, 4, 3)


def network(kind: Any, draw: Draw) -> Any:
    """With weights of few decimals, so that JSON holds them exactly."""
    heads = {} if kind is GPT2LMHeadModel else {"num_labels": 1, "pad_token_id": PAD}
    made = kind(GPT2Config(vocab_size=V, bos_token_id=None, eos_token_id=END, **SHAPE, **heads)).double()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.copy_(draw.normal(*parameter.shape, scale=0.3) + (".ln_" in name and name.endswith("weight")))
    return made


def sequences(draw: Draw) -> tuple[Tensor, Tensor]:
    """Queries padded on the left and replies padded on the right."""
    queries_BQ, replies_BT = draw.ids(V, B, Q, low=2), draw.ids(V, B, T, low=2)
    for row, (query, reply, ends) in enumerate(zip(QUERY_LENGTHS, REPLY_LENGTHS, ENDS, strict=True)):
        queries_BQ[row, : Q - query] = PAD
        replies_BT[row, reply:] = PAD
        if ends:
            replies_BT[row, reply - 1] = END
    return queries_BQ, replies_BT


def tokenizer() -> PreTrainedTokenizerFast:
    """One word, one id."""
    words = Tokenizer(models.WordLevel({f"w{number}": number for number in range(V)}, unk_token="w2"))
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token=f"w{PAD}", eos_token=f"w{END}")


def locals_of_caller(depth: int) -> dict[str, Any]:
    """Copies of the tensors in the calling function of whoever calls this."""
    found = sys._getframe(depth + 1).f_locals
    return {name: value.detach().clone() for name, value in found.items() if isinstance(value, Tensor)}


class Recorder:
    """Stands between PPOTrainer and the functions it calls, and keeps what passes."""

    def __init__(self, trainer: Any, replies_BT: Tensor) -> None:
        self.trainer, self.replies_BT = trainer, replies_BT
        self.rollout: dict[str, Tensor] = {}
        self.whitened: list[dict[str, Any]] = []
        self.steps: list[dict[str, Any]] = []
        self.scores_before_penalty = torch.empty(0)
        self._backward = trainer.accelerator.backward
        trainer.accelerator.backward = self.backward
        trainer.log = self.log
        ppo_trainer.batch_generation = self.generation
        ppo_trainer.masked_whiten = self.whiten
        self._get_reward = ppo_trainer.get_reward
        ppo_trainer.get_reward = self.get_reward

    def generation(self, policy: Any, queries_BQ: Tensor, _: int, pad: int, __: Any) -> tuple[Tensor, Tensor]:
        """The given replies, and the logits they were drawn from."""
        ids = torch.cat([queries_BQ, self.replies_BT], 1)
        logits_BTV = ppo_trainer.forward(policy, ids, pad).logits[:, Q - 1 : -1] / (self.trainer.args.temperature + 1e-7)
        return ids, logits_BTV

    def get_reward(self, model: Any, *arguments: Any) -> Any:
        found = self._get_reward(model, *arguments)
        if model is self.trainer.reward_model:
            self.scores_before_penalty = found[1].clone()
        return found

    def whiten(self, values: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
        found = masked_whiten(values, mask, shift_mean)
        self.whitened.append({"values": values.clone(), "mask": mask.clone(), "shift_mean": shift_mean, "whitened": found.clone()})
        self.rollout |= locals_of_caller(1)  # the second call is for advantages, when all is there
        return found

    def backward(self, loss: Tensor) -> None:
        frame = sys._getframe(1).f_locals
        leaves = {name: frame[name] for name in ("new_logprobs", "vpred")}
        for leaf in leaves.values():
            leaf.retain_grad()
        self._backward(loss)
        policy = frame["model"].policy
        kept = ("new_logprobs", "vpred", "pg_loss", "vf_loss")
        self.steps.append(
            {
                "rows": frame["micro_batch_inds"].tolist(),
                **{name: frame[name].detach().clone() for name in kept},
                **{f"d_{name}": leaf.grad.clone() for name, leaf in leaves.items()},
                "policy_gradient": {name: parameter.grad.clone() for name, parameter in policy.named_parameters()},
            }
        )

    def log(self, metrics: dict[str, float]) -> None:
        self.metrics = {name: value for name, value in metrics.items() if "/" in name and math.isfinite(value)}


def update(name: str, num_epochs: int, num_mini_batches: int, temperature: float, whole: bool = False, **settings: Any) -> dict[str, Any]:
    """One PPO update; `whole` keeps the policy's weights before and after it and its first gradient, too."""
    draw = Draw(7)
    queries_BQ, replies_BT = sequences(draw)
    policy, reference = (network(GPT2LMHeadModel, draw) for _ in range(2))
    value, reward = (network(GPT2ForSequenceClassification, draw) for _ in range(2))
    before = {key: weight.detach().clone() for key, weight in policy.named_parameters()}
    config = PPOConfig(
        output_dir=tempfile.mkdtemp(prefix="oracles-"),
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        num_sample_generations=0,
        per_device_train_batch_size=B,  # with accumulation TRL steps less often than once a minibatch
        gradient_accumulation_steps=1,
        num_mini_batches=num_mini_batches,
        num_ppo_epochs=num_epochs,
        total_episodes=B,
        local_rollout_forward_batch_size=B,
        response_length=T,
        temperature=temperature,
        stop_token="eos",
        missing_eos_penalty=1.0,
        max_grad_norm=0.0,
        **settings,
    )
    optimizer = torch.optim.SGD([*policy.parameters(), *value.parameters()], lr=LEARNING_RATE)
    trainer = PPOTrainer(
        args=config,
        processing_class=tokenizer(),
        model=policy,
        ref_model=reference,
        reward_model=reward,
        value_model=value,
        train_dataset=[{"row": row} for row in range(B)],
        eval_dataset=[{"row": row} for row in range(B)],
        data_collator=lambda _: {"input_ids": queries_BQ},
        optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)),
    )
    recorder = Recorder(trainer, replies_BT)
    np.random.seed(0)
    trainer.train()
    rollout = recorder.rollout
    kept = ("logprobs", "ref_logprobs", "values", "scores", "kl", "rewards", "returns", "padding_mask", "padding_mask_p1")
    case: dict[str, Any] = {
        "settings": {
            **{key: getattr(config, key) for key in ("kl_coef", "kl_estimator", "cliprange", "vf_coef", "cliprange_value", "gamma", "lam")},
            **{key: getattr(config, key) for key in ("missing_eos_penalty", "temperature", "whiten_rewards")},
            "learning_rate": LEARNING_RATE,
            "pad": PAD,
            "end": END,
        },
        "queries": queries_BQ,
        "replies": replies_BT,
        "scores_before_penalty": recorder.scores_before_penalty,
        **{key: rollout[key] for key in kept},
        "whitened": recorder.whitened,
        "metrics": recorder.metrics,
        "steps": [{key: part for key, part in step.items() if key != "policy_gradient"} for step in recorder.steps],
    }
    if whole:
        tied = {key: weight for key, weight in before.items() if key != "lm_head.weight"}
        case["policy"] = {"config": {"vocab_size": V, **SHAPE}, "before": tied, "first_gradient": recorder.steps[0]["policy_gradient"]}
        case["policy"]["after"] = {key: weight.detach() for key, weight in policy.named_parameters()}
    return case


def dpo_smoothed() -> dict[str, Any]:
    """dpo_loss of one number a pair, with the label smoothing that later releases dropped for the sigmoid."""
    draw = Draw(8)
    names = ("chosen", "rejected", "reference_chosen", "reference_rejected")
    inputs = {name: draw.normal(5, scale=4.0).requires_grad_(not name.startswith("reference")) for name in names}
    cases: dict[str, Any] = {"inputs": inputs}
    for kind, smoothing in (("sigmoid", 0.0), ("sigmoid", 0.1), ("robust", 0.1), ("hinge", 0.0), ("ipo", 0.0)):
        settings = {
            "loss_type": kind,
            "beta": 0.3,
            "label_smoothing": smoothing,
            "reference_free": False,
            "f_divergence_type": "reverse_kl",
        }
        stand_in = SimpleNamespace(accelerator=SimpleNamespace(device="cpu"), **settings)
        losses, chosen_rewards, rejected_rewards = DPOTrainer.dpo_loss(stand_in, *inputs.values())
        gradients = torch.autograd.grad(losses.sum(), [inputs["chosen"], inputs["rejected"]])
        cases[f"{kind}, label_smoothing {smoothing}"] = {
            "kind": kind,
            "beta": 0.3,
            "label_smoothing": smoothing,
            "losses": losses,
            "chosen_rewards": chosen_rewards,
            "rejected_rewards": rejected_rewards,
            "d_chosen": gradients[0],
            "d_rejected": gradients[1],
        }
    return cases


def main() -> None:
    """Write both files."""
    torch.set_num_threads(1)
    plain = update("plain", num_epochs=2, num_mini_batches=2, temperature=0.8, whole=True, kl_coef=0.1, cliprange_value=0.05)
    whitening = {"kl_estimator": "k3", "whiten_rewards": True, "gamma": 0.98, "lam": 0.9}
    whitened = update("whitened", num_epochs=1, num_mini_batches=1, temperature=1.0, **whitening)
    write("ppo", {"plain": plain, "whitened rewards, k3": whitened})
    write("dpo_smoothed", dpo_smoothed())


if __name__ == "__main__":
    main()
