"""`framework inspect-training`: a recipe's YAML in; text, page and numbers out; no run left."""

from __future__ import annotations

import io
import json
import re
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from framework.commands.inspect_training import inspect_training
from framework.errors import ConfigError


@pytest.fixture
def look(here: Path) -> Callable[..., tuple[str, str]]:
    def run(*words: object) -> tuple[str, str]:
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err), warnings.catch_warnings():
            assert inspect_training([str(word) for word in words]) == 0
        return out.getvalue(), err.getvalue()

    return run


def test_text_page_and_numbers_agree_and_no_run_is_left(here: Path, look: Callable[..., tuple[str, str]]) -> None:
    out, err = look("base.yaml", "--steps-before", 2, "--rows=1", "--weights", "norm.weight[3],blocks.0.attention.qkv.weight[0,1]",
                    "--html", "page.html", "--json", "numbers.json")  # fmt: skip
    numbers = json.loads((here / "numbers.json").read_text())
    assert numbers["summary"]["step"] == 3 and numbers["summary"]["recipe"] == "Pretrain"
    assert len(numbers["batch"]["rows"]) == 1 and numbers["batch"]["of"] == 4
    assert [(one["parameter"], one["index"]) for one in numbers["weights"]] == [
        ("norm.weight", [3]),
        ("blocks.0.attention.qkv.weight", [0, 1]),
    ]
    embedded = re.search(r'<script type="application/json" id="learning">(.*?)</script>', (here / "page.html").read_text(), re.S)
    assert embedded is not None and json.loads(embedded[1]) == numbers
    assert "Pretrain, step 3" in out and "norm.weight[3] (vector)" in out and "\033" not in out
    assert "wrote page.html" in err and "finished" not in err
    assert not list((here / "runs").iterdir())


def test_overrides_as_fit_takes_them(look: Callable[..., tuple[str, str]], here: Path) -> None:
    look("base.yaml", "--model.optimizer", "Muon", "--model.optimizer.lr", "0.01", "--trainer.callbacks+=EarlyStopping",
         "--trainer.callbacks.monitor", "val/loss", "--json", "numbers.json")  # fmt: skip
    summary = json.loads((here / "numbers.json").read_text())["summary"]
    assert summary["optimizer"] == "Muon" and summary["learning_rate"] == 0.01 and summary["step"] == 1


def test_a_resumed_run_s_next_step(place: Path, look: Callable[..., tuple[str, str]], here: Path) -> None:
    checkpoint = place / "runs" / "base" / "checkpoints" / "step-00000002.ckpt"
    look("base.yaml", "--resume", checkpoint, "--json", "numbers.json")
    resumed = json.loads((here / "numbers.json").read_text())
    look("base.yaml", "--steps_before", 2, "--json", "numbers.json")
    assert resumed == json.loads((here / "numbers.json").read_text())
    assert resumed["summary"]["step"] == 3


@pytest.mark.parametrize(
    ("words", "saying"),
    [
        (["--steps_before", "-1"], "--steps_before is '-1'; it takes a whole number of at least 0"),
        (["--rows", "0"], "--rows is '0'"),
        (["--rows"], "--rows needs a value"),
        (["--color", "blue"], "--color is 'blue'"),
        (["--weights", "norm"], "'norm' names no weight"),
        (["--weights", "nrm.weight[0]"], "no parameter nrm.weight; did you mean norm.weight?"),
        (["--weights", "norm.weight[99]"], "norm.weight[99] is outside of norm.weight, whose shape is [16]"),
        (["--steps_before", "4"], "the run ended before its step 5"),
        (["--resume", "auto"], "--resume runs/NAME"),
        (["--model.optimizer.lrr", "1"], "lrr"),
    ],
)
def test_mistakes_in_one_line(look: Callable[..., tuple[str, str]], words: list[str], saying: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(saying)) as caught:
        look("base.yaml", *words)
    assert "\n" not in str(caught.value)


def test_help_needs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect_training(["--help"]) == 0 and "--steps_before" in capsys.readouterr().out
    assert inspect_training([]) == 2
