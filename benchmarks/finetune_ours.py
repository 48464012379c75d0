"""Our contenders of fine-tuning: the recipes through the command line, with loader, hooks, log and bar, and raw loops of their parts.

No validation and no checkpoints, because they are not part of the steady state; logging as it is by default, every 20 steps.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from finetune_rounds import Counted, Every
from lightning.pytorch.callbacks import Callback
from peers.models import LEARNING_RATE

LORA = {"rank": 8, "alpha": 16.0, "targets": "all-linear"}
_begin: Callable[[Any], None]  # told each batch; where a contender put it before the command line made the callback
_rounds: Any


class Tell(Callback):
    """Says where a step begins."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Say how large what is trained is."""
        _rounds.note(parameters=sum(parameter.numel() for parameter in pl_module.network.parameters() if parameter.requires_grad))

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """A step begins (no accumulation here)."""
        _begin(batch)


def run(rounds: Any, begin: Callable[[Any], None], directory: str, name: str, model: dict[str, Any], data: dict[str, Any]) -> None:
    """Run `framework fit` until the process is ended."""
    from framework.__main__ import main

    global _begin, _rounds
    _begin, _rounds = begin, rounds
    folder = Path(directory)
    os.environ["FRAMEWORK_CACHE"] = str(folder / "cache")
    model["init_args"]["optimizer"] = {"class_path": "AdamW", "init_args": {"lr": LEARNING_RATE}}
    data["init_args"]["validation_fraction"] = 0
    config = {
        "init_from": directory,
        "model": model,
        "data": data,
        "trainer": {"accelerator": "cpu", "max_steps": 10**7, "limit_val_batches": 0, "callbacks": [{"class_path": "finetune_ours.Tell"}]},
        "checkpoints": {"every_n_steps": 0},
    }
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    raise SystemExit(main(["fit", "--config", str(file), "--runs_dir", str(folder / "runs"), "--name", name]))


def part(name: str, **init_args: Any) -> dict[str, Any]:
    """A part of a configuration."""
    return {"class_path": name, "init_args": init_args}


def records(directory: str, name: str) -> dict[str, Any]:
    """NAME.jsonl."""
    return part("JsonLines", paths=str(Path(directory) / f"{name}.jsonl"))


def tokens(batch: Any) -> int:
    """Of a packed batch, without padding: the inputs, and the last token of each demonstration, which is a target only."""
    return int((batch.documents_BT >= 0).sum() + (batch.documents_BT.amax(1) + 1).sum())


def sft(rounds: Any, name: str, directory: str, batch_size: int, context_length: int, warm_up: int, steps: int, lora: bool = False) -> None:
    """The recipe SFT, packed; with `lora` only an adapter is trained."""
    begin = Counted(rounds, name, warm_up, steps)
    model = part("SFT", **({"network": part("LoRA", **LORA)} if lora else {}))
    dataset = records(directory, "demonstrations")
    data = part("Demonstrations", dataset=dataset, context_length=context_length, batch_size=batch_size, packing=True)
    run(rounds, lambda batch: begin(tokens(batch)), directory, f"sft-{lora}", model, data)


def dpo(rounds: Any, directory: str, batch_size: int, context_length: int, precomputed: bool = False) -> None:
    """The recipe DPO, sigmoid loss, beta 0.1."""
    reference = "precomputed" if precomputed else "live"
    data = part("Preferences", dataset=records(directory, "preferences"), context_length=context_length, batch_size=batch_size)
    run(rounds, lambda _: rounds(), directory, f"dpo-{reference}", part("DPO", beta=0.1, reference=reference), data)


def prompts(directory: str, context_length: int, batch_size: int, reply_length: int) -> dict[str, Any]:
    """What is answered."""
    dataset = records(directory, "prompts")
    return part("Prompts", dataset=dataset, context_length=context_length, max_new_tokens=reply_length, batch_size=batch_size)


def grpo(rounds: Any, directory: str, batch_size: int, generations: int, reply_length: int, context_length: int) -> None:
    """The recipe GRPO with a reward function, no KL, one optimizer step for each batch of replies."""
    settings = {"rollout_size": batch_size, "num_generations": generations, "temperature": 1.0, "beta": 0.0, "old_log_probs": "engine"}
    model = part("GRPO", rewards=[part("Brevity", free=0)], max_running=batch_size, **settings)
    run(rounds, lambda _: rounds(), directory, "grpo", model, prompts(directory, context_length, batch_size, reply_length))


def ppo(
    rounds: Any,
    directory: str,
    rollout_size: int,
    mini_batches: int,
    epochs: int,
    reply_length: int,
    temperature: float,
    context_length: int,
    critic: str = "policy",
) -> None:
    """The recipe PPO, judged by a reward model; an update is a rollout and its epochs of minibatches."""
    begin = Every(rounds, mini_batches * epochs)
    settings = {
        "rollout_size": rollout_size,
        "num_ppo_epochs": epochs,
        "temperature": temperature,
        "critic": critic,
        "old_log_probs": "engine",
    }
    model = part("PPO", reward_model=str(Path(directory) / "reward_model"), max_running=rollout_size, max_kl=1e9, **settings)
    data = prompts(directory, context_length, rollout_size // mini_batches, reply_length)
    run(rounds, lambda _: begin(), directory, f"ppo-{critic}", model, data)


def lora_loop(rounds: Any, directory: str, batch_size: int, context_length: int, vocab_size: int) -> None:
    """A LoRA network in a raw loop, with the chunked loss and our AdamW, on random ids."""
    import torch

    from framework.checkpoint import load_network
    from framework.losses import next_token
    from framework.networks.lora import LoRA
    from framework.optimizers.adamw import AdamW
    from framework.optimizers.groups import parameter_groups

    network = LoRA(lambda **_: load_network(Path(directory)), **LORA).train()  # type: ignore[arg-type]
    optimizer = AdamW(parameter_groups(network.named_parameters(), network.roles()), lr=LEARNING_RATE)
    rounds.note(parameters=sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad))
    generator = torch.Generator().manual_seed(0)
    while True:
        rounds()
        ids_BT = torch.randint(vocab_size, (batch_size, context_length), generator=generator)
        loss = next_token(network(ids_BT[:, :-1]), network.head_weight_VD, ids_BT[:, 1:]) / ids_BT[:, 1:].numel()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def generate(rounds: Any, directory: str, batch_size: int, prompt_length: int, reply_length: int, vocab_size: int) -> None:
    """What PPO and GRPO write with: the engine, sampling from the whole distribution, log-probabilities kept."""
    import itertools

    import torch

    from framework.checkpoint import load_network
    from framework.recipes.writer import Writer

    writer = Writer(load_network(Path(directory)), (), reply_length, 1.0, batch_size, vocab_size)
    generator = torch.Generator().manual_seed(0)
    for number in itertools.count():
        rounds()
        ids = torch.randint(vocab_size - 2, (batch_size, prompt_length), generator=generator).tolist()
        writer.write(ids, [number * batch_size + row for row in range(batch_size)])
