"""Makes dpo.json, grpo.json, reward_model.json, sft.json and log_probs.json: what TRL's code computes on random numbers.

    python tests/oracles/make_trl.py        in a Python with torch 2.13.0, trl 1.16.0 and transformers 5.23

The trainers are TRL's own, their losses called as they are, in float64; only the network is a stand-in that answers with given
numbers, so that gradients with respect to them can be kept.

Shape legend: B sequences, T tokens, D width, V vocabulary, P prompts, G replies to each.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from datasets import Dataset
from recording import Draw, write
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer
from trl.trainer.utils import entropy_from_logits, selective_log_softmax

B, T, D, V = 3, 7, 5, 11
PAD, END = 0, 1
FOLDER = tempfile.mkdtemp(prefix="oracles-")
COMMON: dict[str, Any] = {"output_dir": FOLDER, "use_cpu": True, "report_to": [], "per_device_train_batch_size": B, "save_strategy": "no"}


def tokenizer() -> PreTrainedTokenizerFast:
    """One word, one id."""
    words = Tokenizer(models.WordLevel({f"w{number}": number for number in range(V)}, unk_token="w2"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token=f"w{PAD}", eos_token=f"w{END}")


def network(kind: Any = GPT2LMHeadModel, **settings: Any) -> Any:
    """A tiny one, which a trainer is built around."""
    config = GPT2Config(vocab_size=V, n_positions=32, n_embd=8, n_layer=1, n_head=1, bos_token_id=None, eos_token_id=END, **settings)
    return kind(config)


class Scored:
    """Answers as a network with TRL's fused output matrix does: log-probabilities and the rest from logits, 0 where the label is -100."""

    def __init__(self, logits_BTV: Tensor) -> None:
        self._logits_BTV = logits_BTV

    def __call__(self, labels: Tensor, **_: Any) -> Any:
        logits_BTV, targets_BT = self._logits_BTV[:, :-1], labels[:, 1:]
        kept_BT = targets_BT != -100
        clamped_BT = targets_BT.clamp(min=0)
        return SimpleNamespace(
            log_probs=selective_log_softmax(logits_BTV, clamped_BT).masked_fill(~kept_BT, 0),
            entropy=entropy_from_logits(logits_BTV.detach()).masked_fill(~kept_BT, 0),
            mean_logits=logits_BTV.detach().mean(-1),
            is_top1=(logits_BTV.argmax(-1) == clamped_BT) & kept_BT,
            label_mask=kept_BT,
        )


def gradients(loss: Tensor, **leaves: Tensor) -> dict[str, Tensor]:
    """Of the loss, by name."""
    return {f"d_{name}": found for name, found in zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True)}


def metrics(trainer: Any) -> dict[str, float]:
    """What the trainer would log of its last loss."""
    return {name: values[-1] for name, values in trainer._metrics["train"].items() if "/" in name or name in ("accuracy", "margin", "kl")}


def log_probs() -> dict[str, Any]:
    """Log-probabilities and entropies of drawn tokens at three temperatures, and gradients of a weighted sum of both."""
    draw = Draw(1)
    hidden_ND, head_VD, targets_N = draw.normal(B * T, D).requires_grad_(), draw.normal(V, D).requires_grad_(), draw.ids(V, B * T)
    weights_N, entropy_weights_N = draw.normal(B * T), draw.normal(B * T)
    inputs = {"hidden": hidden_ND, "head": head_VD, "targets": targets_N, "weights": weights_N, "entropy_weights": entropy_weights_N}
    cases: dict[str, Any] = {"inputs": inputs}
    for temperature in (1.0, 0.7, 1.5):
        logits_NV = hidden_ND @ head_VD.T / temperature
        found_N, entropies_N = selective_log_softmax(logits_NV, targets_N), entropy_from_logits(logits_NV)
        total = (found_N * weights_N + entropies_N * entropy_weights_N).sum()
        cases[f"temperature {temperature}"] = {
            "temperature": temperature,
            "log_probs": found_N,
            "entropies": entropies_N,
            **gradients(total, hidden=hidden_ND, head=head_VD),
        }
    return cases


def sft() -> dict[str, Any]:
    """Completion-only loss of three demonstrations of different lengths, from the trainer's own masks and padding."""
    draw = Draw(2)
    prompts, lengths = (2, 1, 3), (7, 4, 6)
    rows = [
        {"input_ids": draw.ids(V, n, low=2).tolist(), "completion_mask": [int(t >= p) for t in range(n)]} for p, n in zip(prompts, lengths)
    ]
    trainer = SFTTrainer(
        network(), SFTConfig(**COMMON, completion_only_loss=True), train_dataset=Dataset.from_list(rows), processing_class=tokenizer()
    )
    batch = trainer.data_collator([trainer.train_dataset[number] for number in range(B)])
    hidden_BTD, head_VD = draw.normal(B, T, D).requires_grad_(), draw.normal(V, D).requires_grad_()
    loss = trainer.compute_loss(Scored(hidden_BTD @ head_VD.T), dict(batch))
    inputs = {"rows": rows, "ids": batch["input_ids"], "labels": batch["labels"], "hidden": hidden_BTD, "head": head_VD}
    return {"completion only": {**inputs, "loss": loss, **gradients(loss, hidden=hidden_BTD, head=head_VD)}}


def dpo() -> dict[str, Any]:
    """Each loss over the same pairs: the first B sequences are the chosen ones, the others the rejected ones."""
    draw = Draw(3)
    hidden_BTD, head_VD = draw.normal(2 * B, T, D).requires_grad_(), draw.normal(V, D).requires_grad_()
    reference_BTD = hidden_BTD.detach() + draw.normal(2 * B, T, D, scale=0.3)
    rows = [
        {f"{part}_ids": draw.ids(V, length, low=2).tolist() for part, length in zip(("prompt", "chosen", "rejected"), lengths)}
        for lengths in ((2, 5, 3), (3, 1, 4), (1, 4, 4))
    ]
    cases: dict[str, Any] = {}
    settings = [("sigmoid", 0.0), ("hinge", 0.0), ("ipo", 0.0), ("robust", 0.2)]
    for kind, smoothing in settings:
        for beta in (0.1, 0.5):
            config = DPOConfig(**COMMON, loss_type=[kind], beta=beta, label_smoothing=smoothing)
            words = Dataset.from_list([{"prompt": "w3", "chosen": "w4", "rejected": "w5"}] * B)
            trainer = DPOTrainer(network(), network(), config, train_dataset=words, processing_class=tokenizer())
            batch = trainer.data_collator(rows)
            trainer.ref_model = Scored(reference_BTD @ head_VD.detach().T)
            scored = Scored(hidden_BTD @ head_VD.T)
            loss = trainer._compute_loss(scored, dict(batch), return_outputs=False)
            cases[f"{kind}, beta {beta}"] = {
                "kind": kind,
                "beta": beta,
                "label_smoothing": smoothing,
                "loss": loss,
                "metrics": metrics(trainer),
                **gradients(loss, hidden=hidden_BTD, head=head_VD),
            }
    inputs = {"ids": batch["input_ids"], "completion_mask": batch["completion_mask"], "hidden": hidden_BTD, "head": head_VD}
    return {"inputs": {**inputs, "reference_hidden": reference_BTD}, **cases}


def reward_model() -> dict[str, Any]:
    """Pairwise loss with and without margins and centring; scores are the chosen ones, then the rejected ones."""
    draw = Draw(4)
    scores_B, margins_B = draw.normal(2 * B, scale=2.0).requires_grad_(), draw.normal(B).abs()
    cases: dict[str, Any] = {"inputs": {"scores": scores_B, "margins": margins_B}}
    for with_margin in (False, True):
        for centring in (None, 0.01):
            words = Dataset.from_list([{"prompt": "w3", "chosen": "w4", "rejected": "w5"}] * B)
            config = RewardConfig(**COMMON, center_rewards_coefficient=centring)
            model = network(GPT2ForSequenceClassification, num_labels=1, pad_token_id=PAD)
            trainer = RewardTrainer(model, config, train_dataset=words, processing_class=tokenizer())
            batch = {"attention_mask": torch.ones(2 * B, T), **({"margin": margins_B} if with_margin else {})}
            loss = trainer.compute_loss(lambda **_: SimpleNamespace(logits=scores_B[:, None]), batch)
            name = f"{'margins' if with_margin else 'no margins'}, centring {centring or 0}"
            found = {"loss": loss, "metrics": metrics(trainer), **gradients(loss, scores=scores_B)}
            cases[name] = {"margins": with_margin, "centring": centring or 0.0, **found}
    return cases


def grpo_trainer(**settings: Any) -> Any:
    """A real one over a tiny network; rewards are what `given` holds."""
    defaults: dict[str, Any] = {**COMMON, "per_device_train_batch_size": 4, "num_generations": 2, "max_completion_length": 8}
    rows = Dataset.from_list([{"prompt": "w3 w4"}] * 4)
    config = GRPOConfig(**{**defaults, **settings})
    network().save_pretrained(f"{FOLDER}/model")  # the trainer loads its reference from a directory
    model = GPT2LMHeadModel.from_pretrained(f"{FOLDER}/model")
    trainer = GRPOTrainer(
        model, lambda completions, **_: [0.0] * len(completions), config, train_dataset=rows, processing_class=tokenizer()
    )
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    return trainer


def grpo() -> dict[str, Any]:
    """Every kind of normalisation, clip and KL over the same replies, the last of which is masked out as a truncated one is."""
    draw = Draw(5)
    size = 4
    log_probs_BT = draw.normal(size, T).abs().neg().requires_grad_()
    old_BT, reference_BT = (log_probs_BT.detach() + draw.normal(size, T, scale=0.4) for _ in range(2))
    advantages_B = torch.tensor([1.25, -0.75, 0.5, -1.0], dtype=torch.float64)
    mask_BT = (torch.arange(T)[None] < torch.tensor([[4], [7], [2], [0]])).long()
    inputs = {
        "log_probs": log_probs_BT,
        "old_log_probs": old_BT,
        "reference_log_probs": reference_BT,
        "advantages": advantages_B,
        "mask": mask_BT,
    }
    cases: dict[str, Any] = {"inputs": inputs}
    for kind in ("grpo", "bnpo", "dr_grpo", "dapo"):
        for high, beta, corrected in ((0.2, 0.0, False), (0.28, 0.0, False), (0.2, 0.04, False), (0.2, 0.04, True)):
            trainer = grpo_trainer(loss_type=kind, epsilon=0.2, epsilon_high=high, beta=beta, use_bias_correction_kl=corrected)
            zeros_BT = torch.zeros(size, T, dtype=torch.float64)
            trainer._get_per_token_logps_and_entropies = lambda *_, zeros_BT=zeros_BT, **__: (log_probs_BT, zeros_BT, None)
            batch = {
                "prompt_ids": torch.full((size, 1), 3),
                "prompt_mask": torch.ones(size, 1, dtype=torch.long),
                "completion_ids": torch.full((size, T), 4),
                "completion_mask": mask_BT,
                "advantages": advantages_B,
                "old_per_token_logps": old_BT,
                "ref_per_token_logps": reference_BT,
                "num_items_in_batch": mask_BT.sum(),
            }
            loss = trainer._compute_loss(trainer.model, batch)
            cases[f"{kind}, clip_high {high}, beta {beta}{', weighted by the ratio' * corrected}"] = {
                "kind": kind,
                "clip_low": 0.2,
                "clip_high": high,
                "beta": beta,
                "kl_weighted_by_ratio": corrected,
                "max_reply_length": 8,
                "loss": loss,
                "metrics": metrics(trainer),
                **gradients(loss, log_probs=log_probs_BT),
            }
    return {**cases, **{f"advantages, scale_rewards {scale}": group_advantages(scale) for scale in ("group", "none")}}


def group_advantages(scale: str) -> dict[str, Any]:
    """Of groups with a spread, with two values, without any spread, and with a reply that nobody judged (null)."""
    rewards_PG = torch.cat([Draw(6).normal(1, 4), torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.5] * 4, [2.0, float("nan"), -1.0, 0.5]]).double()])
    trainer = grpo_trainer(scale_rewards=scale, num_generations=4, per_device_train_batch_size=16)
    trainer._calculate_rewards = lambda *_: rewards_PG.reshape(-1, 1)
    trainer.reward_weights = trainer.reward_weights.double()
    rows: list[dict[str, Any]] = [{"prompt": "w3 w4"}] * 16
    found = trainer._generate_and_score_completions(rows)["advantages"]
    rewards: list[list[float | None]] = [[None if reward != reward else reward for reward in group] for group in rewards_PG.tolist()]
    return {"scale": scale == "group", "rewards": rewards, "advantages": found.view(4, 4)}


def main() -> None:
    """Write all files."""
    torch.set_num_threads(1)
    makers: dict[str, Callable[[], dict[str, Any]]] = {
        "log_probs": log_probs,
        "sft": sft,
        "dpo": dpo,
        "reward_model": reward_model,
        "grpo": grpo,
    }
    for name, make in makers.items():
        write(name, make())


if __name__ == "__main__":
    main()
