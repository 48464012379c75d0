"""Every key of a configuration is one that somebody reads; the check itself, without Lightning."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from framework.commands.check import check, load
from framework.commands.compose import compose
from framework.errors import ConfigError


@dataclass
class Size:
    width: int
    depth: int = 1


class Machine:
    def __init__(self, speed: int = 1, size: Size | None = None) -> None: ...


class Anything:
    def __init__(self, **settings: Any) -> None: ...


MODEL = "model: {class_path: Pretrain, init_args: {network: Transformer, optimizer: AdamW}}\ndata: {class_path: PackedText, init_args: {tokenizer: Byte}}\n"


def checked(tmp_path: Path, text: str, *words: str) -> None:
    (tmp_path / "run.yaml").write_text(MODEL + text)
    check(compose(["--config", str(tmp_path / "run.yaml"), *words]), {"machine": Machine, "anything": Anything}, ["name"])


@pytest.mark.parametrize(
    "text, words",
    [
        ("name: x\nmachine: {speed: 3, size: {width: 2}}", []),
        ("anything: {goes: here}", ["--anything.there", "too"]),
        ("", ["--machine.size.width", "3", "--machine.speed", "1", "--name", "x"]),
        (
            "",
            ["--model.network.shape.num_layers", "3", "--model.init_args.network.init_args.shape.width", "3", "--model.optimizer.lr", "1"],
        ),
        ("", ["--model.optimizer", "torch.optim.SGD", "--model.optimizer.momentum", "0.9"]),
        ("machine:", []),
    ],
)
def test_what_is_known_passes(tmp_path: Path, text: str, words: list[str]) -> None:
    checked(tmp_path, text, *words)


@pytest.mark.parametrize(
    "text, words, message",
    [
        ("nam: x", [], r"no key nam \(from .*run\.yaml:3\); did you mean name\?"),
        ("machine: {sped: 3}", [], r"no key sped of Machine \(from .*run\.yaml:3\); did you mean speed\?"),
        ("machine: {size: {with: 3}}", [], r"no key with of size \(from .*:3\); did you mean width\?"),
        ("machine: 3", [], r"machine is 3 \(from .*:3\); it takes settings"),
        ("ckpt_path: x", [], r"ckpt_path \(from .*:3\) is not used here: --resume auto"),
        ("", ["--machine.size.with", "3"], r"no key with of size \(from the command line\)"),
        ("", ["--machine.sped", "3"], r"no key sped of Machine"),
        ("", ["--model.network.shap.width", "3"], r"no key shap of Transformer .* did you mean shape\?"),
        ("", ["--model.network.shape.wdth", "3"], r"no key wdth of shape"),
        ("", ["--model.optimizer", "torch.optim.SGD", "--model.optimizer.betas", "3"], r"no key betas of SGD"),
        ("", ["--ckpt_path", "x"], r"--ckpt_path is not used here"),
        ("", ["--model", "{class_path: Pretrain, init_arg: {}}"], r"no key init_arg of model"),
        ("", ["--data", "null"], r"the configuration has no data: give --config FILE.* PackedText"),
    ],
)
def test_what_is_not_is_named(tmp_path: Path, text: str, words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        checked(tmp_path, text, *words)
    assert "\n" not in str(caught.value)


def test_help_needs_no_model() -> None:
    check(compose(["--help"]), {}, [])


def test_loading() -> None:
    from collections import OrderedDict

    from framework.optimizers.adamw import AdamW

    assert load("framework.optimizers.AdamW", "here") is AdamW
    assert load("collections.OrderedDict", "here") is OrderedDict
    for path, message in [
        ("collections.OrderedDcit", r"no OrderedDcit in collections \(from here\); did you mean OrderedDict\?"),
        ("nowhere.Thing", r"nowhere\.Thing \(from here\) cannot be imported: No module named 'nowhere'"),
        ("framework.optimizers.AdamWW", r"no AdamWW in framework\.optimizers \(from here\); did you mean AdamW\?"),
    ]:
        with pytest.raises(ConfigError, match=message):
            load(path, "here")
