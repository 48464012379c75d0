"""Reports of runs: every number is that of the logs, differences are those of the settings, what is missing is named and harms nothing else."""

from __future__ import annotations

import html
import json
import re
import shutil
import struct
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from framework.errors import ConfigError
from framework.inspection.report import facts as report_facts
from framework.inspection.report import terminal as report_terminal
from framework.inspection.report.facts import Cost, as_json, best, constants, cost, differences, gap, panels, parents
from framework.inspection.report.logs import flattened, read_runs
from framework.inspection.report.page import lines_of, page, spread
from framework.inspection.report.terminal import sparkline

CONFIG: dict[str, Any] = {
    "trainer": {"max_steps": 100, "callbacks": [{"class_path": "a.Samples", "init_args": {"prompts": ["x", "y"]}}]},
    "model": {
        "class_path": "framework.recipes.Pretrain",
        "init_args": {"network": {"class_path": "b.Transformer", "init_args": {"width": 8}}},
    },
    "name": "any",
    "checkpoints": {"monitor": "val/loss", "mode": "min"},
}


def made_run(folder: Path, steps: int = 100, rate: float = 0.1, width: int = 8, extra: dict[str, float] | None = None) -> Path:
    """A run's directory as `fit` leaves it: the loss is 10 / step, a validation every 20 steps 0.5 above it."""
    (folder / "logs").mkdir(parents=True)
    (folder / "model").mkdir()
    lines: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        figures = {"train/loss": 10 / step, "train/learning_rate": rate, "train/gradient_norm": step**0.5, **(extra or {})}
        lines.append(
            {"step": step, **figures, "train/tokens_per_second": 50.0 + step % 2 * 50, "train/mfu": 0.5, "train/tokens": 100.0 * step}
        )
        if step % 20 == 0:
            lines.append({"step": step, "val/loss": 10 / step + 0.5 + (step == 100)})
    (folder / "logs" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    configuration = json.loads(json.dumps(CONFIG))
    configuration["model"]["init_args"]["network"]["init_args"]["width"] = width
    (folder / "config.yaml").write_text(yaml.safe_dump(configuration))
    lineage = {"recipe": "Pretrain", "tokenizer": "aa" * 32, "data": "bb" * 32, "progress": {"step": steps}}
    manifest = {"framework_version": "0.1.0", "sha256": "cc" * 32, "plugins": {"framework-lion": "1.2"}, "lineage": lineage}
    (folder / "model" / "framework.json").write_text(json.dumps(manifest))
    header = json.dumps({"__metadata__": {"format": "pt"}, "w": {"shape": [3, 5]}, "b": {"shape": [7]}}).encode()
    (folder / "model" / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(88))
    return folder


class Reader(HTMLParser):
    """What a page asks of the network, its text, and the data it holds."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.data: dict[str, Any] = {}
        self.words: list[str] = []
        self._script: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "action")]
        self._script = given.get("id") if tag == "script" else self._script

    def handle_data(self, data: str) -> None:
        if self._script is not None:
            self.data[self._script] = json.loads(data)
        else:
            self.words.append(data)

    def handle_endtag(self, tag: str) -> None:
        self._script = None


def test_numbers_on_the_page_are_those_of_the_logs(tmp_path: Path) -> None:
    runs = read_runs([made_run(tmp_path / "one")])
    found = Reader(page(runs))
    logged = [json.loads(line) for line in (tmp_path / "one" / "logs" / "metrics.jsonl").read_text().splitlines()]
    shown = {line["label"]: line["points"] for line in found.data["charts"]["chart-0-linear"]["lines"]}
    assert shown["training"] == [[line["step"], line["train/loss"]] for line in logged if "train/loss" in line]
    assert shown["validation"] == [[line["step"], line["val/loss"]] for line in logged if "val/loss" in line]
    assert found.addresses == [] and "http" not in page(runs).replace("http://www.w3.org/2000/svg", "")
    text = " ".join(found.words)
    for words in (
        "Pretrain",
        "22",
        "10k tokens",
        "2.5 min",
        "66.7 tokens/s",
        "50%",
        "0.1",
        "loss 0.625 at step 80",
        "aa" * 32,
        "framework-lion 1.2",
    ):
        assert words in text, words
    assert "The same all along: learning rate 0.1, MFU 0.5" in text and "105 points" in text


def test_thousands_of_points_are_thinned_and_counted(tmp_path: Path) -> None:
    runs = read_runs([made_run(tmp_path / "long", steps=9000)])
    found = Reader(page(runs))
    (norm,) = [
        chart for chart in found.data["charts"].values() if chart["scale"] == "linear" and chart["lines"][0]["label"] == "gradient norm"
    ]
    points = norm["lines"][0]["points"]
    assert 700 < len(points) < 1600 and f"9,000 points, {len(points):,} of them drawn" in " ".join(found.words)
    assert points[0] == [1, 1.0] and points[-1] == [9000, 9000**0.5]
    assert all(value == step**0.5 for step, value in points)


def test_cost_is_worked_out_of_the_throughput(tmp_path: Path) -> None:
    (run,) = read_runs([made_run(tmp_path / "one")])
    seconds = 50 * 100 / 100 + 50 * 100 / 50  # odd steps at 100 tokens a second, even ones at 50
    assert cost(run) == Cost(100, "tokens", 10_000.0, seconds, 10_000 / seconds, pytest.approx(0.5), None)
    assert best(run) == ("val/loss", 80, 0.625) and gap(run) == pytest.approx(1.5)
    run.series["generalisation/gap"] = run.series["val/loss"]
    assert gap(run) == pytest.approx(1.6)
    run.config.update({"checkpoints.monitor": "val/loss", "checkpoints.mode": "max"})
    assert best(run) == ("val/loss", 100, 1.6)


def test_differences(tmp_path: Path) -> None:
    runs = read_runs([made_run(tmp_path / "one"), made_run(tmp_path / "two", width=16)])
    assert differences(runs) == {"model.network.width": [8, 16]}
    path = tmp_path / "two" / "config.yaml"
    path.write_text(path.read_text().replace("max_steps", "max_time"))
    runs = read_runs([tmp_path / "one", tmp_path / "two"])
    assert differences(runs) == {"trainer.max_steps": [100, "–"], "model.network.width": [8, 16], "trainer.max_time": ["–", 100]}
    text = page(runs)
    assert re.search(r"model.network.width</td><td><span[^>]*>8</span></td><td><span[^>]*>16<", text)
    assert "settings that only some of the runs have (2)" in text
    assert flattened(CONFIG)["trainer.callbacks.0"] == "Samples" and flattened(CONFIG)["trainer.callbacks.0.prompts"] == ["x", "y"]
    assert flattened(CONFIG)["model"] == "Pretrain" and flattened(CONFIG)["model.network.width"] == 8


def test_several_runs_lie_over_each_other(tmp_path: Path) -> None:
    runs = read_runs([made_run(tmp_path / "one"), made_run(tmp_path / "two", steps=50, rate=0.2, extra={"train/more": 1.0})])
    data = Reader(page(runs)).data["charts"]
    lines = data["chart-0-linear"]["lines"]
    assert [(line["label"], line["colour"]) for line in lines] == [
        ("one training", 0),
        ("one validation", 0),
        ("two training", 1),
        ("two validation", 1),
    ]
    assert [len(line["points"]) for line in lines] == [100, 5, 50, 2]
    assert any(line["label"] == "two" for chart in data.values() for line in chart["lines"])
    same = read_runs([made_run(tmp_path / "a" / "run"), made_run(tmp_path / "b" / "run")])
    assert [run.name for run in same] == ["a/run", "b/run"]


def test_panels() -> None:
    from framework.inspection.report.logs import Run, Series

    names = ["train/loss", "val/loss", "val/reward", "rollout/kl", "generalisation/reproduced", "generalisation/reproduced_validation"]
    names += ["train/accuracy", "val/accuracy", "mystery", "train/tokens", "train/skipped_steps", "eval/sums/accuracy", "train/mfu"]
    run = Run("r", Path(), {name: Series([1, 2], [0.0, 0.0 if "skipped" in name else 1.0]) for name in names})
    found = [(panel.group, panel.title, len(panel.figures)) for panel in panels([run])]
    assert found == [
        ("Loss and accuracy", "loss", 2),
        ("Loss and accuracy", "accuracy", 2),
        ("Loss and accuracy", "evaluation sums: accuracy", 1),
        ("Generalisation", "continuations reproduced word for word, share", 2),
        ("Rewards", "validation: reward", 1),
        ("Policy", "rollout: KL", 1),
        ("Optimisation and speed", "MFU", 1),
        ("Other", "mystery", 1),
    ]
    assert constants([run]) == {"train/skipped_steps": 0.0}
    assert [line.dashed for line in lines_of([run], panels([run])[0])] == [False, True]


def test_what_is_damaged_or_missing_is_named(tmp_path: Path) -> None:
    good, bad = made_run(tmp_path / "good"), made_run(tmp_path / "bad")
    log = bad / "logs" / "metrics.jsonl"
    lines = log.read_text().splitlines()
    lines[3] = lines[3][:20]
    lines[5] = '{"step": 5.5, "train/loss": 1}'
    lines[8] = json.dumps({"step": 8, "train/loss": "nan", "train/note": "words"})
    log.write_text("\n".join(lines) + '\n{"step": 101, "tra')
    (bad / "config.yaml").write_text("a: [1")
    (bad / "model" / "framework.json").write_bytes(b"\xff{")
    (bad / "model" / "model.safetensors").write_bytes(b"short")
    (bad / "logs" / "samples.jsonl").write_text("[]\n")
    empty = tmp_path / "empty"
    (empty / "logs").mkdir(parents=True)
    runs = read_runs([good, bad, empty])
    assert runs[0].problems == [] and len(runs[0].series["train/loss"].steps) == 100
    said = "\n".join(runs[1].problems)
    assert "metrics.jsonl: 3 of 106 lines cannot be read, the first of them line 4" in said
    for words in (
        "config.yaml is no valid YAML",
        "framework.json is no valid JSON",
        "no header that can be read",
        "samples.jsonl: 1 of 1 lines",
    ):
        assert words in said
    assert "train/note" not in runs[1].series and runs[1].series["train/loss"].values.count(None) == 1
    assert [problem.startswith("there is no ") for problem in runs[2].problems] == [True] * 3
    text = page(runs)
    assert all(html.escape(problem) in text for run in runs for problem in run.problems) and "1 not finite" in text
    assert "There are no figures to draw" in page(runs[2:])
    assert list(report_terminal.lines(runs)) and as_json(runs)["runs"][2]["series"] == {}


def test_a_directory_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no directory"):
        read_runs([tmp_path / "nothing"])
    with pytest.raises(ConfigError, match="holds no run"):
        read_runs([tmp_path])


def test_lightnings_csv_log_is_read_where_there_is_no_other(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "logs" / "lightning_logs" / "version_0"
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text("epoch,step,train/loss,val/loss\n0,1,2.5,\n0,2,1.5,\n0,2,,1.75\n")
    (run,) = read_runs([tmp_path / "run"])
    assert run.series["train/loss"].finite == [(1, 2.5), (2, 1.5)] and run.series["val/loss"].finite == [(2, 1.75)]
    assert not any("metrics" in problem for problem in run.problems) and "epoch" not in run.series
    (folder / "metrics.csv").write_text("epoch,step,train/loss\n0,1,2.5\n0,two,1.5\n")
    assert any("metrics.csv cannot be read" in problem for problem in read_runs([tmp_path / "run"])[0].problems)


def test_texts_over_time_are_escaped_and_spread(tmp_path: Path) -> None:
    folder = made_run(tmp_path / "run")
    samples = [{"step": step, "prompt": "<p>", "text": f"</script><b>{step}"} for step in range(0, 100, 5)]
    rollouts = [
        {"step": step, "prompt": "1+1=", "reply": str(step), "finished": step > 0, "score": None if step else 0.5} for step in range(3)
    ]
    verdicts = [
        {"step": step, "verdict": "still learning" if step < 3 else "overfitting", "reason": f"because <{step}>"} for step in range(5)
    ]
    for name, rows in (("samples", samples), ("rollouts", rollouts), ("generalisation", verdicts)):
        (folder / "logs" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = page(read_runs([folder]))
    assert text.count("&lt;p&gt;") == 6 and "<b>95" not in text and "&lt;b&gt;95" in text and "6 of 20 steps" in text
    assert (
        "because &lt;2&gt;" in text and "because &lt;4&gt;" in text and "because &lt;3&gt;" not in text
    )  # where they change, and the last
    assert "run, steps 0 to 2: <b>still learning</b>" in text and spread(range(20), 6) == [0, 4, 8, 11, 15, 19]
    assert "overfitting: because <4>" in "\n".join(report_terminal.lines(read_runs([folder])))


def test_evaluations_and_parents(tmp_path: Path) -> None:
    folder = made_run(tmp_path / "run")
    estimate = {"value": 0.522, "low": 0.478, "high": 0.566, "n": 500}
    (folder / "evaluation.json").write_text(json.dumps({"results": [{"task": "sums", "metrics": {"accuracy": estimate}}]}))
    (folder / "other.json").write_text('{"results": 3}')
    configuration = {
        "model": {"network": {"class_path": "x.Pretrained", "init_args": {"path": "runs/base/model"}}, "reward_model": "runs/judge"}
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(configuration))
    (run,) = read_runs([folder])
    assert parents(run) == {"model": "runs/base/model", "reward model": "runs/judge"}
    text = page([run])
    assert "0.522" in text and "0.478 to 0.566" in text and "runs/base/model" in text and run.problems == []


def test_text_in_the_terminal(tmp_path: Path) -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█" and sparkline([1, 1]) == "▁▁"
    assert sparkline([0.0] * 100 + [1.0] * 100, 4) == "▁▁██"
    runs = read_runs([made_run(tmp_path / "one"), made_run(tmp_path / "two", width=16)])
    text = list(report_terminal.lines(runs))
    assert re.split("  +", text[0]) == [
        "run",
        "recipe",
        "parameters",
        "steps",
        "trained on",
        "time",
        "speed",
        "MFU",
        "train loss",
        "best validation",
        "gap",
    ]
    assert text[1].split()[:4] == ["one", "Pretrain", "22", "100"]
    assert any(line.startswith("loss (validation)") and " 1.6 " in line and "█" in line for line in text)
    assert text[-1].split() == ["model.network.width", "8", "16"]


def test_json_has_every_point(tmp_path: Path) -> None:
    runs = read_runs([made_run(tmp_path / "one", steps=3000)])
    found = json.loads(json.dumps(as_json(runs), allow_nan=False))["runs"][0]
    assert found["series"]["train/gradient_norm"]["values"] == [step**0.5 for step in range(1, 3001)]
    assert found["parameters"] == 22 and found["lineage"]["tokenizer"] == "aa" * 32 and found["environment"]["framework"] == "0.1.0"
    assert report_facts.environment(runs[0])["plugins"] == {"framework-lion": "1.2"}


@pytest.mark.slow
def test_a_browser_reads_out_the_values(tmp_path: Path) -> None:
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("needs chromium")
    text = page(read_runs([made_run(tmp_path / "one"), made_run(tmp_path / "two", steps=50)]))
    look = """
      const svg = document.getElementById("chart-0-linear"), box = svg.getBoundingClientRect(), [left, , right] = data["chart-0-linear"].area;
      const x = left + (45 - 1) / 99 * (right - left), width = svg.viewBox.baseVal.width;
      svg.dispatchEvent(new PointerEvent("pointermove", {clientX: box.left + x / width * box.width, clientY: box.top + 20}));
      const hidden = getComputedStyle(document.getElementById("chart-0-log")).display;
      document.getElementById("x-log").click();
      const found = [svg.closest("figure").querySelector(".reading").textContent, svg.querySelectorAll(".cursor circle").length, hidden,
        getComputedStyle(svg).display, getComputedStyle(document.getElementById("chart-0-log")).display,
        document.documentElement.scrollWidth <= window.innerWidth];
      document.body.textContent = "FOUND" + JSON.stringify(found) + "END";
    """
    (tmp_path / "page.html").write_text(text.replace("</script></html>", f"{look}</script></html>"))
    command = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--window-size=500,900",
        "--dump-dom",
    ]
    done = subprocess.run([*command, (tmp_path / "page.html").as_uri()], capture_output=True, text=True, timeout=60, check=True)
    reading, dots, *displays, fits = json.loads(html.unescape(done.stdout.partition("FOUND")[2].partition("END")[0]))
    assert reading == "step 45: one training 0.22222 one validation 0.75 (at 40) two training 0.22222 two validation 0.75 (at 40) "
    assert (dots, displays, fits) == (4, ["none", "none", "block"], True)


@pytest.mark.parametrize(("recipe", "flops"), [("Pretrain", 6000.0), ("PPO", None)])
def test_operations_of_a_run_that_trains_on_every_token(recipe: str, flops: float | None) -> None:
    from framework.inspection.report.logs import Run, Series

    series = {"train/tokens": Series([1, 2], [100.0, 200.0]), "train/tokens_per_second": Series([1, 2], [50.0, 100.0])}
    run = Run("run", Path(), series, manifest={"lineage": {"recipe": recipe}}, flops_per_token=30)
    took = cost(run)
    assert took.flops == flops and took.seconds == 3.0 and took.items == 200.0
