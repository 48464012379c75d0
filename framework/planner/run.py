"""What a recipe does with its networks: which learn, which are looked at, how many tokens go through each. Imports no torch.

A composed configuration flows in, a Run flows out; its `work` is the operations of the whole run, `settings` what its steps take of a
device. Lengths are the greatest that rows may have: what is counted is never less than what is done.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from framework.errors import ConfigError, TokenizerError
from framework.planner.activations import MicroBatch, Precision, precision
from framework.planner.blueprint import Blueprint
from framework.planner.memory import Kept, Loss, Optimizer, Settings, Trained
from framework.planner.networks import blueprint, stored
from framework.planner.settings import Part, check, known
from framework.registry import registry

TOP = ("name", "runs_dir", "resume", "overwrite", "init_from", "seed_everything", "model", "data", "trainer", "checkpoints")
LOSSES: dict[str, Loss] = {"RewardModel": "score", "DPO": "log-probabilities", "PPO": "log-probabilities", "GRPO": "log-probabilities"}
KNOWN = ("Pretrain", "SFT", *LOSSES)


class Work(NamedTuple):
    """A kind of pass over tokens in the whole run.

    Attributes:
        name: what is done.
        tokens: how many tokens go through, at most.
        flops: operations.
        recomputed: further operations that activation checkpointing costs.
    """

    name: str
    tokens: int
    flops: int
    recomputed: int = 0


@dataclass(frozen=True)
class Rollouts:
    """How a policy writes what it learns from.

    Attributes:
        size: replies written at a time, over all devices.
        epochs: how often each is trained on.
        max_running: replies that a device writes side by side.
        max_new_tokens: most tokens of a reply.
    """

    size: int
    epochs: int
    max_running: int
    max_new_tokens: int


@dataclass(frozen=True)
class Run:
    """A run.

    Attributes:
        recipe: its class.
        trained: the networks that learn, the policy first.
        kept: networks that are only looked at.
        batch: a micro-batch of one device.
        served: what the data counts a micro-batch in.
        items: of those, in a micro-batch.
        accumulate: micro-batches of a step on a device.
        devices: that train side by side.
        steps: optimizer steps.
        precision, optimizer: of the steps.
        sharded: whether weights, gradients and states are divided among the devices.
        rollouts: of a policy that writes; None for one that does not.
        notes: what was assumed.
    """

    recipe: str
    trained: tuple[Trained, ...]
    kept: tuple[Kept, ...]
    batch: MicroBatch
    served: str
    items: int
    accumulate: int
    devices: int
    steps: int
    precision: Precision
    optimizer: Optimizer
    sharded: bool = False
    rollouts: Rollouts | None = None
    notes: tuple[str, ...] = ()

    @property
    def network(self) -> Blueprint:
        """The network that the run is about."""
        return self.trained[0].network

    @property
    def tokens_per_step(self) -> int:
        """Tokens of an optimizer step, over all devices, at most."""
        return self.batch.tokens * self.accumulate * self.devices

    @property
    def tokens(self) -> int:
        """Tokens trained on in the whole run, at most."""
        return self.tokens_per_step * self.steps

    def settings(self, on_cpu: bool = False) -> Settings:
        """What decides the memory of a device."""
        cache_tokens = self.rollouts.max_running * self.batch.length if self.rollouts else 0
        batch = replace(self.batch, on_cpu=on_cpu)
        return Settings(
            self.trained,
            batch,
            self.precision,
            self.optimizer,
            self.kept,
            self.accumulate > 1,
            self.devices,
            self.sharded and self.devices > 1,
            cache_tokens,
        )

    def work(self) -> list[Work]:
        """Everything that is computed; validation is not counted."""
        length, tokens = self.batch.length, self.tokens
        training = sum(part.network.flops_per_token(length) for part in self.trained)
        again = sum(part.network.recomputed_flops(length) for part in self.trained)
        found = [Work("training", tokens, tokens * training, tokens * again)]
        if self.rollouts is None:
            return found + [Work(kept.name, tokens, tokens * kept.network.forward_flops(length)) for kept in self.kept]
        written = tokens // self.rollouts.epochs
        policy, *critics = [part.network for part in self.trained]
        looks = [("policy's log-probabilities", policy), *(("critic's values", critic) for critic in critics)]
        looks += [(kept.name, kept.network) for kept in self.kept]
        found.append(Work("generation", written, written * policy.forward_flops(length)))
        return found + [Work(name, written, written * network.forward_flops(length)) for name, network in looks]


def describe(config: Mapping[str, Any], gpus: int | None = None) -> Run:
    """The run of a composed configuration, whose parts are in full form.

    Args:
        config: what `framework fit` would parse, arguments applied.
        gpus: devices, instead of the configuration's.

    Raises:
        ConfigError: something that nothing reads, that is missing or does not fit.
    """
    for key in config:
        known(key, dict.fromkeys(TOP), "the configuration")
        check(config[key], key)
    model, data = Part(config.get("model"), "model"), Part(config.get("data"), "data")
    trainer = Part({"class_path": "lightning.pytorch.Trainer", "init_args": config.get("trainer")}, "trainer")
    Part({"class_path": "framework.training.checkpoints.Checkpoints", "init_args": config.get("checkpoints")}, "checkpoints")
    network, notes = _network(model, data), list[str]()
    if model.name not in KNOWN:
        notes.append(f"{model.name} is not known: counted as one network that learns from every token")
    kept, critic = _others(model, network, notes)
    trained = [Trained(network, LOSSES.get(model.name, "tokens")), *([] if critic is None else [Trained(critic, "score")])]
    pairs, devices = data.name == "Preferences", _devices(trainer, gpus)
    masked = bool(data.get("mask_documents") or data.get("packing"))
    rows = data.number("batch_size") * (2 if pairs else 1)
    optimizer = _optimizer(model.part("optimizer"))
    if not optimizer.is_known:
        notes.append(f"the states of {optimizer.name} are not known: counted as AdamW's")
    if data.name != "PackedText":
        whole = ", and each token as one of a reply" if data.name == "Preferences" else ""
        notes.append(f"rows are counted at {data.number('context_length'):,} tokens, the most they may have{whole}")
    return Run(
        recipe=model.name,
        trained=tuple(trained),
        kept=tuple(kept),
        batch=MicroBatch(rows, data.number("context_length"), masked, replies=data.get("max_new_tokens")),
        served="pairs" if pairs else "replies" if data.name == "Prompts" else "rows",
        items=data.number("batch_size"),
        accumulate=trainer.number("accumulate_grad_batches"),
        devices=devices,
        steps=_steps(trainer),
        precision=precision(trainer["precision"]),
        optimizer=optimizer,
        sharded=_is_sharded(trainer["strategy"]),
        rollouts=_rollouts(model, data),
        notes=tuple(notes),
    )


def _network(model: Part, data: Part) -> Blueprint:
    part = model.part("network")
    if part is None:
        raise ConfigError("the configuration has no model.network: give one, or --init_from DIR to start from a model.")
    network = blueprint(part, None if _innermost(part).name == "Pretrained" else vocabulary(data), data.number("context_length"))
    if model.name == "RewardModel" and not network.scalar_head:
        raise ConfigError("RewardModel trains a network that gives a score: wrap it with --model.network ScalarHead.")
    return replace(network, value_head=True) if model.name == "PPO" and model["critic"] == "shared" else network


def _innermost(part: Part) -> Part:
    while part.takes("base") and (inside := part.part("base")) is not None:
        part = inside
    return part


def vocabulary(data: Part) -> int | None:
    """Ids of the data's tokenizer; None for one that only its training can tell."""
    part = data.part("tokenizer")
    if part is None:
        raise ConfigError("data.tokenizer is not set: give one, or --init_from DIR to start from a model.")
    if isinstance(asked_for := part.get("vocab_size"), int):
        return asked_for  # of one that is yet to be trained
    module, _, name = part.path.rpartition(".")
    if module != "framework.tokenizers":
        return None
    try:
        arguments = {key: Path(value) if key == "path" and value else value for key, value in part.arguments.items()}
        return int(registry(module)[name](**arguments).vocab_size)
    except TokenizerError:
        if part.get("path"):
            raise
        return None
    except TypeError as problem:
        raise ConfigError(f"{part.key}: {problem}") from None


def _others(model: Part, policy: Blueprint, notes: list[str]) -> tuple[list[Kept], Blueprint | None]:
    """The networks that are only looked at, and the critic."""
    kept: list[Kept] = []
    has_reference = {"DPO": model.get("reference") == "live", "PPO": True, "GRPO": (model.get("beta") or 0) > 0}.get(model.name, False)
    if model.name == "DPO" and not has_reference:
        notes.append("the reference's pass over all pairs before the first step is not counted")
    if has_reference:
        kept.append(Kept("reference", policy.bare, is_policy=policy.adapter is not None))
    reward_model = None
    if model.get("reward_model") is not None:
        reward_model = _reward_model(Path(model["reward_model"]), policy, notes)
        kept.append(Kept("reward model", reward_model))
    if model.name != "PPO" or model["critic"] == "shared":
        return kept, None
    if model["critic"] == "policy":
        return kept, replace(policy, scalar_head=True)
    if reward_model is None:
        raise ConfigError("model.critic is reward_model, and there is none: give model.reward_model, or critic policy.")
    return kept, reward_model


def _reward_model(path: Path, policy: Blueprint, notes: list[str]) -> Blueprint:
    for candidate in (path / "model", path):
        if (candidate / "framework.json").is_file() or (candidate / "config.json").is_file():
            return stored(candidate)
    notes.append(f"there is no {path} yet: the reward model is taken to be as large as the policy")
    return replace(policy.bare, scalar_head=True)


def _rollouts(model: Part, data: Part) -> Rollouts | None:
    if model.name not in ("PPO", "GRPO"):
        return None
    epochs = model.number("num_ppo_epochs" if model.name == "PPO" else "num_iterations")
    return Rollouts(model.number("rollout_size"), epochs, model.number("max_running"), data.number("max_new_tokens"))


def _optimizer(part: Part | None) -> Optimizer:
    return Optimizer() if part is None else Optimizer(part.name, bool(part.get("momentum")))


def _steps(trainer: Part) -> int:
    if trainer["max_steps"] == -1:
        raise ConfigError("trainer.max_steps is not set: a run is measured in optimizer steps (--trainer.max_steps 1000).")
    return trainer.number("max_steps")


def _devices(trainer: Part, gpus: int | None) -> int:
    if gpus is not None:
        return gpus
    given = trainer["devices"]
    count = len(given) if isinstance(given, list) else given if isinstance(given, int) and given > 0 else 1
    return count * trainer.number("num_nodes")


def _is_sharded(strategy: Any) -> bool:
    name = str(strategy.get("class_path") if isinstance(strategy, Mapping) else strategy).lower()
    return "fsdp" in name or "modelparallel" in name
