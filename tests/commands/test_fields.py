"""A dataclass's fields as options: names, types, help, defaults, and lists that take one item at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from framework.commands.arguments import run
from framework.commands.fields import Fields, spread
from framework.errors import ConfigError
from framework.samplers.base import Sampler


@dataclass(frozen=True)
class Base:
    """Where it begins.

    Args:
        heat: how hot,
            in degrees.
        top_k: overwritten below.
    """

    heat: float | None = None
    top_k: int = 3


@dataclass(frozen=True)
class Derived(Base):
    """More.

    Args:
        top_k: how many.
        stop: where to stop.
    """

    stop: Sequence[str] = ()
    ids: list[int] = field(default_factory=lambda: [7])
    bias: Mapping[int, float] | None = None
    schema: Mapping[str, Any] | str | None = None
    kind: Literal["one", "two"] | None = None
    samplers: Sequence[Sampler] = ()
    secret: str = "kept"


CALLS: list[Any] = []


@spread("derived", "test_fields:Derived", without={"secret"})
def command(*words: str, loud: bool = False, derived: Derived) -> None:
    """Take options.

    Args:
        loud: or not.
    """
    CALLS.append((words, loud, derived))


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "test_fields", sys.modules[__name__])
    CALLS.clear()


def call(*words: str) -> Derived:
    assert run("command", command, list(words)) == 0
    derived = CALLS[-1][2]
    assert isinstance(derived, Derived)
    return derived


def test_nothing_given_is_the_default() -> None:
    made = call()
    assert (made.heat, made.top_k, list(made.stop), made.ids, made.secret) == (None, 3, [], [7], "kept")


def test_every_type() -> None:
    made = call(
        "a", "--heat", "0.5", "--top_k=4", "b", "--bias", '{"5": -100}', "--schema", '{"type": "object"}', "--kind", "two", "--loud", "true"
    )
    assert made == Derived(heat=0.5, top_k=4, stop=[], ids=[7], bias={5: -100.0}, schema={"type": "object"}, kind="two", samplers=[])
    assert CALLS[-1][:2] == (("a", "b"), True)
    assert call("--schema", "text").schema == "text"


def test_a_hyphen_is_an_underscore() -> None:
    assert call("--top-k", "5").top_k == call("--top_k=5").top_k == 5


@pytest.mark.parametrize(
    ("words", "stop"),
    [
        (["--stop", "END"], ["END"]),
        (["--stop", "a", "--stop=b"], ["a", "b"]),
        (["--stop", '["a", "b"]'], ["a", "b"]),
        (["--stop+=a"], ["a"]),
        (["--stop", "5", "--stop", "\n\n", "--stop", ": x", "--stop", "null"], ["5", "\n\n", ": x", "null"]),
    ],
)
def test_lists_take_one_item_or_all(words: list[str], stop: list[str]) -> None:
    assert list(call(*words).stop) == stop


def test_parts_by_name() -> None:
    samplers = call("--samplers", "Greedy", "--samplers+=TopK", "--samplers.k", "3").samplers
    assert [type(sampler).__name__ for sampler in samplers] == ["Greedy", "TopK"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--heat", "hot"], "heat: expected float"),
        (["--kind", "three"], "kind: expected one of 'one', 'two'"),
        (["--secret", "x"], "no option --secret"),
        (["--tip_k", "3"], "did you mean --top_k?"),
        (["--derived", "{}"], "no option --derived"),
        (["--ids", "many"], "ids"),
    ],
)
def test_mistakes_get_one_line(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        run("command", command, words)
    assert "\n" not in str(caught.value)


def test_help_is_the_dataclass_s_own(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("command", command, ["--help"])
    out = " ".join(capsys.readouterr().out.split())
    for expected in (
        "--heat HEAT how hot, in degrees.",
        "--top_k TOP_K how many.",
        "or not.",
        "where to stop. A JSON list, or one each time",
    ):
        assert expected in out
    assert "secret" not in out and "overwritten" not in out


def test_one_value_by_itself() -> None:
    fields = Fields(Derived, without={"secret"})
    assert fields.parse("heat", "0.5") == 0.5
    assert fields.parse("heat", "null") is None
    assert fields.parse("stop", "END") == ["END"]
    assert fields.parse("stop", "[]") == []
    with pytest.raises(ConfigError, match="heat cannot be 'hot': it is float"):
        fields.parse("heat", "hot")


def test_a_field_that_is_not_there_is_our_mistake() -> None:
    with pytest.raises(AssertionError, match="nothing"):
        Fields(Derived, without={"nothing"})
