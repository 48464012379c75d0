"""`framework plan`: what it prints and writes, without torch; and a probe of real steps."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from framework.commands.plan import plan
from framework.errors import ConfigError

ROOT = Path(__file__).parents[2]
PRETRAIN = str(ROOT / "recipes" / "pretrain.yaml")
CODE = "import sys; from framework.commands.plan import plan; plan(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"


def test_it_imports_no_torch(tmp_path: Path) -> None:
    words = [
        PRETRAIN,
        "--hardware",
        "h100",
        "--gpus",
        "8",
        "--price",
        "2.5",
        "--json",
        str(tmp_path / "plan.json"),
        "--html",
        str(tmp_path / "plan.html"),
    ]
    done = subprocess.run([sys.executable, "-c", CODE, *words], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not {"torch", "lightning", "transformers", "jsonargparse"} & set(done.stderr.split())


def test_the_text_is_the_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "plan.json"
    words = ["--model.network.shape.width", "256", "--trainer.max_steps", "1000", "--hardware", "h100", "--gpus", "8", "--price", "2.5"]
    assert plan([PRETRAIN, *words, "--trainer.precision", "bf16-mixed", "--json", str(file)]) == 0
    text, found = capsys.readouterr().out, json.loads(file.read_text())
    total = sum(part["parameters"] for part in found["parameters"])
    tokens = 1000 * 16 * 256 * 8
    assert f"{total:,}" in text and f"{tokens:,} in all" in text and found["run"]["tokens"] == tokens
    flops = tokens * found["operations"]["per_token"]
    assert found["operations"]["total"] == flops and f"{flops:.4g} FLOPs" in text
    assert found["operations"]["petaflop_days"] == pytest.approx(flops / 8.64e19)
    hours = flops / (8 * 0.4 * 989e12) / 3600
    assert found["time"]["hours"] == pytest.approx(hours) and found["time"]["cost"] == pytest.approx(hours * 8 * 2.5)
    copies, sharded = found["memory"]
    assert copies["peak_bytes"] == max(sum(moment["components"].values()) for moment in copies["moments"])
    assert sharded["peak_bytes"] < copies["peak_bytes"] and copies["fits"] and sharded["name"] == "sharded (FSDP2)"
    assert found["compute_optimal"]["tokens_a_parameter"] == pytest.approx(tokens / total)
    assert found["probe"] is None


def test_the_page_asks_nothing_of_the_network(tmp_path: Path) -> None:
    file = tmp_path / "plan.html"
    assert plan([PRETRAIN, "--hardware", "l4", "--html", str(file)]) == 0
    page = file.read_text(encoding="utf-8")
    assert "optimizer states" in page and "compute-optimal" in page and not re.search(r"(src|href)=|https?://", page)


def test_without_hardware_there_is_no_time(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan([PRETRAIN]) == 0
    text = capsys.readouterr().out
    assert "--hardware NAME says whether they fit" in text and "--probe 20 measures it" in text


@pytest.mark.parametrize(
    ("words", "flops"),
    [
        (["--budget", "1e21"], 1e21),
        (["--budget", "10h", "--hardware", "h100", "--gpus", "2", "--mfu", "0.5"], 10 * 3600 * 2 * 0.5 * 67e12),
        (["--budget", "500usd", "--hardware", "h100", "--gpus", "2", "--price", "2.5"], 500 / 2.5 * 3600 * 0.4 * 67e12),
        (["--budget", "$500", "--hardware", "h100", "--price", "2.5", "--trainer.precision", "bf16-true"], 200 * 3600 * 0.4 * 989e12),
    ],
)
def test_budgets(words: list[str], flops: float, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    assert plan([PRETRAIN, *words, "--json", str(file)]) == 0
    found = json.loads(file.read_text())["compute_optimal"]
    assert found["flops"] == pytest.approx(flops) and not found["is_own"]
    assert all(6 * each["parameters"] * each["tokens"] == pytest.approx(flops) for each in found["optima"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--gpus", "0"], "--gpus is '0'; it takes a whole number of at least 1"),
        (["--price", "-1"], "--price is '-1'; it takes a number over 0"),
        (["--mfu", "40"], "--mfu is 40; it is a share of the peak"),
        (["--budget", "24h"], "--budget 24h needs --hardware NAME"),
        (["--budget", "9usd", "--hardware", "h100"], "needs --hardware NAME and --price P"),
        (["--hardware", "h10"], "--hardware h10 is not known; did you mean h100"),
        (["--json"], "--json needs a value"),
        (["--help.me", "x"], "--help.me|help"),
    ],
)
def test_mistakes(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        plan([PRETRAIN, *words])


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan([]) == 2 and plan(["--help"]) == 0
    assert "--hardware NAME" in capsys.readouterr().out


def test_a_probe_runs_the_run_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("the cat sat on the mat. " * 400)
    file = tmp_path / "plan.json"
    words = ["--data.dataset", "TextFiles", "--data.dataset.paths", "text.txt", "--data.tokenizer", "Byte", "--data.batch_size", "4"]
    words += [
        "--data.context_length",
        "64",
        "--trainer.callbacks",
        "null",
        "--data.split",
        "tail",
        "--trainer.enable_progress_bar",
        "false",
    ]
    assert plan([PRETRAIN, *words, "--probe", "3", "--price", "1", "--json", str(file)]) == 0
    found = json.loads(file.read_text())
    probe = found["probe"]
    assert probe["steps"] == 3 and probe["seconds_per_step"] > 0
    assert probe["predicted_bytes"] == found["memory"][0]["peak_bytes"] == pytest.approx(probe["tensor_bytes"], rel=0.10)
    assert probe["process_bytes"] > probe["tensor_bytes"]
    assert probe["tokens_per_second"] == pytest.approx(256 / probe["seconds_per_step"])
    assert probe["flops_per_second"] == pytest.approx(probe["tokens_per_second"] * found["operations"]["per_token"])
    assert found["time"]["hours"] == pytest.approx(500 * probe["seconds_per_step"] / 3600)
    assert "RSS" in capsys.readouterr().out and not (tmp_path / "runs").exists()


def test_what_a_model_is_adapted_to_is_counted(tmp_path: Path) -> None:
    def planned(*words: str) -> tuple[int, int]:
        """Parameters, and bytes of the weights."""
        file = tmp_path / "plan.json"
        assert plan(["recipes/lora-sft.yaml", "--init_from", "tiny", *words, "--json", str(file)]) == 0
        found = json.loads(file.read_text())
        return sum(part["parameters"] for part in found["parameters"]), found["memory"][0]["moments"][0]["components"]["weights"]

    exact, rounded = planned(), planned("--adapt.quantize", "int8", "--adapt.new_tokens", '["<a>", "<b>"]')
    linear = 4 * 12 * 128 * 128  # four layers, GPT-2's shape
    grown = 2 * 128
    assert exact[1] - rounded[1] == pytest.approx(linear * (4 - 8.25 / 8) - 4 * grown, abs=100)
    assert rounded[0] - exact[0] == grown
    with pytest.raises(ConfigError, match=r"adapt\.quantize is about the model that a run starts from"):
        plan([PRETRAIN, "--adapt.quantize", "int8"])
