"""What fine-tuning is compared on: contenders, sizes and targets of each section, as the project's performance goals have them.

Options flow in, tables flow out. Needs nothing but the standard library: libraries live in the contenders' processes.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import HERE, Contender, Table, Target, compete, say

CONTEXT, VOCAB_SIZE = 256, 258  # tokens of a row; ids in use: bytes, end, padding
PROMPT, REPLY = 32, 32  # tokens, of the sections in which the policy writes
ROLLOUT, MINI_BATCHES, EPOCHS = 32, 4, 4
SMOL = "56.6M parameters (SmolLM2-135M, 8 of its 30 layers)"
BFD, WRAPPED = "TRL, packing bfd", "TRL, packing wrapped"


@dataclass(frozen=True)
class Options:
    """The command line's."""

    trl_python: str | None
    trl019_python: str | None
    rounds: int | None
    threads: int
    quick: bool
    directory: str

    def model(self, name: str) -> str:
        """Its directory, made when it is first asked for."""
        path = Path(self.directory) / name
        if not path.is_dir():
            say(f"model: {name}")
            program = [sys.executable, str(HERE / "finetune_models.py"), self.directory, name]
            subprocess.run(program, check=True, stdout=sys.stderr)
        return str(path)

    def trl(self, name: str, function: str, arguments: dict[str, Any], quick: bool = True) -> Contender | None:
        """TRL 1.16's, peft's or transformers', in their Python."""
        return Contender(name, f"peers.trl_trainers:{function}", arguments, self.trl_python, quick) if self.trl_python else None

    def run(self, title: str, unit: str, contenders: list[Contender | None], units: float, rounds: tuple[int, int], steps: int) -> Table:
        """`compete` among those that can; one step of warm-up, and rounds by whether it is to be quick."""
        chosen = [contender for contender in contenders if contender and (contender.quick or not self.quick)]
        return compete(title, unit, chosen, units, self.rounds or rounds[0 if self.quick else 1], steps, warm_up(steps), self.threads)


def warm_up(steps: int) -> int:
    """A round's steps: allocations differ between the first steps of different lengths."""
    return steps


def sft(options: Options, model: str, title: str, batch_size: int) -> Table:
    """Packed demonstrations; real tokens a second, padding left out."""
    steps = 2 if options.quick else 8
    common = {"directory": options.model(model), "batch_size": batch_size, "context_length": CONTEXT}
    counted = {**common, "warm_up": warm_up(steps), "steps": steps}
    contenders = [
        Contender("SFT", "finetune_ours:sft", {"name": "SFT", **counted}),
        options.trl(BFD, "sft", {"name": BFD, "packing": "bfd", **counted}),
        options.trl(WRAPPED, "sft", {"name": WRAPPED, "packing": "wrapped", **counted}),
    ]
    table = options.run(f"SFT, {title}, context {CONTEXT}, batch {batch_size}", "tokens/s", contenders, 0, (3, 7), steps)
    table.targets = [Target("SFT", (BFD,), 1.2), Target("SFT", (BFD,), 1.0, memory=True)]
    table.notes += [
        "bfd is TRL's default; wrapped fills rows to the brim by cutting demonstrations and lets neighbours see each other, which is another training"
    ]
    return table


def sft_10m(options: Options) -> Table:
    """10.8M parameters."""
    return sft(options, "10m", "10.8M parameters", 8)


def sft_smol(options: Options) -> Table:
    """SmolLM2's widths and vocabulary."""
    return sft(options, "smol", SMOL, 4)


def dpo(options: Options) -> Table:
    """Pairs, the reference live or precomputed."""
    batch_size = 8
    common = {"directory": options.model("10m"), "batch_size": batch_size, "context_length": CONTEXT}
    contenders: list[Contender | None] = []
    for precomputed in (False, True):
        name = ", precomputed" * precomputed
        arguments = {**common, "precomputed": precomputed}
        contenders += [
            Contender(f"DPO{name}", "finetune_ours:dpo", arguments, quick=not precomputed),
            options.trl(f"TRL{name}", "dpo", arguments, quick=not precomputed),
        ]
    table = options.run(f"DPO, 10.8M parameters, batch {batch_size}", "pairs/s", contenders, batch_size, (3, 9), 2 if options.quick else 8)
    table.targets = [Target("DPO", ("TRL",), 1.0), Target("DPO, precomputed", ("TRL, precomputed",), 1.0)]
    return table


def grpo(options: Options) -> Table:
    """Steps of writing, judging by a function and training."""
    batch_size = 32
    arguments = {"directory": options.model("10m"), "batch_size": batch_size, "generations": 8, "reply_length": REPLY}
    contenders = [
        Contender("GRPO", "finetune_ours:grpo", {**arguments, "context_length": CONTEXT}),
        options.trl("TRL", "grpo", arguments),
    ]
    title = f"GRPO, 10.8M parameters, {batch_size} replies a step, {PROMPT} + {REPLY} tokens"
    table = options.run(title, "replies/s", contenders, batch_size, (3, 9), 1 if options.quick else 4)
    table.targets = [Target("GRPO", ("TRL",), 1.0)]
    return table


def generation(options: Options) -> Table:
    """What PPO and GRPO spend on replies: sampling from the whole distribution, nothing ends a reply but its length."""
    sizes = {"batch_size": ROLLOUT, "prompt_length": PROMPT, "reply_length": REPLY, "vocab_size": VOCAB_SIZE}
    arguments = {"directory": options.model("10m"), **sizes}
    peer = "peers.trl_trainers:generate"
    contenders = [
        Contender("engine", "finetune_ours:generate", arguments),
        Contender("transformers 5", peer, arguments),
        Contender("transformers 4.53", peer, arguments, options.trl019_python, quick=False) if options.trl019_python else None,
    ]
    title = f"Replies for a rollout, 10.8M parameters, {ROLLOUT} prompts, {PROMPT} + {REPLY} tokens"
    table = options.run(title, "tokens/s", contenders, ROLLOUT * REPLY, (3, 9), 2 if options.quick else 6)
    table.targets = [Target("engine", ("transformers 5", "transformers 4.53"), 1.3)]
    table.notes += ["engine: also keeps the log-probability of every token, which the recipes need"]
    return table


def ppo(options: Options, model: str, title: str, rollout: int) -> Table:
    """Whole updates: a rollout, judged by a reward model, and its epochs of minibatches for policy and critic."""
    arguments = {
        "directory": options.model(model),
        "rollout_size": rollout,
        "mini_batches": MINI_BATCHES,
        "epochs": EPOCHS,
        "reply_length": REPLY,
        "temperature": 0.7,
    }
    ours, theirs = {**arguments, "context_length": CONTEXT}, {**arguments, "prompt_length": PROMPT}
    contenders = [
        Contender("PPO", "finetune_ours:ppo", ours),
        Contender("TRL 0.19.1", "peers.trl_ppo:ppo", theirs, options.trl019_python) if options.trl019_python else None,
        Contender("PPO, shared critic", "finetune_ours:ppo", {**ours, "critic": "shared"}, quick=False),
    ]
    title = f"PPO, four networks of {title}, {rollout} replies of {PROMPT} + {REPLY} tokens, {EPOCHS} epochs of {MINI_BATCHES} minibatches"
    table = options.run(title, "replies/s", contenders, rollout, (3, 7), 1)
    table.targets = [Target("PPO", ("TRL 0.19.1",), 1.2)]
    table.notes += ["shared critic: a head on the policy's own hidden states, which TRL's trainer does not offer"] * (not options.quick)
    return table


def ppo_10m(options: Options) -> Table:
    """A small vocabulary: nearly all of the time is matrix products, the same ones on both sides."""
    return ppo(options, "10m", "10.8M parameters", ROLLOUT)


def ppo_smol(options: Options) -> Table:
    """A real vocabulary."""
    return ppo(options, "smol", SMOL, ROLLOUT // 2)


def lora(options: Options) -> Table:
    """Adapters of rank 8 on all linear layers: raw loops, and SFT with packing."""
    batch_size, steps = 4, 2 if options.quick else 8
    common = {"directory": options.model("smol"), "batch_size": batch_size, "context_length": CONTEXT}
    looped = {**common, "vocab_size": VOCAB_SIZE}
    counted = {**common, "warm_up": warm_up(steps), "steps": steps, "lora": True}
    contenders = [
        Contender("our raw loop", "finetune_ours:lora_loop", looped),
        options.trl("peft, raw loop", "peft_loop", looped),
        Contender("SFT", "finetune_ours:sft", {"name": "SFT", **counted}),
        options.trl("TRL with peft", "sft", {"name": "TRL with peft", "packing": "bfd", **counted}),
    ]
    title = f"LoRA, {SMOL}, context {CONTEXT}, batch {batch_size}"
    table = options.run(title, "tokens/s", contenders, batch_size * CONTEXT, (3, 7), steps)
    table.targets = [Target("our raw loop", ("peft, raw loop",), 1.0), Target("SFT", ("TRL with peft",), 1.0)]
    table.notes += ["query, key and value are one linear layer here, with one adapter where peft has three"]
    return table


SECTIONS = {
    "sft-10m": sft_10m,
    "sft-smol": sft_smol,
    "dpo": dpo,
    "grpo": grpo,
    "generation": generation,
    "ppo-10m": ppo_10m,
    "ppo-smol": ppo_smol,
    "lora": lora,
}
