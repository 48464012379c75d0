"""What the recipes are taken to do: which networks learn, which are only looked at, and how many tokens go through them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from framework import checkpoint
from framework.commands.plan import configuration
from framework.errors import CheckpointError, ConfigError
from framework.networks.scalar_head import ScalarHead
from framework.networks.shape import NetworkShape
from framework.networks.transformer import Transformer
from framework.planner.memory import Optimizer
from framework.planner.run import Run, describe
from framework.tokenizers.byte import Byte

SHAPE = {"num_layers": 2, "width": 16, "num_heads": 4}
NETWORK = {"class_path": "framework.networks.Transformer", "init_args": {"shape": SHAPE}}
VOCAB = Byte().vocab_size
ROOT = Path(__file__).parents[2]


def part(name: str, /, **arguments: Any) -> dict[str, Any]:
    return {"class_path": f"framework.{name}", "init_args": arguments}


def config(recipe: str, data: str, network: Any = NETWORK, data_arguments: dict[str, Any] | None = None, **model: Any) -> dict[str, Any]:
    arguments = {"dataset": None, "tokenizer": part("tokenizers.Byte"), "context_length": 32, "batch_size": 4, **(data_arguments or {})}
    if data == "Prompts":
        arguments |= {"max_new_tokens": 8}
    return {
        "model": part(f"recipes.{recipe}", network=network, **model),
        "data": part(f"batches.{data}", **arguments),
        "trainer": {"max_steps": 10},
    }


def works(run: Run) -> dict[str, int]:
    return {work.name: work.tokens for work in run.work()}


def test_pretraining() -> None:
    run = describe(config("Pretrain", "PackedText"))
    assert (run.tokens_per_step, run.tokens) == (4 * 32, 4 * 32 * 10)
    assert run.network.vocab_size == VOCAB and run.network.context_length == 32
    network = Transformer(NetworkShape(**SHAPE), VOCAB, 32)
    assert [work.flops for work in run.work()] == [1280 * network.flops_per_token(32)]
    assert not run.notes and not run.batch.masked


@pytest.mark.parametrize(
    ("gpus", "trainer"), [(3, {}), (None, {"devices": 3}), (None, {"devices": [0, 1, 2]}), (None, {"devices": 1, "num_nodes": 3})]
)
def test_devices(gpus: int | None, trainer: dict[str, Any]) -> None:
    given = config("Pretrain", "PackedText")
    given["trainer"] |= {**trainer, "accumulate_grad_batches": 2}
    run = describe(given, gpus)
    assert run.devices == 3 and run.tokens_per_step == 4 * 32 * 2 * 3


def test_fine_tuning_takes_a_mask_where_it_packs() -> None:
    assert describe(config("SFT", "Demonstrations")).batch.masked
    assert not describe(config("SFT", "Demonstrations", data_arguments={"packing": False})).batch.masked


def test_a_lora_learns_little_and_is_its_own_reference() -> None:
    wrapped = part("networks.LoRA", base=NETWORK, rank=2)
    run = describe(config("DPO", "Preferences", wrapped))
    assert 0 < run.network.trained_parameters < run.network.num_parameters / 2
    assert [kept.is_policy for kept in run.kept] == [True]
    assert works(run) == {"training": 10 * 8 * 32, "reference": 10 * 8 * 32}  # both sides of each pair
    plain = describe(config("DPO", "Preferences", reference="precomputed"))
    assert not plain.kept and "before the first step" in plain.notes[0]


def test_a_reward_model_needs_a_head() -> None:
    with pytest.raises(ConfigError, match=r"wrap it with --model\.network ScalarHead"):
        describe(config("RewardModel", "Preferences"))
    run = describe(config("RewardModel", "Preferences", part("networks.ScalarHead", base=NETWORK)))
    assert run.trained[0].loss == "score" and run.served == "pairs" and run.batch.rows == 8


def test_ppo_writes_scores_and_looks() -> None:
    run = describe(config("PPO", "Prompts", rollout_size=16, num_ppo_epochs=2, reward_model="not-there"))
    assert [part.loss for part in run.trained] == ["log-probabilities", "score"]
    assert [kept.name for kept in run.kept] == ["reference", "reward model"]
    assert "there is no not-there yet" in run.notes[0]
    tokens = 10 * 4 * 32
    expected = dict.fromkeys(["generation", "policy's log-probabilities", "critic's values", "reference", "reward model"], tokens // 2)
    assert works(run) == {"training": tokens, **expected}
    assert run.settings().cache_tokens == 64 * 32
    shared = describe(config("PPO", "Prompts", rollout_size=16, critic="shared"))
    assert len(shared.trained) == 1 and shared.network.value_head


def test_grpo_keeps_a_reference_only_for_its_kl() -> None:
    assert not describe(config("GRPO", "Prompts", rollout_size=16)).kept
    assert [kept.name for kept in describe(config("GRPO", "Prompts", rollout_size=16, beta=0.1)).kept] == ["reference"]


def test_stored_models(tmp_path: Path) -> None:
    shape = NetworkShape(2, 16, 4, feedforward="swiglu", norm="rms", positions="rotary")
    network = Transformer(shape, VOCAB, 32)
    checkpoint.save(tmp_path / "policy", network, Byte(), {})
    checkpoint.save(tmp_path / "judge", ScalarHead(lambda **_: network), Byte(), {})
    given = config(
        "PPO", "Prompts", part("networks.Pretrained", path=str(tmp_path / "policy")), rollout_size=16, reward_model=str(tmp_path / "judge")
    )
    run = describe(given)
    assert run.network.num_parameters == network.num_parameters()
    assert run.kept[1].network.scalar_head and not run.notes[1:]
    (tmp_path / "policy" / "framework.json").unlink()  # as Hugging Face's libraries leave it
    assert describe(given).network.num_parameters == network.num_parameters()
    (tmp_path / "policy" / "config.json").write_text('{"architectures": ["Mamba"]}')
    with pytest.raises(CheckpointError, match="of the architecture Mamba, which no installed format reads"):
        describe(given)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model.init_args.network.init_args.shape.widht": 3}, "no key widht of model.network.shape; did you mean width"),
        ({"model.init_args.scheduler": part("schedulers.Cosine", warmup=3)}, "no key warmup of model.scheduler; did you mean warmup_steps"),
        ({"trainer.max_step": 3}, "no key max_step of trainer; did you mean max_steps"),
        ({"trainer.max_steps": -1}, "trainer.max_steps is not set"),
        ({"trainer.max_steps": "many"}, "trainer.max_steps is 'many'; it takes a whole number of at least 1"),
        ({"trainer.precision": 8}, "trainer.precision 8 cannot be planned"),
        ({"modle": {}}, "no key modle of the configuration; did you mean model"),
        ({"data.init_args.tokenizer": part("tokenizers.Character")}, "say --model.network.vocab_size N to plan without it"),
        ({"model.init_args.network.init_args.vocab_size": 3}, f"vocab_size is 3 and the tokenizer has {VOCAB} ids"),
        ({"model.init_args.network.class_path": "elsewhere.Network"}, "elsewhere.Network, whose parameters only it can count"),
        ({"model.init_args.network": None}, "no model.network: give one, or --init_from"),
        ({"model.init_args.network.init_args.shape.width": 18}, "width 18 is not divisible by num_heads 4"),
    ],
)
def test_mistakes(change: dict[str, Any], said: str) -> None:
    given = copy.deepcopy(config("Pretrain", "PackedText"))
    for dotted, value in change.items():
        *path, last = dotted.split(".")
        node = given
        for key in path:
            node = node[key]
        node[last] = value
    with pytest.raises(ConfigError, match=said.replace(".", r"\.")):
        describe(given)


def test_unknown_recipes_and_optimizers_are_said() -> None:
    given = config("Pretrain", "PackedText", optimizer={"class_path": "elsewhere.Novel", "init_args": {}})
    given["model"]["class_path"] = "elsewhere.Recipe"
    run = describe(given)
    assert "Recipe is not known" in run.notes[0] and "Novel is not known" in run.notes[1].replace("states of Novel are", "Novel is")
    assert run.optimizer == Optimizer("Novel")


@pytest.mark.parametrize("recipe", ["pretrain", "shakespeare-char", "sft", "lora-sft", "reward-model", "dpo", "ppo", "grpo"])
def test_every_recipe_can_be_planned(recipe: str, tmp_path: Path) -> None:
    network = Transformer(NetworkShape(2, 16, 4, positions="rotary"), VOCAB, 32)
    checkpoint.save(tmp_path / "model", network, Byte(), {})
    from framework.commands.plan import _started

    words = ["--config", str(ROOT / "recipes" / f"{recipe}.yaml")]
    if recipe in ("pretrain", "shakespeare-char"):
        words += ["--model.network.vocab_size", "5000"]
    else:
        words += ["--init_from", str(tmp_path / "model")]
    run = describe(_started(configuration(words)))
    assert run.tokens and run.work()[0].flops and run.settings()
