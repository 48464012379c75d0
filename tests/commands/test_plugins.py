"""The list of parts, and the conformance suite as a command."""

from __future__ import annotations

import subprocess
import sys

import pytest

from framework.commands.plugins import plugins
from framework.errors import ConfigError
from framework.registry import registry


def test_lists_every_part_with_its_origin(capsys: pytest.CaptureFixture[str]) -> None:
    assert plugins() == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["family", "name", "from", "version"]
    listed = {(line[0], line[1], line[2]) for line in lines[1:]}
    assert {("optimizers", "Muon", "framework"), ("samplers", "TopP", "framework"), ("commands", "plot-schedule", "framework")} <= listed


def test_listing_imports_no_torch() -> None:
    code = "import sys; from framework.commands.plugins import plugins; plugins(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_marks_what_is_broken(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from framework.registry import Part

    def fail() -> None:
        raise ImportError("no module named nowhere")

    broken = Part("framework.samplers", "Broken", "framework-broken", "1.2", "nowhere:Broken", fail)
    whole = registry("framework.samplers").part("Greedy")
    monkeypatch.setattr("framework.commands.plugins._parts", lambda: [broken, whole])
    assert plugins() == 0
    assert "BROKEN" not in capsys.readouterr().out
    assert plugins(check=True) == 1
    out = capsys.readouterr().out.splitlines()
    assert "BROKEN" in out[1] and "framework-broken 1.2" in out[1] and "no module named nowhere" in out[1]
    assert "BROKEN" not in out[2]


def test_words_that_mean_nothing() -> None:
    with pytest.raises(ConfigError, match="test PACKAGE"):
        plugins("lsit")
    with pytest.raises(ConfigError, match=r"framewrok offers no parts\. Did you mean framework\?"):
        plugins("test", "framewrok")


def test_built_ins_pass_their_suites(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Optimizers, samplers and schedulers here; the other families' suites run in those families' own tests."""
    families = ["framework.optimizers", "framework.samplers", "framework.schedulers"]
    monkeypatch.setattr("framework.commands.plugins.families", lambda: families)
    assert plugins("test", "framework") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].endswith("0 failed")
    assert "pass  optimizers.Muon  resumes bitwise" in lines
    assert "pass  samplers.Greedy  leaves a token" in lines
    assert "pass  schedulers.Cosine  is pure" in lines


def test_a_failing_part_is_named_and_fails_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from framework.registry import Part
    from framework.schedulers.base import Scheduler

    class Negative(Scheduler):
        def factor(self, step: int, total_steps: int) -> float:
            return 1.0 - 2.0 * step / total_steps

    part = Part("framework.schedulers", "Negative", "framework-negative", "1", "negative:Negative", lambda: Negative)
    monkeypatch.setattr("framework.commands.plugins._parts", lambda: [part])
    assert plugins("test", "framework_negative") == 1
    out = capsys.readouterr().out
    assert "fail  schedulers.Negative  is a usable factor: factor(51, 100) is -0.02" in out
    assert "pass  schedulers.Negative  is pure" in out
    assert out.endswith("framework-negative: 2 passed, 1 failed\n")


def test_parts_without_an_example_or_checks_are_said_to_be_skipped(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from framework.registry import Part
    from framework.samplers.selection import TopK

    needy = Part("framework.samplers", "Needy", "framework-needy", "1", "needy:Needy", lambda: TopK)
    other = Part("framework.commands", "needy", "framework-needy", "1", "needy:needy", lambda: print)
    monkeypatch.setattr("framework.commands.plugins._parts", lambda: [needy, other])
    assert plugins("test", "framework-needy") == 0
    entry = '"samplers.Needy" in [project.entry-points."framework.testing"]'
    assert capsys.readouterr().out.splitlines() == [
        f"skip  samplers.Needy: it needs arguments, and framework-needy names no example ({entry})",
        "no checks exist for commands",
        "framework-needy: 0 passed, 0 failed",
    ]


def test_examples_are_used_and_may_be_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    from framework.registry import Part
    from framework.samplers.selection import TopK
    from framework.testing.runner import run

    part = Part("framework.samplers", "Needy", "framework-needy", "1", "needy:Needy", lambda: TopK)
    monkeypatch.setattr("framework.testing.runner.registry", lambda family: {"samplers.Needy": lambda: TopK(3)})
    assert {outcome.verdict for outcome in run(part)} == {"pass"}
    monkeypatch.setattr("framework.testing.runner.registry", lambda family: {"samplers.Needy": lambda: None})
    assert [(outcome.verdict, outcome.detail) for outcome in run(part)] == [("skip", "its example cannot be made on this machine")]


def test_every_example_of_the_built_ins_passes() -> None:
    """The functions behind the entry points, whether or not this installation has them yet."""
    from framework.testing import examples
    from framework.testing.samplers import CHECKS as SAMPLER_CHECKS
    from framework.testing.schedulers import CHECKS as SCHEDULER_CHECKS

    for make in (examples.min_p, examples.repetition_penalty, examples.temperature, examples.top_k, examples.top_p):
        for check in SAMPLER_CHECKS:
            check(make())
    for make in (examples.inverse_square_root, examples.warmup_stable_decay):
        for check in SCHEDULER_CHECKS:
            check(make())
