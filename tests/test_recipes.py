"""Every YAML that ships: it parses in its place, and every recipe trains, saves, resumes, and opens in transformers."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from framework import checkpoint
from framework.commands.data import prepared
from framework.formats.peft import load_adapter
from framework.networks.scalar_head import ScalarHead
from framework.networks.shape import NetworkShape
from framework.networks.transformer import Transformer
from framework.tokenizers.byte import Byte

ROOT = Path(__file__).parent.parent
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
SMOKE = ["--trainer", "configs/trainer/smoke.yaml", "--trainer.accelerator", "cpu"]
SMALL = ["--data.batch_size", 2, "--data.context_length", 32, "--data.validation_fraction", 0.2]
SHAPE = {"num_layers": 2, "width": 32, "num_heads": 2, "norm": "rms", "positions": "rotary", "feedforward": "swiglu"}
TINY = ["--model.network", json.dumps({"class_path": "Transformer", "init_args": {"shape": SHAPE}})]
ROLLOUTS = ["--data.batch_size", 4, "--model.rollout_size", 8]
BREVITY = {"class_path": "Brevity", "init_args": {"free": 0}}
SIZES: dict[str, list[Any]] = {  # what makes a fine-tuning recipe small; everything else is as it ships
    "sft": ["--data.batch_size", 2],
    "lora-sft": ["--data.batch_size", 2],
    "reward-model": ["--data.batch_size", 4],
    "dpo": ["--data.batch_size", 4],
    "ppo": ROLLOUTS,
    # an untrained network hits no right answer, and a group of equals teaches nothing
    "grpo": [*ROLLOUTS, "--model.num_generations", 4, "--model.rewards", json.dumps([BREVITY])],
}
PROMPTS = ["--data.dataset", "Arithmetic", "--data.dataset.form", "prompt", "--data.context_length", 64, "--data.batch_size", 2]
PROMPTS += ["--data.max_new_tokens", 8]
FINE_TUNING = [path for path in RECIPES if path.stem in SIZES]
PRETRAINING = [path for path in RECIPES if path.stem not in SIZES]

Framework = Callable[..., Any]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").as_posix()


def on_corpus(corpus: Path) -> list[Any]:
    return ["--data.dataset", "TextFiles", "--data.dataset.paths", corpus]


def pretraining(path: Path, corpus: Path) -> list[Any]:
    """What makes a recipe of pretraining small."""
    trained = yaml.safe_load(path.read_text())["data"]["init_args"]["tokenizer"] != "Character"
    return [*on_corpus(corpus), *SMALL, *(["--data.tokenizer.vocab_size", 300] if trained else [])]


def finetune(framework: Framework, name: str, *words: Any) -> Any:
    """A short run of a recipe as it ships, from what `framework finetune --recipe` finds in the working directory."""
    done = framework("finetune", "--recipe", name, *SMOKE, "--data.dataset.size", 40, *SIZES[name], *words)
    assert done.code == 0, done.err
    return done


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, framework: Framework, corpus: Path) -> Path:
    """A directory with runs/pretrain, runs/sft and runs/reward-model, each made by its recipe from the one before."""
    folder = tmp_path_factory.mktemp("life")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        words = [*on_corpus(corpus), *SMALL, "--data.context_length", 256, "--data.tokenizer.vocab_size", 300, *TINY]
        made = framework("fit", "--config", "recipes/pretrain.yaml", *SMOKE, *words)
        assert made.code == 0, made.err
        for name in ("sft", "reward-model"):
            finetune(framework, name)
    return folder / "runs"


@pytest.fixture
def here(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a test, in which runs/pretrain, runs/sft and runs/reward-model are to be found."""
    (tmp_path / "runs").mkdir()
    for run in runs.iterdir():
        (tmp_path / "runs" / run.name).symlink_to(run)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_every_part_parses_in_its_place(path: Path, framework: Framework, here: Path) -> None:
    """`configs/<key>/<name>.yaml` holds that key's value: every recipe takes it, and it arrives whole."""
    key = {"trainer": "trainer", "dataset": "data.dataset"}.get(path.parent.name, f"model.{path.parent.name}")
    base = ["--init_from", "runs/pretrain"] if path.stem == "lora" else []
    printed = framework("fit", "--config", "recipes/pretrain.yaml", f"--{key}", path.relative_to(ROOT), *base, "--print_config")
    assert printed.code == 0, printed.err
    arrived = yaml.safe_load(printed.out)
    for word in key.split("."):
        arrived = arrived.get("init_args", arrived)[word]
    assert covers(arrived, yaml.safe_load(path.read_text())), arrived


def covers(arrived: Any, written: Any) -> bool:
    """Whether everything that a file says is there: defaults come in addition, bare names are expanded, paths belong to the file."""
    if isinstance(written, dict):
        return all(key in ("path", "paths") or (key in arrived and covers(arrived[key], value)) for key, value in written.items())
    if isinstance(written, str) and isinstance(arrived, str):
        return arrived == written or arrived.endswith(f".{written}")
    return bool(arrived == written)


@pytest.mark.parametrize("path", PRETRAINING, ids=name_of)
def test_every_recipe_of_pretraining_trains_saves_resumes_and_reloads(
    path: Path, framework: Framework, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fit = ["fit", "--config", f"recipes/{path.name}", *SMOKE, *pretraining(path, corpus)]
    started = framework(*fit)
    assert started.code == 0, started.err
    run = tmp_path / "runs" / path.stem
    assert (run / "config.yaml").is_file() and (run / "logs" / "metrics.jsonl").is_file()
    network, tokenizer = checkpoint.load(run / "model")
    assert network.vocab_size == tokenizer.vocab_size and not network.training

    resumed = framework(*fit, "--resume", "auto", "--trainer.max_steps", 4)
    assert resumed.code == 0, resumed.err
    later = checkpoint.load_network(run / "model")
    trained = state(run)
    for name, tensor in later.state_dict().items():
        assert torch.equal(tensor, trained[f"network.{name}"]), name
    assert any(not torch.equal(one, other) for one, other in zip(network.parameters(), later.parameters(), strict=True))


def state(run: Path) -> dict[str, torch.Tensor]:
    """The weights in the last checkpoint of a run that was resumed once, at step 2."""
    saved = sorted((run / "checkpoints").glob("*.ckpt"))
    assert [path.stem for path in saved] == ["step-00000002", "step-00000004"]
    return dict(torch.load(saved[-1], weights_only=True)["state_dict"])


@pytest.mark.parametrize("path", FINE_TUNING, ids=name_of)
def test_every_recipe_of_fine_tuning_trains_saves_resumes_and_reloads(path: Path, framework: Framework, here: Path) -> None:
    name = path.stem
    run = here / "runs" / name
    run.unlink(missing_ok=True)
    finetune(framework, name)
    first = checkpoint.load_network(run / "model")
    told = finetune(framework, name, "--resume", "auto", "--trainer.max_steps", 4)
    assert f"finished: step 4, val/{'reward' if name in ('ppo', 'grpo') else 'loss'} " in told.err
    later, tokenizer = checkpoint.load(run / "model")
    assert later.vocab_size == tokenizer.vocab_size and not later.training
    assert any(not torch.equal(one, other) for one, other in zip(first.parameters(), later.parameters(), strict=True))

    trained = state(run)
    if name == "lora-sft":
        adapted = load_adapter(checkpoint.load_network(here / "runs" / "pretrain" / "model"), run / "adapter")
        for at, adapter in adapted.adapters("default").items():
            assert torch.equal(adapter.B_OR, trained[f"network.base.{at}.adapters.default.B_OR"])
        ids_BT = torch.arange(20)[None]
        torch.testing.assert_close(later(ids_BT), adapted.eval()(ids_BT), atol=1e-5, rtol=0)
    else:
        normaliser = {"mean", "deviation"} if name == "reward-model" else set()  # of the scores: known at the end only
        for parameter, tensor in later.state_dict().items():
            key = f"network.{'policy.' if name == 'ppo' else ''}{parameter}"
            assert parameter in normaliser or torch.equal(tensor, trained[key]), parameter
    check_ends_and_template(run, tokenizer)


def check_ends_and_template(run: Path, tokenizer: Any) -> None:
    """Where to stop, and how chats become the ids that were trained on: what transformers and servers read."""
    from transformers import AutoTokenizer

    assert (run / "model" / "chat_template.jinja").is_file()
    ends = json.loads((run / "model" / "generation_config.json").read_text())["eos_token_id"]
    assert ends == sorted({tokenizer.eos_id, tokenizer.special_tokens["<|im_end|>"]})
    theirs = AutoTokenizer.from_pretrained(run / "model")
    data: Any = prepared(["--config", str(run / "config.yaml")])
    for row, item in zip(list(data.dataset.rows())[:8], map(data.encode, list(data.dataset.rows())[:8]), strict=True):
        prompt = theirs.apply_chat_template(row.fields["prompt"], add_generation_prompt=True, tokenize=True, return_dict=False)
        if hasattr(item.item, "chosen"):
            sides = {"chosen": item.item.chosen, "rejected": item.item.rejected}
        elif hasattr(item.item, "is_reply"):
            sides = {"completion": item.item}
        else:
            assert item.item.ids == prompt
            continue
        for field, side in sides.items():
            chat = [*row.fields["prompt"], *row.fields[field]]
            whole = theirs.apply_chat_template(chat, tokenize=True, return_dict=False)
            assert side.ids.tolist() == whole[: len(side.ids)]
            assert theirs.decode(whole[len(side.ids) :]).strip() == ""  # a line's end behind the end of the turn
            assert side.ids.tolist()[: len(prompt)] == prompt and side.ids[-1] == tokenizer.special_tokens["<|im_end|>"]
            assert side.is_reply.tolist() == [False] * len(prompt) + [True] * (len(side.ids) - len(prompt))


def test_what_was_fine_tuned_answers(framework: Framework, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = ["--max_new_tokens", 4, "--seed", 1]
    written = framework("generate", "runs/sft", "12+3=", *few)
    assert written.code == 0 and written.out, written.err
    monkeypatch.setattr("sys.stdin", io.StringIO("12+3=\n"))
    said = framework("chat", "runs/sft", *few)
    assert said.code == 0 and said.out, said.err


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_the_data_of_every_recipe_can_be_shown(path: Path, framework: Framework, here: Path, corpus: Path) -> None:
    """With the mask that it trains: replies and their ends of fine-tuning, nothing of prompts, all but the first token of a corpus."""
    words = ["--data.dataset.size", 40] if path in FINE_TUNING else pretraining(path, corpus)
    shown = framework("data", "show", f"recipes/{path.name}", *words, "--color", "never", "--html", "page.html")
    assert shown.code == 0, shown.err
    shown = framework("data", "show", f"recipes/{path.name}", *words, "--color", "never", "--rows", 2)
    assert shown.code == 0 and "batch 0\n" in shown.out, shown.err
    trained = re.findall(r"\[\[(.*?)\]\]", shown.out.partition("batch 0")[2], re.DOTALL)
    if path.stem in ("ppo", "grpo"):
        assert not trained and "=<|im_end|>\n<|im_start|>assistant\n" in shown.out
    elif path in FINE_TUNING:
        assert trained and all(re.fullmatch(r"-?\d+<\|im_end\|>", reply) for reply in trained)
    else:
        assert len(trained) == 2
    assert ("trained" in (here / "page.html").read_text()) and "<h2>batch 0</h2>" in (here / "page.html").read_text()


def test_a_recipe_without_its_beginning_says_what_is_missing(framework: Framework, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--init_from and the reward model of a shipped recipe are runs in the working directory, wherever the recipe's file is."""
    monkeypatch.chdir(tmp_path)
    for name, beginning in {"sft": "pretrain", "lora-sft": "pretrain", "reward-model": "sft", "dpo": "sft", "ppo": "sft"}.items():
        refused = framework("finetune", "--recipe", name, *SMOKE)
        assert refused.code == 2 and refused.err.startswith(f"error: there is no directory runs/{beginning}"), refused.err


@pytest.fixture(scope="session")
def other_judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model with another tokenizer."""
    directory = tmp_path_factory.mktemp("other") / "judge"
    network = ScalarHead(lambda **sizes: Transformer(NetworkShape(1, 16, 2), **sizes), Byte().vocab_size, 64)  # type: ignore[call-arg]
    checkpoint.save(directory, network, Byte(), {})
    return directory


MISTAKES: dict[str, tuple[list[Any], str]] = {
    "no such beginning": (["sft", "--init_from", "runs/nope"], "there is no directory runs/nope"),
    "no such recipe": (["pppo"], "there is no recipe 'pppo'; did you mean ppo?"),
    "no such reward": (
        ["grpo", "--model.rewards", "[ExactMatsh]"],
        "there is no ExactMatsh in framework.rewards. Did you mean ExactMatch?",
    ),
    "a reward without what it needs": (["grpo", "--model.rewards", "[MatchesPattern]"], "required: pattern"),
    "weights of other rewards": (["grpo", "--model.reward_weights", "[1, 2]"], "must be 1 finite numbers"),
    "no judge": (["grpo", "--model.rewards", "[]"], "nothing judges the replies"),
    "a group of one": (["grpo", "--model.num_generations", 1], "num_generations is 1 and must be at least 2"),
    "groups that do not fill": (["grpo", "--model.num_generations", 5], "must be a multiple of 5 replies a prompt"),
    "rollouts that do not fill": (["ppo", "--model.rollout_size", 10], "model.rollout_size (10 replies) must be a multiple of"),
    "no such reward model": (["ppo", "--model.reward_model", "runs/nope"], "there is no directory runs/nope"),
    "no reward model": (["ppo", "--model.reward_model", "runs/sft"], "holds a Transformer, which gives no score"),
    "another's reward model": (["ppo", "--model.reward_model", "OTHER"], "was trained with another tokenizer than the policy's"),
    "a critic from nowhere": (["ppo", "--model.reward_model", "null"], "critic is reward_model, and there is none"),
    "no room for replies": (["ppo", "--data.max_new_tokens", 64], "leave room for a prompt in context_length (64)"),
    "no room for prompts": (["ppo", "--data.max_new_tokens", 63], "40 are too long for context_length 64"),
    "no chats": (["sft", "--data.chat_template", "null"], "the model has no chat template: name one"),
    "a model without chats": (["dpo", "--init_from", "runs/pretrain"], "the model has no chat template: name one"),
    "rows of another kind": (["dpo", "--data.dataset.form", "demonstration", "--data.dataset.wrong_answers", 1], "no preference"),
    "no such layer": (["lora-sft", "--model.network.targets", "[q_proj]"], "'q_proj' is the end of no linear layer's name"),
    "no head": (["reward-model", "--model.network", "Transformer"], "wrap it with --model.network ScalarHead"),
    "half a loss": (["dpo", "--model.loss_type", "robust"], "loss_type robust needs label_smoothing"),
    "prompts alone": (["sft", "--data", "Prompts", *PROMPTS], "Prompts hold no replies to train on"),
}


@pytest.mark.parametrize(("words", "said"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_end_in_one_line(words: list[Any], said: str, framework: Framework, here: Path, other_judge: Path) -> None:
    name, *further = [other_judge if word == "OTHER" else word for word in words]
    few = [] if name == "pppo" else ["--data.dataset.size", 40, *SIZES[name]]
    done = framework("finetune", "--recipe", name, *SMOKE, "--name", "mistake", *few, *further)
    errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert done.code == 2 and len(errors) == 1 and done.err.endswith(f"{errors[0]}\n"), done
    assert said in errors[0] and "Traceback" not in done.err
    assert not (here / "runs" / "mistake").exists()


SHAPES = {
    "gpt2": {"feedforward": "gelu_tanh", "qkv_bias": True, "out_bias": True, "feedforward_bias": True, "norm_bias": True},
    "llama": {"norm": "rms", "positions": "rotary", "feedforward": "swiglu", "num_kv_heads": 2, "tied_embeddings": False},
}
ARCHITECTURES = {"gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM"}
TEXT = "The cat sat on the mat.  It's 12 o'clock\n\n\tin São Paulo 🐈 <|endoftext|>"


@pytest.mark.parametrize("kind", SHAPES)
def test_transformers_opens_what_was_trained(
    kind: str, framework: Framework, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same logits within 1e-4 in fp32, the same ids, with no export step."""
    monkeypatch.chdir(tmp_path)
    shape = {"num_layers": 2, "width": 32, "num_heads": 4, **SHAPES[kind]}
    network = json.dumps({"class_path": "Transformer", "init_args": {"shape": shape}})
    words = ["--name", kind, "--model.network", network, "--data.tokenizer.vocab_size", 300, *SMOKE, "--trainer.max_steps", 20]
    made = framework("fit", "--config", "recipes/pretrain.yaml", *on_corpus(corpus), *SMALL, *words)
    assert made.code == 0, made.err
    directory = tmp_path / "runs" / kind / "model"

    from transformers import AutoModelForCausalLM, AutoTokenizer

    theirs, loading = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, output_loading_info=True)
    assert type(theirs).__name__ == ARCHITECTURES[kind]
    assert not loading["missing_keys"] and not loading["unexpected_keys"] and not loading["mismatched_keys"]
    ours, tokenizer = checkpoint.load(directory)
    their_tokenizer = AutoTokenizer.from_pretrained(directory)
    ids = tokenizer.encode(TEXT)
    assert their_tokenizer.encode(TEXT, split_special_tokens=True, add_special_tokens=False) == ids
    assert their_tokenizer.decode(ids) == tokenizer.decode(ids) == TEXT
    assert their_tokenizer.eos_token_id == tokenizer.eos_id
    ids_BT = torch.tensor([tokenizer.encode("The dog looked at the house. A bird ran.")[:32]])
    with torch.no_grad():
        torch.testing.assert_close(ours.logits(ours(ids_BT)), theirs(ids_BT).logits[..., : ours.vocab_size], atol=1e-4, rtol=0)
