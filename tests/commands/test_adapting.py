"""`adapt:` from the command line: each setting reaches the part that it is about, runs, resumes, repeats, and is refused where it cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml

from framework import checkpoint
from framework.formats import sealed
from framework.formats.peft import load_adapter
from framework.networks.lora import LoRA
from framework.networks.scalar_head import ScalarHead
from framework.networks.shape import NetworkShape
from framework.networks.transformer import Transformer
from framework.tokenizers.byte import Byte

TOKENS = ["<|im_start|>", "<|im_end|>"]
SMALL = {
    "trainer": {"max_steps": 2, "val_check_interval": 2, "limit_val_batches": 1, "accelerator": "cpu", "enable_progress_bar": False},
    "data": {"init_args": {"context_length": 64, "batch_size": 4}},
    "checkpoints": {"every_n_steps": 1},
}
FINETUNE = ("finetune", "--recipe", "lora-sft", "--config", "small.yaml", "--init_from", "base", "--name", "child")
ALL = ("--adapt.new_tokens", json.dumps(TOKENS), "--adapt.context_length", 128, "--adapt.quantize", "int4", "--adapt.dtype", "float32")


def store(place: Path, dtype: torch.dtype = torch.float32, **shape: Any) -> Path:
    """A Hugging Face directory, of Llama's shape, that has never seen a chat."""
    torch.manual_seed(0)
    kinds: dict[str, Any] = {"feedforward": "swiglu", "norm": "rms", "positions": "rotary", "tied_embeddings": False}
    tokenizer = Byte(("<|endoftext|>",))
    network = Transformer(NetworkShape(2, 32, 2, **{**kinds, **shape}), tokenizer.vocab_size, 64)
    checkpoint.save(place, network.to(dtype), tokenizer, {})
    (place / "framework.json").unlink()
    return place


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALL))
    return store(tmp_path / "base")


def parts(name: str = "child") -> tuple[dict[str, Any], dict[str, Any]]:
    """Network and tokenizer of a run's configuration."""
    config = yaml.safe_load((Path("runs") / name / "config.yaml").read_text())
    assert "adapt" not in config
    return config["model"]["init_args"]["network"], config["data"]["init_args"]["tokenizer"]


def test_everything_at_once(base: Path, framework: Any) -> None:
    """Tokens, a longer context and a quantised base under a LoRA: model and adapter are the exact base's, and transformers opens the model."""
    done = framework(*FINETUNE, *ALL)
    assert done.code == 0, done.err
    network, tokenizer = parts()
    wanted = {"dtype": "float32", "context_length": 128, "new_tokens": TOKENS}
    found = network["init_args"]["base"]["init_args"]["adapt"]
    assert {name: value for name, value in found.items() if value is not None} == wanted
    assert (network["init_args"]["quantize"], network["init_args"]["new_ids"]) == ("int4", 2)
    assert tokenizer["init_args"]["new_tokens"] == TOKENS
    model, its_tokenizer = checkpoint.load(Path("runs/child/model"))
    assert isinstance(model, Transformer) and (model.vocab_size, model.context_length) == (259, 128)
    assert list(its_tokenizer.special_tokens) == ["<|endoftext|>", *TOKENS]
    exact, learnt = checkpoint.load_network(base), model.embedding.weight[257:]
    assert torch.equal(model.embedding.weight[:257], exact.state_dict()["embedding.weight"])
    assert not torch.equal(learnt[0], learnt[1])
    lora = load_adapter(exact, Path("runs/child/adapter"))
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in lora.merged().state_dict().items())
    ids = torch.randint(259, (1, 100))
    theirs = transformers.AutoModelForCausalLM.from_pretrained("runs/child/model")
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, model.logits(model(ids)), rtol=0, atol=1e-4)
    words = ["a", "--temperature", 0, "--max_new_tokens", 6]
    texts = [framework("generate", *where, *words) for where in (["runs/child"], ["base", "--adapter", "runs/child"])]
    assert texts[0].code == 0 and texts[0].out == texts[1].out


def test_resume_and_repeat(base: Path, framework: Any, refused: Callable[..., str]) -> None:
    """A run that was interrupted is the run that was not, and so is one of the saved configuration: to the bit."""
    steps = ("--trainer.max_steps", 3)
    assert framework(*FINETUNE, *ALL, *steps, "--name", "whole").code == 0
    assert framework(*FINETUNE, *ALL, *steps, "--trainer.limit_train_batches", 1.0).code == 0
    for checkpoints in Path("runs/child/checkpoints").glob("step-00000003*"):
        checkpoints.unlink()
    assert framework(*FINETUNE, *ALL, *steps, "--resume", "auto").code == 0
    assert framework("fit", "--config", "runs/whole/config.yaml", "--name", "again").code == 0
    models = [checkpoint.load_network(Path("runs") / name / "model").state_dict() for name in ("whole", "child", "again")]
    for other in models[1:]:
        assert all(torch.equal(tensor, other[name]) for name, tensor in models[0].items())
    state = torch.load("runs/child/checkpoints/step-00000003.ckpt", weights_only=True)["state_dict"]
    assert all(".adapters." in name or name == "network.base_sha256" for name in state)
    changed = [*ALL[:5], "int8", *ALL[6:]]
    refused(*FINETUNE, *changed, "--resume", "auto", saying=["model.network.quantize is 'int8' and was 'int4'"])


def test_from_a_file(base: Path, framework: Any) -> None:
    adapt = {"context_length": 256, "rotary_scaling": "linear", "new_tokens": TOKENS[:1]}
    Path("small.yaml").write_text(yaml.safe_dump({**SMALL, "adapt": adapt}))
    words = ("--adapt.new_tokens+", TOKENS[1], "--adapt.context_length", 128)  # what comes later wins
    done = framework("finetune", "--recipe", "sft", "--config", "small.yaml", "--init_from", "base", "--name", "child", *words)
    assert done.code == 0, done.err
    network, _ = parts()
    assert network["class_path"] == "framework.networks.Pretrained"
    found = network["init_args"]["adapt"]
    assert (found["context_length"], found["rotary_scaling"], found["new_tokens"]) == (128, "linear", TOKENS)
    trained = checkpoint.load_network(Path("runs/child/model")).state_dict()
    assert not torch.equal(trained["embedding.weight"][257], trained["embedding.weight"][258])


@pytest.mark.parametrize(
    ("stored", "recipe", "words", "expected", "noted"),
    [
        (torch.bfloat16, "sft", [], torch.float32, True),
        (torch.bfloat16, "sft", ["--adapt.dtype", "bfloat16"], torch.bfloat16, False),
        (torch.float32, "sft", [], torch.float32, False),
        (torch.bfloat16, "lora-sft", [], torch.bfloat16, False),  # frozen, under an adapter in fp32
        (torch.float16, "lora-sft", [], torch.float32, True),
    ],
)
def test_types(base: Path, framework: Any, stored: torch.dtype, recipe: str, words: list[str], expected: torch.dtype, noted: bool) -> None:
    store(Path("half"), stored)
    simple = ("--data.chat_template", "simple")
    done = framework("finetune", "--recipe", recipe, "--config", "small.yaml", "--init_from", "half", "--name", "child", *simple, *words)
    assert done.code == 0, done.err
    assert ("trained in float32" in done.err) == noted
    assert checkpoint.load_network(Path("runs/child/model")).head_weight_VD.dtype == expected


@pytest.mark.parametrize("recipe", ["dpo", "ppo"])
def test_the_reference_is_the_quantised_base(base: Path, framework: Any, recipe: str) -> None:
    """It is the policy with its adapter off; the first divergence is none."""
    network = json.dumps({"class_path": "LoRA", "init_args": {"rank": 4}})
    small = {**SMALL, "data": {"init_args": {"context_length": 64, "batch_size": 8}}, "checkpoints": {"every_n_steps": 2}}
    if recipe == "ppo":
        rewards = [{"class_path": "ExactMatch"}]
        settings = {"rollout_size": 16, "num_ppo_epochs": 1, "reward_model": None, "rewards": rewards, "critic": "policy"}
        small = {**small, "model": {"init_args": settings}}
    Path("small.yaml").write_text(yaml.safe_dump(small))
    words = ("--model.network", network, "--data.chat_template", "chatml", "--trainer.log_every_n_steps", 1, *ALL)
    done = framework("finetune", "--recipe", recipe, "--config", "small.yaml", "--init_from", "base", "--name", "child", *words)
    assert done.code == 0, done.err
    lora, _ = parts()
    assert lora["class_path"] == "framework.networks.LoRA" and lora["init_args"]["quantize"] == "int4"
    assert sealed.verify(Path("runs/child/model"))


@pytest.mark.parametrize(
    ("words", "saying"),
    [
        (["--adapt.dtype", "float16"], ["adapt.dtype", "'float32', 'bfloat16'"]),
        (["--adapt.dtpye", "float32"], ["no key dtpye", "did you mean dtype?"]),
        (["--adapt.rotary_scaling", "yarn"], ["adapt: rotary_scaling yarn is for a longer context"]),
        (["--adapt.context_length", "64"], ["base cannot be adapted", "64 is not longer than the network's own 64"]),
        (["--adapt.new_tokens", "<|a|>"], ["adapt.new_tokens"]),
        (["--adapt.new_tokens", '["<|endoftext|>"]'], ["'<|endoftext|>' already, as id 256"]),
        (["--adapt", "7"], ["adapt is 7", "it takes settings"]),
    ],
)
def test_mistakes(base: Path, refused: Callable[..., str], words: list[str], saying: list[str]) -> None:
    refused(*FINETUNE, "--data.chat_template", "simple", *words, saying=saying)


def test_where_there_is_nothing_to_adapt(base: Path, refused: Callable[..., str]) -> None:
    sft = ("finetune", "--recipe", "sft", "--config", "small.yaml", "--init_from", "base", "--data.chat_template", "simple")
    refused(*sft, "--adapt.quantize", "int8", saying=["adapt.quantize int8 is for the frozen network under a LoRA", "--recipe lora-sft"])
    network = json.dumps({"class_path": "Transformer", "init_args": {"shape": {"num_layers": 1, "width": 16, "num_heads": 2}}})
    words = ("--init_from", "null", "--model.network", network, "--data.tokenizer", "Byte", "--adapt.dtype", "bfloat16")
    refused(
        "finetune", "--recipe", "sft", "--config", "small.yaml", *words, saying=["adapt.dtype is about the model that a run starts from"]
    )
    refused(*FINETUNE, saying=["chatml", "the tokenizer lacks", '--adapt.new_tokens \'["<|im_end|>", "<|im_start|>"]\''])
    store(
        Path("learned"),
        positions="learned",
        feedforward="gelu_tanh",
        norm="layer",
        qkv_bias=True,
        out_bias=True,
        feedforward_bias=True,
        norm_bias=True,
        tied_embeddings=True,
    )
    words = ("--init_from", "learned", "--adapt.context_length", "128", "--data.chat_template", "simple")
    refused(*FINETUNE, *words, saying=["this network has learned positions"])


# another head


@pytest.fixture
def reward_model(base: Path, framework: Any) -> Path:
    """A run that made one of `base`."""
    made = framework(*REWARD, "--init_from", "base", "--name", "reward")
    assert made.code == 0, made.err
    return Path("runs/reward")


REWARD = ("finetune", "--recipe", "reward-model", "--config", "small.yaml", "--data.chat_template", "simple")


def test_a_reward_model_of_a_merged_lora(base: Path, framework: Any) -> None:
    assert framework(*FINETUNE, "--data.chat_template", "simple").code == 0
    done = framework(*REWARD, "--init_from", "runs/child", "--name", "reward")
    assert done.code == 0, done.err
    assert isinstance(checkpoint.load_network(Path("runs/reward/model")), ScalarHead)


def test_a_reward_model_goes_on_from_another(reward_model: Path, framework: Any) -> None:
    """Its head comes with it: without a step it gives the scores that it gave."""
    done = framework(*REWARD, "--init_from", "runs/reward", "--name", "more", "--model.optimizer.lr", 0.0)
    assert done.code == 0, done.err
    before, after = (checkpoint.load_network(Path("runs") / name / "model") for name in ("reward", "more"))
    ids, lengths = torch.randint(257, (3, 20)), torch.tensor([20, 9, 14])
    assert isinstance(before, ScalarHead) and isinstance(after, ScalarHead) and type(after.base) is Transformer
    with torch.no_grad():
        assert torch.equal(after.pooled_values(ids, lengths, 0 * lengths), before.pooled_values(ids, lengths, 0 * lengths))


def test_a_reward_model_writes_no_text(reward_model: Path, refused: Callable[..., str]) -> None:
    for recipe in ("sft", "lora-sft", "dpo"):
        words = ("finetune", "--recipe", recipe, "--config", "small.yaml", "--data.chat_template", "simple")
        refused(
            *words,
            "--init_from",
            "runs/reward",
            saying=["is a reward model, which gives scores", "start from the model that it was made of"],
        )
    refused(
        *REWARD,
        "--init_from",
        "runs/reward",
        "--model.network.pooling",
        "last",
        saying=["a reward model with the pooling 'mean', not 'last'"],
    )


def test_a_lora_under_the_head_takes_new_tokens(base: Path, framework: Any) -> None:
    network = json.dumps(
        {"class_path": "ScalarHead", "init_args": {"base": {"class_path": "framework.networks.LoRA", "init_args": {"rank": 4}}}}
    )
    done = framework(*REWARD[:-1], "chatml", "--init_from", "base", "--name", "child", "--model.network", network, *ALL)
    assert done.code == 0, done.err
    head, _ = parts()
    assert head["init_args"]["base"]["init_args"]["new_ids"] == 2
    made = checkpoint.load_network(Path("runs/child/model"))
    assert isinstance(made, ScalarHead) and not isinstance(made.base, LoRA) and made.vocab_size == 259
