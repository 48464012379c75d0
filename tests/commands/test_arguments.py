"""Functions as commands: signatures parsed, parts expanded, help, and jsonargparse's messages made short."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from framework.commands.arguments import run, shorten, summary
from framework.errors import ConfigError, UserError
from framework.registry import Part, registry
from framework.samplers.base import Sampler
from framework.schedulers.base import Scheduler

CALLS: list[Any] = []


def command(directory: Path, steps: int, *, scheduler: Scheduler, samplers: list[Sampler] | None = None, note: str | None = None) -> None:
    """Take parts.

    Args:
        directory: where.
        steps: how many.
        scheduler: the schedule; without a default, and an option all the same.
        samplers: some samplers.
        note: what you like.
    """
    CALLS.append((directory, steps, scheduler, samplers, note))


def call(*words: str) -> Any:
    CALLS.clear()
    assert run("command", command, list(words)) == 0
    return CALLS[0]


def test_parts_by_name_class_path_mapping_and_file(tmp_path: Path) -> None:
    from framework.schedulers.schedules import Cosine

    (tmp_path / "cosine.yaml").write_text("class_path: Cosine\ninit_args: {warmup_steps: 3}\n")
    for given in (
        ["--scheduler", "Cosine", "--scheduler.warmup_steps", "3"],
        ["--scheduler=framework.schedulers.Cosine", "--scheduler.warmup_steps=3"],
        ["--scheduler", '{"class_path": "framework.schedulers.Cosine", "init_args": {"warmup_steps": 3}}'],
        ["--scheduler", str(tmp_path / "cosine.yaml")],
    ):
        directory, steps, scheduler, samplers, note = call("here", "7", *given)
        assert (directory, steps, samplers, note) == (Path("here"), 7, None, None)
        assert isinstance(scheduler, Cosine) and scheduler.warmup_steps == 3


def test_lists_of_parts() -> None:
    samplers = call(".", "1", "--scheduler", "Constant", "--samplers", "Greedy", "--samplers+=TopK", "--samplers.k", "3")[3]
    assert [type(sampler).__name__ for sampler in samplers] == ["Greedy", "TopK"]
    assert samplers[1].k == 3


def test_values_that_look_like_something_else() -> None:
    assert call(".", "1", "--scheduler", "Constant", "--note", "-5")[4] == "-5"
    assert call(".", "1", "--scheduler", "Constant", "--note=--loud")[4] == "--loud"
    assert call(".", "1", "--scheduler", "Constant", "--note", "a.yaml")[4] == "a.yaml"


@pytest.mark.parametrize(
    "words, message",
    [
        (["."], "required: steps, scheduler"),
        ([".", "few", "--scheduler", "Constant"], "steps: .*few"),
        ([".", "1", "more", "--scheduler", "Constant"], "unrecognized arguments: more"),
        ([".", "1", "--scheduler", "Cosinus"], "Did you mean Cosine?"),
        ([".", "1", "--scheduler", "Cosine", "--scheduler.warmup", "3"], "warmup"),
        ([".", "1", "--scheduler", "missing.yaml"], "no file missing.yaml"),
        ([".", "1", "--scheduler", "Greedy"], "no Greedy in framework.schedulers"),
        ([".", "1", "--sheduler", "Constant"], "did you mean --scheduler?"),
        ([".", "1", "--sheduler.help"], "did you mean --scheduler?"),
        ([".", "1", "--steps.help", "Constant"], "holds no part"),
    ],
)
def test_mistakes(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        run("command", command, words)
    assert "\n" not in str(caught.value)


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        run("command", command, ["--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert done.value.code == 0
    for expected in ("usage: framework command", "Take parts.", "where.", "--scheduler SCHEDULER", "an option all the same", "--note NOTE"):
        assert expected in out
    for words in (["--scheduler.help", "Cosine"], ["--scheduler.help=Cosine"], [".", "1", "--scheduler.help", "Cosine", "--note", "x"]):
        assert run("command", command, words) == 0
        assert "--scheduler.warmup_steps" in capsys.readouterr().out
    assert run("command", command, ["--scheduler.help"]) == 0
    assert "Cosine" in capsys.readouterr().out


def test_a_command_that_parses_for_itself() -> None:
    def own(arguments: list[str]) -> int:
        return len(arguments)

    assert run("own", own, ["--anything", "at", "all"]) == 3


def test_summaries_import_no_plugin() -> None:
    def explode() -> None:
        raise AssertionError("imported")

    part = Part("framework.commands", "x", "framework-x", "2.0", "x:x", explode)
    assert summary(part) == "(from framework-x 2.0)"
    assert summary(registry("framework.commands").part("generate")) == "Continue prompts with a trained model"


@pytest.mark.parametrize(
    "message, short",
    [
        (
            "Parser key \"trainer.max_steps\":\n  Expected a <class 'int'>. Got value: abc",
            "trainer.max_steps: expected int. Got value: abc",
        ),
        (
            'Parser key "model":\n  Does not validate against any of the Union subtypes\n  Subtypes: [a, b]\n  Errors:\n'
            "    - Problem with given class_path 'x.Y':\n        Parser key \"lr\": Expected a <class 'float'>. Got value: fast\n"
            "    - Expected a <class 'NoneType'>",
            "model.lr: expected float. Got value: fast",
        ),
        ("a plain message", "a plain message"),
    ],
)
def test_long_messages_become_one_line(message: str, short: str) -> None:
    assert shorten(message) == short


def test_errors_carry_no_chain_of_jsonargparse() -> None:
    with pytest.raises(ConfigError) as caught:
        run("command", command, ["."])
    assert caught.value.__cause__ is None
