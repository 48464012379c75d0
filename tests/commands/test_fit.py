"""`fit`, `finetune`, `validate`: what a user gets right works as written, what they get wrong ends in one clear line and loses nothing."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from framework.errors import UserError
from framework.training import heap

Refused = Callable[..., str]
FIT = ("fit", "--config", "base.yaml")


def log(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "logs" / "metrics.jsonl").read_text().splitlines()]


def losses(run: Path) -> list[tuple[int, float]]:
    return [(line["step"], line[name]) for line in log(run) for name in ("train/loss", "val/loss") if name in line]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def borrow(place: Path, here: Path, name: str = "base") -> Path:
    """A copy of the finished run."""
    return shutil.copytree(place / "runs" / "base", here / "runs" / name)


# what works


def test_a_run_leaves_what_it_should(place: Path) -> None:
    run = place / "runs" / "base"
    assert sorted(path.name for path in run.iterdir()) == ["checkpoints", "config.yaml", "logs", "model"]
    assert {path.name for path in (run / "checkpoints").iterdir()} == {
        "step-00000002.ckpt",
        "step-00000002.json",
        "step-00000004.ckpt",
        "step-00000004.json",
    }
    assert [step for step, _ in losses(run)] == [1, 2, 2, 3, 4, 4]
    assert {"train/learning_rate", "train/gradient_norm", "train/tokens_per_second", "train/mfu"} <= log(run)[0].keys()
    assert {"model.safetensors", "config.json", "framework.json", "tokenizer.json"} <= {path.name for path in (run / "model").iterdir()}


def test_a_saved_configuration_repeats_the_run_from_anywhere(
    place: Path, tmp_path: Path, framework: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    again = framework("fit", "--config", place / "runs" / "base" / "config.yaml", "--name", "again")
    assert again.code == 0, again.err
    assert losses(tmp_path / "runs" / "again") == losses(place / "runs" / "base")
    ours, theirs = (
        yaml.safe_load((folder / "config.yaml").read_text()) for folder in (tmp_path / "runs" / "again", place / "runs" / "base")
    )
    assert {**ours, "name": "base"} == theirs


def test_printed_configuration_is_one_that_can_be_run(here: Path, framework: Any) -> None:
    printed = framework(*FIT, "--name", "printed", "--model.optimizer", "Muon", "--print_config")
    assert printed.code == 0
    config = yaml.safe_load(printed.out)
    assert config["model"]["init_args"]["optimizer"]["class_path"] == "framework.optimizers.Muon"
    assert config["trainer"]["max_steps"] == 4 and config["checkpoints"]["keep_best"] == 1
    assert not list((here / "runs").iterdir())
    (here / "printed.yaml").write_text(printed.out)
    assert framework("fit", "--config", "printed.yaml", "--trainer.max_steps", 1).code == 0
    assert losses(here / "runs" / "printed")[0][0] == 1


def test_validate(place: Path, framework: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    before = files(place / "runs" / "base")
    judged = framework("validate", "--config", "runs/base/config.yaml")
    assert judged.code == 0, judged.err
    values = dict(line.split() for line in judged.out.splitlines())
    assert set(values) == {"val/loss", "val/perplexity", "val/bits_per_byte", "val/accuracy"}
    assert float(values["val/loss"]) == pytest.approx(losses(place / "runs" / "base")[-1][1], abs=1e-6)
    assert files(place / "runs" / "base") == before


@pytest.mark.parametrize(
    "words, seen",
    [
        (["--help"], ["--trainer.max_steps", "--checkpoints.every_n_steps", "--init_from", "--resume"]),
        (["--model.help"], ["one of: ", "Pretrain", "--model.help NAME"]),
        (["--model.help", "Pretrain"], ["--model.non_finite {skip,stop}", "--model.network"]),
        (["--model.network.help", "Transformer"], ["--model.network.shape.num_kv_heads", "--model.network.compile"]),
        (["--config", "base.yaml", "--model.optimizer.help"], ["--model.optimizer AdamW", "--model.optimizer.weight_decay"]),
        (["--model.optimizer.help=torch.optim.SGD"], ["--model.optimizer.momentum"]),
        (["--data.dataset.help", "JsonLines"], ["--data.dataset.field"]),
        (["--trainer.help"], ["--trainer.max_steps"]),
        (["--trainer.callbacks.help", "EarlyStopping"], ["--trainer.callbacks.patience"]),
    ],
)
def test_help_for_every_part(here: Path, framework: Any, words: list[str], seen: list[str]) -> None:
    asked = framework("fit", *words)
    assert asked.code == 0 and asked.err == "", asked
    for expected in seen:
        assert expected in asked.out


def test_help_of_finetune_and_validate(framework: Any) -> None:
    assert "--trainer.max_steps" in framework("finetune", "--help").out
    assert "--trainer.limit_val_batches" in framework("validate", "--help").out
    asked = framework("finetune", "--recipe", "pretrain", "--data.tokenizer.help")
    assert asked.code == 0 and "--data.tokenizer.vocab_size" in asked.out


def test_loggers_by_bare_name(here: Path, framework: Any) -> None:
    """CSV and TensorBoard, by `+`, write into the run's logs; `false` writes none; wandb works offline."""
    both = framework(*FIT, "--name", "both", "--trainer.logger+=CSVLogger", "--trainer.logger+=TensorBoardLogger", "--trainer.max_steps", 2)
    assert both.code == 0, both.err
    written = [path.name for path in (here / "runs" / "both" / "logs").rglob("*")]
    assert "metrics.csv" in written and "metrics.jsonl" in written and any(name.startswith("events.out.tfevents") for name in written)
    none = framework(*FIT, "--name", "none", "--trainer.logger", "false", "--trainer.max_steps", 1)
    assert none.code == 0 and not (here / "runs" / "none" / "logs").exists()
    assert not (here / "lightning_logs").exists()


@pytest.mark.slow
def test_wandb_works_offline(here: Path, framework: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert framework(*FIT, "--trainer.logger", "WandbLogger", "--trainer.max_steps", 2).code == 0
    assert list((here / "runs" / "base" / "logs" / "wandb").glob("offline-run-*/*.wandb"))
    assert not (here / "wandb").exists()


def test_callbacks_by_bare_name(here: Path, framework: Any) -> None:
    words = ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor", "val/loss", "--trainer.callbacks.patience", "1"]
    words += [
        "--trainer.callbacks.divergence_threshold",
        "0.1",
        "--trainer.callbacks+=Timer",
        "--trainer.callbacks.duration",
        "00:00:10:00",
    ]
    stopped = framework(*FIT, *words)
    assert stopped.code == 0, stopped.err
    assert "finished: step 2" in stopped.err  # the loss is over the threshold at the first validation
    callbacks = yaml.safe_load((here / "runs" / "base" / "config.yaml").read_text())["trainer"]["callbacks"]
    assert [callback["class_path"].rpartition(".")[2] for callback in callbacks] == ["EarlyStopping", "Timer"]


def test_a_dry_run_leaves_nothing(here: Path, framework: Any) -> None:
    assert framework(*FIT, "--trainer.fast_dev_run", "true").code == 0
    assert not list((here / "runs").iterdir())


def test_steps_hand_memory_on_to_each_other(here: Path, framework: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(heap, "keep_freed", lambda: asked.append(True))
    assert framework(*FIT, "--trainer.fast_dev_run", "true").code == 0
    assert asked == [True]


def test_out_of_time_is_not_the_target(here: Path, refused: Refused, framework: Any) -> None:
    refused(*FIT, "--trainer.max_time", "00:00:00:00", code=1, saying=["step 0 of 4", "trainer.max_time", "--resume auto"])
    assert not (here / "runs" / "base" / "model").exists()
    assert framework(*FIT, "--resume", "auto").code == 0
    assert losses(here / "runs" / "base")[-1][0] == 4


def test_options_before_and_after_and_with_equals(here: Path, framework: Any) -> None:
    """What comes later wins, file or argument."""
    words = ["fit", "--name=yours", "--trainer.devices=1", "--config=base.yaml", "--name=mine", "--trainer.max_steps", "1"]
    assert framework(*words).code == 0
    assert [path.name for path in (here / "runs").iterdir()] == ["mine"]
    assert losses(here / "runs" / "mine")[-1][0] == 1


# mistakes in the configuration

BAD = {
    "key.yaml": "trainer:\n  max_stepz: 3\n",
    "type.yaml": "model:\n  init_args:\n    network:\n      class_path: Transformer\n      init_args:\n        shape: {num_layers: two, width: 16, num_heads: 2}\n",
    "class.yaml": "model:\n  init_args:\n    optimizer: Adamw\n",
    "invalid.yaml": "a: [\n",
    "section.yaml": "trainer: 5\n",
    "model.yaml": "model: 5\n",
    "top.yaml": "max_steps: 5\n",
    "path.yaml": "model:\n  class_path: nowhere.Nope\n",
}

MISTAKES = [
    # unknown keys
    (["--model.optimizr", "AdamW"], ["optimizr", "the command line", "did you mean optimizer?"]),
    (["--model.optimizer.lrr", "1"], ["lrr of AdamW", "did you mean lr?"]),
    (["--model.network.shape.widht", "16"], ["widht", "did you mean width?"]),
    (["--trainer.max_stepz", "1"], ["max_stepz of Trainer", "did you mean max_steps?"]),
    (["--checkpoints.keep_lasst", "1"], ["keep_lasst of Checkpoints", "did you mean keep_last?"]),
    (["--frobnicate", "1"], ["frobnicate", "known: adapt, checkpoints, data"]),
    (["--config", "key.yaml"], ["max_stepz", "key.yaml:2", "did you mean max_steps?"]),
    (["--config", "top.yaml"], ["max_steps", "top.yaml:1", "trainer"]),
    # unknown classes
    (["--model.optimizer", "AdamX"], ["model.optimizer", "the command line", "no AdamX in framework.optimizers", "Did you mean AdamW?"]),
    (["--model", "Pretran"], ["Did you mean Pretrain?"]),
    (["--data", "PackdText"], ["Did you mean PackedText?"]),
    (["--model.optimizer", "torch.optim.Adamm"], ["no Adamm in torch.optim", "did you mean Adam"]),
    (["--trainer.logger", "CVSLogger"], ["no CVSLogger", "did you mean CSVLogger?"]),
    (["--trainer.callbacks+=EarlyStoping"], ["no EarlyStoping", "the command line", "did you mean EarlyStopping?"]),
    (["--config", "class.yaml"], ["class.yaml:3", "no Adamw in framework.optimizers", "Did you mean AdamW?"]),
    (["--config", "path.yaml"], ["nowhere.Nope", "path.yaml:2", "No module named 'nowhere'"]),
    (["--model", "torch.nn.Linear"], ["model", "torch.nn.Linear", "Recipe"]),
    # wrong types and values
    (["--trainer.max_steps", "many"], ["trainer.max_steps", "expected int", "many", "the command line"]),
    (["--model.optimizer.lr", "fast"], ["model.optimizer.lr", "expected float", "fast"]),
    (["--config", "type.yaml"], ["model.network.shape.num_layers", "expected int", "two", "type.yaml:6"]),
    (["--config", "section.yaml"], ["trainer is 5", "section.yaml:1"]),
    (["--config", "model.yaml"], ["model names no class", "model.yaml:1", "Pretrain"]),
    (["--config", "invalid.yaml"], ["invalid.yaml", "no valid YAML"]),
    (["--model.network.shape.width", "17"], ["width 17", "num_heads 2"]),
    (["--data.split", "tale"], ["data.split", "'hash', 'tail'", "tale"]),
    (["--data.context_length", "0"], ["context_length must be at least 1"]),
    (["--seed_everything", "-5"], ["seed_everything is -5", "whole number from 0"]),
    (["--seed_everything", "dice"], ["seed_everything is 'dice'"]),
    (["--overwrite", "maybe"], ["overwrite", "expected bool", "maybe"]),
    (["--trainer.accelerator", "warp"], ["trainer", "warp"]),
    (["--trainer.val_check_interval", "0.5"], ["trainer", "val_check_interval"]),
    (["--checkpoints.keep_last", "0"], ["keep_last at least 1"]),
    (["--trainer.callbacks+=EarlyStopping"], ["trainer.callbacks", "required: monitor"]),
    (["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor", "val/lss"], ["val/lss", "val/loss"]),
    (["--checkpoints.monitor", "val/lss"], ["checkpoints.monitor is val/lss", "val/loss"]),
    # what is missing
    (["--config", "nowhere.yaml"], ["no file nowhere.yaml", "looked for"]),
    (["--config", "bse.yaml"], ["did you mean base.yaml?"]),
    (["--data.dataset", "TextFiles"], ["data.dataset", "required: paths"]),
    (["--model.network", "null"], ["required: network"]),
    (["--config"], ["--config needs a value"]),
    (["words"], ["unexpected argument 'words'"]),
    (["--trainer", "{}"], ["trainer.max_steps is not set", "--trainer.max_steps 1000"]),
    # what works otherwise here
    (["--ckpt_path", "x.ckpt"], ["--ckpt_path is not used here", "--resume auto", "--init_from"]),
    (["--weights_only", "false"], ["--weights_only is not used here"]),
    (["--trainer.max_epochs", "3"], ["trainer.max_epochs is not used here", "--trainer.max_steps"]),
    (["--name", "../elsewhere"], ["--name '../elsewhere'", "inside runs"]),
    (["--name", ""], ["--name ''"]),
    (["--runs_dir", "base.yaml"], ["base.yaml/base cannot be made", "--runs_dir"]),
    # data
    (["--data.dataset.paths", "nowhere"], ["no file or directory nowhere"]),
    (["--data.dataset.paths", "empty"], ["empty", "holds no file"]),
    (["--data.dataset.paths", "empty.txt"], ["empty.txt is empty"]),
    (["--data.dataset.paths", "short.txt"], ["fewer than one row", "context_length"]),
    (["--data.dataset.paths", "latin.txt"], ["latin.txt", "utf-8"]),
    (["--data.dataset", "null"], ["needs a dataset or shards"]),
    (["--data.shards", "shards"], ["needs a dataset or shards, and not both"]),
    (["--data.dataset", "null", "--data.shards", "corpus"], ["corpus holds no finished token shards", "framework tokenize"]),
    (["--data.tokenizer", "BPE", "--data.tokenizer.path", "nowhere"], ["no tokenizer at nowhere"]),
    (["--model.network.vocab_size", "100"], ["vocab_size is 100", "260 ids", "leave vocab_size out"]),
]


@pytest.mark.parametrize("words, saying", MISTAKES, ids=lambda value: " ".join(value) if isinstance(value, list) else None)
def test_a_mistake_ends_in_one_clear_line(here: Path, refused: Refused, words: list[str], saying: list[str]) -> None:
    for name, text in BAD.items():
        (here / name).write_text(text)
    (here / "empty").mkdir()
    (here / "empty.txt").write_text("")
    (here / "short.txt").write_text("ab")
    (here / "latin.txt").write_bytes("tête-à-tête".encode("latin-1") * 100)
    code = 1 if "--runs_dir" in words else 2
    refused(*FIT, *words, saying=saying, code=code)
    assert not (here / "runs" / "base" / "model").exists()
    assert not (here / "elsewhere").exists()


@pytest.mark.parametrize("words, saying", [(["AdamW", "--model.optimizer.lr", "-1"], "-1.0"), (["torch.optim.LBFGS"], "parameter groups")])
def test_an_optimizer_that_refuses_its_arguments(here: Path, refused: Refused, words: list[str], saying: str) -> None:
    refused(*FIT, "--model.optimizer", *words, saying=["model.optimizer", saying])


def test_nothing_to_train_on(here: Path, refused: Refused) -> None:
    refused("fit", saying=["no model", "--config FILE", "recipes/pretrain.yaml", "--model NAME"])
    refused("fit", "--model", "Pretrain", saying=["no data", "--data NAME", "PackedText"])
    refused("validate", saying=["no model"])
    refused("validate", *FIT[1:], saying=["runs/base has no checkpoint to validate"])
    refused("finetune", saying=["which recipe?", "--recipe NAME", "pretrain"])
    refused("finetune", "--recipe", "pretrian", saying=["no recipe 'pretrian'", "did you mean pretrain?"])
    refused("finetune", "--recipe=pretrain", "--trainer.max_stepz", "1", saying=["did you mean max_steps?"])


def test_debug_shows_the_traceback(here: Path, framework: Any) -> None:
    with pytest.raises(UserError, match="AdamX"):
        framework(*FIT, "--debug", "--model.optimizer", "AdamX")


# what is there already


def test_a_run_that_exists_is_kept(place: Path, here: Path, refused: Refused, framework: Any) -> None:
    """Starting again needs --overwrite, which destroys nothing before the new run has taken a step."""
    run = borrow(place, here)
    before = files(run)
    refused(*FIT, saying=["runs/base holds a run already", "--resume auto", "--name", "--overwrite true"])
    for words in (["--model.network.shape.width", "17"], ["--data.dataset.paths", "nowhere"], ["--model.network.vocab_size", "9"]):
        assert framework(*FIT, "--overwrite", "true", *words).code == 2
        assert files(run) == before
    again = framework(*FIT, "--overwrite", "true", "--trainer.max_steps", 1)
    assert again.code == 0, again.err
    assert losses(run)[-1][0] == 1 and not (run / "checkpoints" / "step-00000004.ckpt").exists()
    assert sorted(path.name for path in run.iterdir()) == ["checkpoints", "config.yaml", "logs", "model"]


def test_resume(place: Path, here: Path, framework: Any) -> None:
    """Longer, from elsewhere, after the data moved: the content counts, not the path."""
    run = borrow(place, here)
    shutil.copytree(here / "corpus", here / "moved")
    words = ["--resume", "auto", "--data.dataset.paths", "moved", "--trainer.max_steps", 6]
    longer = framework(*FIT, *words)
    assert longer.code == 0, longer.err
    assert "note: trainer.max_steps is 6 and was 4" in longer.err
    assert [step for step, _ in losses(run)] == [1, 2, 2, 3, 4, 4, 5, 6, 6]
    assert framework(*FIT, "--name", "fresh", "--resume", "auto", "--trainer.max_steps", 1).code == 0
    branch = framework(*FIT, "--name", "branch", "--resume", run, "--data.dataset.paths", "moved", "--trainer.max_steps", 8)
    assert branch.code == 0 and (here / "runs" / "branch" / "model").is_dir(), branch.err


@pytest.mark.parametrize(
    "words, saying",
    [
        (["--model.network.shape.width", "32"], ["model.network.shape.width is 32 and was 16"]),
        (["--model.optimizer.lr", "0.1"], ["model.optimizer.lr is 0.1 and was 0.003", "--init_from"]),
        (["--model.optimizer", "Muon"], ["model.optimizer", "Muon", "AdamW"]),
        (["--data.seed", "3"], ["data.seed is 3 and was 0"]),
        (["--data.batch_size", "2"], ["data.batch_size is 2 and was 4"]),
        (["--data.tokenizer", "Character"], ["tokenizer"]),
        (["--data.dataset.paths", "other"], ["other data"]),
        (["--resume", "nowhere.ckpt"], ["no checkpoint nowhere.ckpt"]),
        (["--resume", "empty"], ["--resume empty", "no completed checkpoint"]),
        (["--resume", "runs/base/config.yaml"], ["config.yaml"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_resuming_as_another_run_is_refused(place: Path, here: Path, refused: Refused, words: list[str], saying: list[str]) -> None:
    run = borrow(place, here)
    before = files(run / "checkpoints") | files(run / "model")
    (here / "other").mkdir()
    (here / "empty").mkdir()
    for number in range(9):
        (here / "other" / f"{number}.txt").write_text("Something else altogether. " * (10 + number))
    refused(*FIT, "--resume", "auto", *words, saying=saying)
    assert files(run / "checkpoints") | files(run / "model") == before


# damage


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("damage", [flip, truncate])
def test_a_damaged_checkpoint(place: Path, here: Path, refused: Refused, framework: Any, damage: Callable[[Path], None]) -> None:
    """Named, it is refused; `auto` says so and takes the one before; where all are damaged nothing starts afresh."""
    run = borrow(place, here)
    newest, older = run / "checkpoints" / "step-00000004.ckpt", run / "checkpoints" / "step-00000002.ckpt"
    damage(newest)
    refused(*FIT, "--resume", newest, saying=["step-00000004.ckpt is damaged", "use another checkpoint"])
    resumed = framework(*FIT, "--resume", "auto")
    assert resumed.code == 0 and resumed.err.startswith("warning: ") and "step-00000004.ckpt is damaged" in resumed.err, resumed.err
    assert losses(run) == losses(place / "runs" / "base")
    for checkpoint in (newest, older):
        damage(checkpoint)
    refused(*FIT, "--resume", "auto", saying=["every checkpoint in runs/base/checkpoints is damaged"])


@pytest.mark.parametrize("damage, saying", [(flip, "altered"), (truncate, "truncated")])
def test_a_damaged_shard(place: Path, here: Path, refused: Refused, damage: Callable[[Path], None], saying: str) -> None:
    (here / "shards").unlink()
    shutil.copytree(place / "shards", here / "shards")
    damage(here / "shards" / "train-00000.tokens")
    refused(*FIT, "--data.dataset", "null", "--data.shards", "shards", saying=["shards/train-00000.tokens", saying, "tokenize again"])


def test_shards_and_another_tokenizer(here: Path, refused: Refused, framework: Any) -> None:
    words = ["--data.dataset", "null", "--data.shards", "shards"]
    assert framework(*FIT, *words, "--trainer.max_steps", 1).code == 0
    made = framework("train-tokenizer", "bpe", "--dataset", "TextFiles", "--dataset.paths", "corpus", "--vocab_size", 264)
    assert made.code == 0, made.err
    words += ["--name", "other", "--data.tokenizer", "BPE", "--data.tokenizer.path", "bpe"]
    refused(*FIT, *words, saying=["shards in shards were made with another tokenizer", "shards/tokenizer", "tokenize again"])


def test_a_disk_that_is_full(place: Path, here: Path, refused: Refused, framework: Any) -> None:
    """No file may grow over 20 kB from here on: what was saved stays, and the run goes on once there is room."""
    run = borrow(place, here)
    before = files(run / "checkpoints") | files(run / "model")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        refused(*FIT, "--resume", "auto", "--trainer.max_steps", 8, code=1, saying=["step-00000006.ckpt could not be written", "intact"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files(run / "checkpoints") | files(run / "model") == before
    assert framework(*FIT, "--resume", "auto", "--trainer.max_steps", 8).code == 0
    assert [step for step, _ in losses(run)] == [1, 2, 2, 3, 4, 4, 5, 6, 6, 7, 8, 8]


# other weights


def test_init_from(place: Path, here: Path, framework: Any) -> None:
    """Network and tokenizer come from a run; the saved configuration names where from, and repeats it."""
    run = borrow(place, here, "parent")
    words = ["--init_from", "runs/parent", "--name", "child", "--model.optimizer.lr", "1e-9", "--trainer.max_steps", "1"]
    child = framework(*FIT, *words)
    assert child.code == 0, child.err
    assert "note: model.network comes from runs/parent" in child.err
    parent_weights, child_weights = (
        torch.load(path / "checkpoints" / name, weights_only=True)["state_dict"]
        for path, name in ((run, "step-00000004.ckpt"), (here / "runs" / "child", "step-00000001.ckpt"))
    )
    for name in parent_weights:
        torch.testing.assert_close(child_weights[name], parent_weights[name], atol=1e-6, rtol=0)
    repeated = framework("fit", "--config", "runs/child/config.yaml", "--name", "twin")
    assert repeated.code == 0, repeated.err
    assert losses(here / "runs" / "twin") == losses(here / "runs" / "child")


def test_init_from_with_longer_rows(place: Path, here: Path, refused: Refused) -> None:
    """Learned positions cannot be stretched."""
    borrow(place, here, "parent")
    refused(*FIT, "--init_from", "runs/parent", "--name", "child", "--data.context_length", "64", saying=["shorten data.context_length"])
    assert not (here / "runs" / "child").exists()


def test_init_from_mistakes(place: Path, here: Path, refused: Refused) -> None:
    borrow(place, here, "parent")
    fit = (*FIT, "--init_from", "runs/parent", "--name", "child")
    refused(
        *fit,
        "--model.network",
        "Transformer",
        saying=["--init_from runs/parent brings the network", "model.network is given too", "the command line"],
    )
    refused(*fit, "--data.tokenizer", "Byte", saying=["brings the tokenizer", "data.tokenizer is given too"])
    refused(*FIT, "--init_from", "runs/nowhere", saying=["there is no directory runs/nowhere", "a finished run"])
    refused(*FIT, "--init_from", "corpus", saying=["corpus is no model directory"])
    flip(here / "runs" / "parent" / "model" / "model.safetensors")
    refused(*fit, saying=["model.safetensors is damaged"])
    (here / "runs" / "parent" / "model" / "model.safetensors").unlink()
    refused(*fit, saying=["model.safetensors is missing"])
    assert not (here / "runs" / "child").exists()


# plugins

HALVING = """
import torch

class Halving(torch.optim.SGD):
    def __init__(self, params, lr: float = 0.5) -> None:
        super().__init__(params, lr=lr)
"""


def test_a_plugin_trains_and_is_named(here: Path, framework: Any, install: Callable[..., None]) -> None:
    install("framework-halving", HALVING, "framework.optimizers", "Halving", version="2.5")
    trained = framework(*FIT, "--model.optimizer", "Halving", "--trainer.max_steps", 1)
    assert trained.code == 0, trained.err
    run = here / "runs" / "base"
    assert torch.load(run / "checkpoints" / "step-00000001.ckpt", weights_only=True)["framework"]["plugins"] == {"framework-halving": "2.5"}
    assert json.loads((run / "model" / "framework.json").read_text())["lineage"]["plugins"] == {"framework-halving": "2.5"}
    assert yaml.safe_load((run / "config.yaml").read_text())["model"]["init_args"]["optimizer"]["init_args"] == {"lr": 0.5}


def test_a_broken_plugin_is_named_and_harms_nobody_else(here: Path, refused: Refused, framework: Any, install: Callable[..., None]) -> None:
    install("framework-broken", "import nowhere", "framework.optimizers", "Broken", version="3.1")
    saying = ["framework.optimizers.Broken", "framework-broken 3.1", "No module named 'nowhere'", "uninstall framework-broken"]
    refused(*FIT, "--model.optimizer", "Broken", saying=saying)
    assert framework(*FIT, "--trainer.max_steps", 1).code == 0


def test_two_plugins_of_one_name(here: Path, refused: Refused, framework: Any, install: Callable[..., None]) -> None:
    install("framework-one", HALVING, "framework.optimizers", "Halving")
    install("framework-two", HALVING, "framework.optimizers", "Halving", version="2.0")
    refused(*FIT, "--model.optimizer", "Halving", saying=["framework-one 1.0", "framework-two 2.0", "full import path"])
    assert framework(*FIT, "--model.optimizer", "framework_two.Halving", "--trainer.max_steps", 1).code == 0
    state = torch.load(here / "runs" / "base" / "checkpoints" / "step-00000001.ckpt", weights_only=True)
    assert state["framework"]["plugins"] == {"framework-two": "2.0"}
