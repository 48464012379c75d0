"""Composition: naming a part replaces it whole, later wins, paths are relative to their file, origins are known."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from framework.commands.compose import Composition, absolute_paths, compose
from framework.errors import ConfigError, UserError

BASE = """
model:
  class_path: Pretrain
  init_args:
    network: {class_path: Transformer, init_args: {shape: {num_layers: 1}}}
    optimizer:
      class_path: AdamW
      init_args: {lr: 0.3, weight_decay: 0.7}
trainer: {max_steps: 5, precision: 64-true}
"""


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").write_text(BASE)
    return "base.yaml"


def optimizer(composition: Composition) -> object:
    return composition.get("model.optimizer")


MUON = {"class_path": "framework.optimizers.Muon"}


@pytest.mark.parametrize(
    "words", [["--model.optimizer", "Muon"], ["--model.optimizer=Muon"], ["--model.optimizer", "framework.optimizers.Muon"]]
)
def test_naming_by_class_replaces_the_part_whole(base: str, words: list[str]) -> None:
    assert optimizer(compose(["--config", base, *words])) == MUON


def test_naming_by_file_replaces_the_part_whole(base: str, tmp_path: Path) -> None:
    (tmp_path / "muon.yaml").write_text("class_path: Muon\ninit_args: {lr: 0.02}\n")
    composition = compose(["--config", base, "--model.optimizer", "muon.yaml"])
    assert optimizer(composition) == {**MUON, "init_args": {"lr": 0.02}}
    assert composition.origin(composition.full_path("model.optimizer.lr")) == f"{Path('muon.yaml')}:2"


@pytest.mark.parametrize("value", ["Muon", "{class_path: Muon}", "muon.yaml"])
def test_a_later_config_replaces_the_part_whole(base: str, tmp_path: Path, value: str) -> None:
    (tmp_path / "muon.yaml").write_text("class_path: Muon\n")
    (tmp_path / "more.yaml").write_text(f"model: {{init_args: {{optimizer: {value}}}}}\n")
    composition = compose(["--config", base, "--config", "more.yaml"])
    assert optimizer(composition) == MUON
    assert composition.get("model.network.shape.num_layers") == 1


def test_a_later_config_without_a_class_edits(base: str, tmp_path: Path) -> None:
    (tmp_path / "more.yaml").write_text("model: {init_args: {optimizer: {lr: 0.1}}}\n")
    assert optimizer(compose(["--config", base, "--config", "more.yaml"])) == {
        "class_path": "framework.optimizers.AdamW",
        "init_args": {"lr": 0.1, "weight_decay": 0.7},
    }


def test_a_section_by_file_replaces_it_whole(base: str, tmp_path: Path) -> None:
    (tmp_path / "smoke.yaml").write_text("max_steps: 2\n")
    assert compose(["--config", base, "--trainer", "smoke.yaml"]).config["trainer"] == {"max_steps": 2}


def test_edits_before_a_replacement_are_forgotten_and_after_it_kept(base: str) -> None:
    words = ["--model.optimizer.lr", "1", "--model.optimizer", "Muon", "--model.optimizer.momentum", "0.9"]
    assert compose(["--config", base, *words]).overrides == [("model.optimizer.momentum", "0.9")]


def test_a_config_after_an_argument_wins_where_it_speaks(base: str) -> None:
    words = ["--trainer.max_steps", "9", "--trainer.devices", "3", "--config", base]
    assert compose(words).overrides == [("trainer.devices", "3")]


def test_null_removes_a_part(base: str) -> None:
    assert optimizer(compose(["--config", base, "--model.optimizer", "null"])) is None


def test_paths_inside_a_yaml_are_relative_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "there"
    (folder / "parts").mkdir(parents=True)
    (folder / "parts" / "text.yaml").write_text("class_path: TextFiles\ninit_args: {paths: [a.txt, /b.txt]}\n")
    (folder / "run.yaml").write_text("data: {class_path: PackedText, init_args: {dataset: parts/text.yaml}}\n")
    monkeypatch.chdir(tmp_path)
    assert compose(["--config", "there/run.yaml"]).get("data.dataset.paths") == ["there/parts/a.txt", "/b.txt"]


def test_shared_recipes_are_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert compose(["--config", "recipes/pretrain.yaml"]).config["name"] == "pretrain"


def test_lists_of_parts(base: str) -> None:
    composition = compose(["--config", base, "--trainer.callbacks", "EarlyStopping", "--samplers+=TopK", "--samplers+", "[Greedy, MinP]"])
    assert composition.get("trainer.callbacks") == [{"class_path": "lightning.pytorch.callbacks.EarlyStopping"}]
    assert composition.get("samplers") == [{"class_path": f"framework.samplers.{name}"} for name in ("TopK", "Greedy", "MinP")]
    assert composition.overrides == []


def test_each_part_of_a_list_keeps_its_own_arguments(base: str, tmp_path: Path) -> None:
    """Arguments go to the last part so far; the trainer's `logger` is a list as soon as it has two."""
    (tmp_path / "logger.yaml").write_text("trainer: {logger: {class_path: CSVLogger, init_args: {name: one}}}\n")
    words = ["--samplers+=TopK", "--samplers.k", "3", "--samplers+=TopP", "--samplers.p", "0.5"]
    composition = compose(["--config", base, "--config", "logger.yaml", *words, "--trainer.logger+=TensorBoardLogger"])
    top_k = {"class_path": "framework.samplers.TopK", "init_args": {"k": 3}}
    assert composition.get("samplers") == [top_k, {"class_path": "framework.samplers.TopP"}]
    assert composition.overrides == [("samplers.p", "0.5")]
    loggers = composition.get("trainer.logger")
    assert [logger["class_path"].rpartition(".")[2] for logger in loggers] == ["CSVLogger", "TensorBoardLogger"]
    assert loggers[0]["init_args"] == {"name": "one"}


def test_a_file_names_runs_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data stand beside the file that names them; runs are where they are made, wherever a recipe is installed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shipped").mkdir()
    init_args = {"reward_model": "runs/judge", "path": "words.txt"}
    (tmp_path / "shipped" / "recipe.yaml").write_text(yaml.safe_dump({"init_from": "runs/sft", "model": {"init_args": init_args}}))
    config = compose(["--config", "shipped/recipe.yaml"]).config
    assert config["init_from"] == "runs/sft"
    assert config["model"]["init_args"] == {"reward_model": "runs/judge", "path": "shipped/words.txt"}
    assert absolute_paths(config)["model"]["init_args"]["reward_model"] == f"{tmp_path}/runs/judge"


def test_absolute_paths_of_a_whole_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = {"data": {"paths": ["a/*.txt", "/b", "~/c", "s3://d"], "field": "a"}, "model": {"init_from": "runs/x", "path": None}}
    assert absolute_paths(config) == {
        "data": {"paths": [f"{tmp_path}/a/*.txt", "/b", "~/c", "s3://d"], "field": "a"},
        "model": {"init_from": f"{tmp_path}/runs/x", "path": None},
    }


@pytest.mark.parametrize(
    "words, message",
    [
        (["--config", "nope.yaml"], "there is no file nope.yaml"),
        (["--config", "recipes/pretrian.yaml"], "did you mean recipes/pretrain.yaml"),
        (["--model.optimizer", "Muonn"], "Did you mean Muon?"),
        (["--model.optimizer", "not-a-name"], "names no part"),
        (["--trainer.max_steps"], "--trainer.max_steps needs a value"),
        (["train"], "unexpected argument 'train'"),
        (["--trainer", "five"], "--trainer takes a YAML file or a mapping"),
    ],
)
def test_mistakes_are_named(base: str, words: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        compose(["--config", base, *words])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text, message", [("a: [", "no valid YAML"), ("- 1", "holds no mapping"), ("a: 1\na: 2", "a second time")])
def test_bad_yaml_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        compose(["--config", str(path)])
    assert str(path) in str(caught.value)
