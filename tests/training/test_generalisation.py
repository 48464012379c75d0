"""The generalisation monitor in real runs: it says what is so, touches nothing, and resumes to the bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from framework.batches.demonstrations import Demonstrations
from framework.batches.packed_text import PackedText
from framework.batches.preferences import Preferences
from framework.datasets.json_lines import JsonLines
from framework.datasets.text_files import TextFiles
from framework.engine.engine import Engine
from framework.engine.request import Request
from framework.errors import ConfigError
from framework.networks.scalar_head import ScalarHead
from framework.networks.shape import NetworkShape
from framework.networks.transformer import Transformer
from framework.optimizers.adamw import AdamW
from framework.recipes.reward_model import RewardModel
from framework.recipes.sft import SFT
from framework.samplers.selection import Greedy
from framework.tasks.estimates import ratio
from framework.tokenizers.byte import Byte
from framework.training.checkpoints import Checkpoints
from framework.training.generalisation import Generalisation
from framework.training.run_log import RunLog

SMALL: dict[str, Any] = {"prefix_tokens": 8, "continuation_tokens": 4, "windows": 8, "samples": 4, "sample_tokens": 12, "ngram_tokens": 3}
SHORT: dict[str, Any] = {"val_check_interval": 2, "limit_val_batches": 6, "max_steps": 8}


def fitted(small_run: Callable[..., Any], folder: Path, *callbacks: Any, ckpt_path: Path | None = None, **arguments: Any) -> Any:
    arguments = {"dropout": 0.3, "data_arguments": {"validation_fraction": 0.2}, **SHORT, **arguments}
    checkpoints = any(isinstance(each, Checkpoints) for each in callbacks)
    recipe, data, trainer = small_run(
        logger=[RunLog(folder / "logs")],
        callbacks=list(callbacks),
        enable_checkpointing=checkpoints,
        default_root_dir=folder,
        **arguments,
    )
    torch.manual_seed(0)
    trainer.fit(recipe, data, ckpt_path=ckpt_path)
    return recipe


def read(folder: Path, name: str = "metrics") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "logs" / f"{name}.jsonl").read_text().splitlines()]


def of_monitor(folder: Path) -> list[dict[str, Any]]:
    return [line for line in read(folder) if any(name.startswith("generalisation/") for name in line)]


def test_training_is_not_touched_and_figures_are_logged(small_run: Callable[..., Any], tmp_path: Path) -> None:
    plain = fitted(small_run, tmp_path / "plain")
    monitor = Generalisation(canaries=["The cat {sat}"], every_n_validations=2, **SMALL)
    watched = fitted(small_run, tmp_path / "watched", monitor)
    for one, other in zip(plain.parameters(), watched.parameters(), strict=True):
        assert torch.equal(one, other)
    lines = of_monitor(tmp_path / "watched")
    losses = {"step", "generalisation/train_loss", "generalisation/gap"}
    probes = {"reproduced", "reproduced_validation", "ngrams_seen", "ngrams_seen_validation", "exposure_0"}
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    assert [line.keys() for line in lines] == [losses, losses | {f"generalisation/{name}" for name in probes}] * 2
    log = read(tmp_path / "watched")
    assert len(read(tmp_path / "watched", "generalisation")) == 4
    for evaluated, line in zip(monitor.history, lines):
        validation = next(each["val/loss"] for each in log if each["step"] == line["step"] and "val/loss" in each)
        assert evaluated.loss == pytest.approx(validation, rel=1e-12)  # summed in another order
        assert line["generalisation/gap"] == evaluated.loss - line["generalisation/train_loss"]
        assert len(evaluated.tokens) == 6 and ratio(evaluated.nats, evaluated.tokens).low is not None


def test_the_training_loss_is_that_of_the_steps_since(small_run: Callable[..., Any], tmp_path: Path) -> None:
    monitor = Generalisation(**SMALL)
    fitted(small_run, tmp_path, monitor, log_every_n_steps=2)
    logged = [line["train/loss"] for line in read(tmp_path) if "train/loss" in line]
    assert [evaluated.train_loss for evaluated in monitor.history] == pytest.approx(logged, rel=1e-12)


def test_reproduced_is_what_a_greedy_reply_of_the_engine_would_be(small_run: Callable[..., Any], tmp_path: Path) -> None:
    monitor = Generalisation(windows=64, prefix_tokens=8, continuation_tokens=3, samples=0)
    recipe = fitted(small_run, tmp_path, monitor, dropout=0.0, max_steps=120, val_check_interval=120, batch_size=8)
    windows = monitor._trained.windows
    engine = Engine(recipe.network)
    same = [
        [event.token_id for event in engine.stream(Request(window.prefix, 3, samplers=[Greedy()]))] == window.continuation
        for window in windows
    ]
    share = read(tmp_path)[-2]["generalisation/reproduced"]
    assert len(windows) > 50 and share == sum(same) / len(windows) and 0.1 < share < 0.9


def test_every_loss_it_compares_survives_an_interruption(small_run: Callable[..., Any], tmp_path: Path) -> None:
    whole = Generalisation(**SMALL)
    fitted(small_run, tmp_path / "whole", whole, Checkpoints(every_n_steps=3, keep_last=9, keep_best=0))
    for step in (3, 6):  # between validations, and at one
        resumed = Generalisation(**SMALL)
        folder = tmp_path / f"from {step}"
        at = tmp_path / "whole" / "checkpoints" / f"step-{step:08d}.ckpt"
        fitted(small_run, folder, resumed, Checkpoints(every_n_steps=0, keep_best=0), ckpt_path=at)
        assert resumed.state_dict() == whole.state_dict()
        lines = of_monitor(tmp_path / "whole")
        assert of_monitor(folder) == [line for line in lines if line["step"] > step or (line["step"] == step == 6)]


def test_a_recipe_that_predicts_no_tokens_is_refused(small_run: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n' * 20)
    _, _, trainer = small_run(callbacks=[Generalisation()])
    judge = RewardModel(network=lambda **sizes: ScalarHead(lambda **more: Transformer(NetworkShape(1, 16, 2), **more), **sizes))  # type: ignore[arg-type, call-arg]
    with pytest.raises(ConfigError, match="RewardModel is judged by something else"):
        trainer.fit(judge, Preferences(JsonLines(str(tmp_path / "pairs.jsonl")), Byte(), context_length=16, batch_size=2))


def test_senseless_settings_are_refused() -> None:
    for wrong in ({"patience": 0}, {"index_mebibytes": 0}, {"samples": 9, "windows": 8}, {"sample_tokens": 7}, {"min_improvement": -1.0}):
        with pytest.raises(ValueError, match="at least"):
            Generalisation(**wrong)
    with pytest.raises(ConfigError, match="marks no secret"):
        Generalisation(canaries=["no braces"])


def test_rows_too_short_for_a_window_are_said(small_run: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fitted(small_run, tmp_path, Generalisation())  # rows of 16 tokens, windows of 64
    assert capsys.readouterr().err.count("no training row has a window") == 1
    assert all(line.keys() == {"step", "generalisation/train_loss", "generalisation/gap"} for line in of_monitor(tmp_path))


# stories


SENTENCES = 5  # of random letters: there is nothing to do but to know them by heart


@pytest.fixture
def by_heart(tmp_path: Path) -> Any:
    """Text of which nothing can be learnt that holds elsewhere: random letters, the held-out part other ones; with a planted secret."""
    draw = torch.Generator().manual_seed(0)
    for side, count in (("train", SENTENCES), ("validation", 40)):
        (tmp_path / side).mkdir()
        for number in range(count):
            letters = torch.randint(97, 123, (60,), generator=draw).tolist()
            (tmp_path / side / f"{number}.txt").write_text(bytes(letters).decode())
    (tmp_path / "train" / "secret.txt").write_text("the code is 4921857")
    return tmp_path


def overfitted(small_run: Callable[..., Any], folder: Path, logs: Path, **arguments: Any) -> Any:
    monitor = Generalisation(
        **{"prefix_tokens": 12, "continuation_tokens": 12, "sample_tokens": 20, "ngram_tokens": 6, "every_n_validations": 8, **arguments}
    )
    recipe, _, trainer = small_run(
        callbacks=[monitor], logger=[RunLog(logs / "logs")], max_steps=400, val_check_interval=50, limit_val_batches=10
    )
    texts = {side: TextFiles(str(folder / side)) for side in ("train", "validation")}
    trainer.fit(recipe, PackedText(texts["train"], Byte(), context_length=32, batch_size=8, validation_dataset=texts["validation"]))
    return recipe


def test_overfitting_is_called_so(
    small_run: Callable[..., Any], by_heart: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overfitted(small_run, by_heart, tmp_path, canaries=["the code is {4921857}"])
    said = read(tmp_path, "generalisation")
    assert [line["verdict"] for line in said[:3]] == ["too early"] * 3 and said[-1]["verdict"] == "overfitting"
    assert "while the training loss fell" in said[-1]["reason"]
    assert capsys.readouterr().err.count("overfitting: the validation loss was lowest") == 1  # said once, however long it lasts
    last = of_monitor(tmp_path)[-1]
    assert last["generalisation/gap"] > 1.0
    assert last["generalisation/reproduced"] > 0.5 and last["generalisation/reproduced_validation"] == 0
    assert last["generalisation/ngrams_seen"] > last["generalisation/ngrams_seen_validation"] + 0.2
    assert last["generalisation/exposure_0"] == 8.0  # the likeliest of 256


def test_overfitting_may_end_the_run(
    small_run: Callable[..., Any], by_heart: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = overfitted(small_run, by_heart, tmp_path, stop_when="overfitting", windows=0, samples=0)
    said = read(tmp_path, "generalisation")
    assert recipe.progress.step == said[-1]["step"] < 400 and said[-1]["verdict"] == "overfitting"
    assert "overfitting" not in {line["verdict"] for line in said[:-1]} and "stopping: overfitting" in capsys.readouterr().err


def test_learning_is_called_so(small_run: Callable[..., Any], tmp_path: Path) -> None:
    """Sentences of a small grammar: what is learnt of some holds for the others."""
    monitor = Generalisation(stop_when="overfitting", **SMALL)
    recipe = fitted(small_run, tmp_path, monitor, dropout=0.0, max_steps=60, val_check_interval=10, limit_val_batches=8, batch_size=8)
    said = [line["verdict"] for line in read(tmp_path, "generalisation")]
    assert recipe.progress.step == 60 and said == ["too early"] * 3 + ["still learning"] * 3


def test_a_rate_of_zero_has_converged(small_run: Callable[..., Any], tmp_path: Path) -> None:
    monitor = Generalisation(stop_when="converged", **SMALL)
    still = {"optimizer": lambda groups: AdamW(groups, lr=0.0)}
    recipe = fitted(small_run, tmp_path, monitor, recipe_arguments=still, max_steps=60, val_check_interval=5)
    assert [line["verdict"] for line in read(tmp_path, "generalisation")] == ["too early"] * 3 + ["converged"]
    assert recipe.progress.step == 20


def test_fine_tuning(tmp_path: Path, small_run: Callable[..., Any]) -> None:
    """Random answers to numbered questions: known by heart in the training part, and there only."""
    draw = torch.Generator().manual_seed(0)
    answers = ["".join(map(str, torch.randint(0, 10, (4,), generator=draw).tolist())) for _ in range(60)]
    for side, numbers in (("train", range(24)), ("validation", range(24, 60))):
        rows = [{"prompt": f"{number:02}?", "completion": answers[number]} for number in numbers]
        (tmp_path / f"{side}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monitor = Generalisation(prefix_tokens=2, continuation_tokens=8, sample_tokens=8, ngram_tokens=3, every_n_validations=10)
    _, _, trainer = small_run(
        callbacks=[monitor], logger=[RunLog(tmp_path / "logs")], max_steps=500, val_check_interval=50, limit_val_batches=9
    )
    recipe = SFT(
        network=lambda **sizes: Transformer(NetworkShape(2, 32, 2), **sizes),  # type: ignore[misc]
        optimizer=lambda groups: AdamW(groups, lr=1e-2),
    )
    data = Demonstrations(
        JsonLines(str(tmp_path / "train.jsonl")),
        Byte(),
        context_length=32,
        batch_size=4,
        validation_dataset=JsonLines(str(tmp_path / "validation.jsonl")),
    )
    trainer.fit(recipe, data)
    last = of_monitor(tmp_path)[-1]
    assert read(tmp_path, "generalisation")[-1]["verdict"] == "overfitting"
    assert last["generalisation/reproduced"] > 0.5 and last["generalisation/reproduced_validation"] < 0.1
    assert len(monitor._trained.windows) > 15 and all(window.continuation[-1] == Byte().eos_id for window in monitor._trained.windows)


@pytest.mark.slow
def test_two_processes_agree(tmp_path: Path, corpus: Path) -> None:
    """Both ranks stop at the same step, the losses are those of both, and one of them writes."""
    import sys

    sys.path.insert(0, str(Path(__file__).parents[1] / "laws"))
    from runs import carry_out, settings  # type: ignore[import-not-found]

    configuration = settings(corpus)
    monitor = {"stop_when": "converged", **SMALL, "min_improvement": 100.0, "patience": 1}
    configuration["trainer"]["callbacks"] = [{"class_path": "framework.training.generalisation.Generalisation", "init_args": monitor}]
    configuration["trainer"].update(limit_val_batches=4, val_check_interval=10, accumulate_grad_batches=1)
    two = {"ranks": 2, "arguments": ["--trainer.devices", "2", "--trainer.strategy", "ddp"]}
    done = carry_out(tmp_path / "two", configuration, two)
    assert done.codes == [[0, 0]], done.output
    assert done.state["framework"]["progress"]["step"] == 20 and done.output.count("stopping: converged") == 1
    said = [line for line in done.log if "verdict" in line]
    assert [line["verdict"] for line in said] == ["too early", "converged"]
    by_step = {line["step"]: line for line in done.log if "val/loss" in line}
    for line in done.log:
        if "generalisation/gap" in line:
            assert line["generalisation/train_loss"] + line["generalisation/gap"] == pytest.approx(by_step[line["step"]]["val/loss"])
