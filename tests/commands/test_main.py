"""The dispatcher: verbs, their words in any order, exit codes, and how a process ends that is interrupted."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from framework import __version__
from framework.errors import UserError
from framework.registry import ALLOW_LIST, registry

ECHO = '''
def echo(first: str, *words: str, loud: bool = False, times: int = 1) -> int:
    """Say what was given.

    Args:
        first: the first word.
        words: more of them.
        loud: in capitals.
        times: how often.
    """
    for _ in range(times):
        print(*[word.upper() if loud else word for word in (first, *words)], sep="|")
    return len(words)


def interrupted() -> None:
    """Is interrupted."""
    raise KeyboardInterrupt


def full() -> None:
    """Meets the operating system."""
    raise OSError(28, "No space left on device", "/somewhere/file")


def careless() -> None:
    """Has a bug."""
    raise ZeroDivisionError("ours, not the user's")
'''


@pytest.fixture
def echo(install: Callable[..., None]) -> None:
    install("framework-echo", ECHO, "framework.commands", "echo", "interrupted", "full", "careless")


def test_help_lists_every_command(framework: Any) -> None:
    for words in (["--help"], ["-h"], ["help"]):
        asked = framework(*words)
        assert asked.code == 0 and asked.err == ""
        assert all(f"\n  {name} " in asked.out for name in registry("framework.commands"))
        assert "--debug" in asked.out and "--no-plugins" in asked.out
    empty = framework()
    assert empty.code == 2 and empty.out == asked.out


def test_version(framework: Any) -> None:
    assert framework("--version").out == f"framework {__version__}\n"


@pytest.mark.parametrize("verb", [name for name in registry("framework.commands") if name not in ("fit", "finetune", "validate")])
def test_each_command_explains_itself(framework: Any, verb: str) -> None:
    asked = framework(verb, "--help")
    assert asked.code == 0 and asked.err == ""
    assert f"framework {verb}" in asked.out
    options = [line for line in asked.out.splitlines() if line.startswith("  --") and ".help" not in line]
    assert options, asked.out


@pytest.mark.parametrize("word, near", [("fitt", "fit"), ("genrate", "generate"), ("train_tokenizer", "train-tokenizer")])
def test_an_unknown_command_gets_the_nearest(refused: Any, word: str, near: str) -> None:
    refused(word, saying=[f"no {word} among the commands", f"Did you mean {near}?", "tokenize"])


def test_words_and_options_in_any_order(framework: Any, echo: None) -> None:
    for words in (
        ["a", "b", "c", "--loud", "true", "--times", "2"],
        ["--loud", "true", "a", "b", "--times=2", "c"],
        ["--times", "2", "--loud=true", "a", "b", "c"],
        ["--times", "2", "--loud=true", "--", "a", "b", "c"],
    ):
        assert framework("echo", *words) == (2, "A|B|C\nA|B|C\n", "")
    assert framework("echo", "-a", "--", "--loud", "-h") == (2, "-a|--loud|-h\n", "")
    assert framework("echo", "", " two  words ") == (1, "| two  words \n", "")
    assert framework("echo", "1") == (0, "1\n", "")


@pytest.mark.parametrize(
    "words, saying",
    [
        ([], ["required: first", "framework echo --help"]),
        (["a", "--laud", "true"], ["no option --laud", "did you mean --loud?"]),
        (["a", "--lou", "true"], ["no option --lou", "did you mean --loud?"]),
        (["a", "--xyz", "true"], ["no option --xyz", "framework echo --help"]),
        (["a", "--times", "often"], ["times", "expected int", "often"]),
        (["a", "--times"], ["--times needs a value"]),
        (["a", "--times", "--loud", "true"], ["--times needs a value"]),
        (["a", "--loud", "maybe"], ["loud", "expected bool"]),
    ],
)
def test_mistakes_in_words(refused: Any, echo: None, words: list[str], saying: list[str]) -> None:
    refused("echo", *words, saying=saying)


def test_no_plugins(framework: Any, refused: Any, echo: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "(from framework-echo 1.0)" in framework("--help").out
    monkeypatch.setenv(ALLOW_LIST, "framework-echo")
    assert framework("echo", "a").code == 0
    for words in (["--no-plugins", "echo", "a"], ["echo", "a", "--no-plugins"]):
        refused(*words, saying=["no echo among the commands"])
        assert os.environ[ALLOW_LIST] == ""
    assert "echo" not in framework("--no-plugins", "--help").out


def test_how_it_ends(framework: Any, refused: Any, echo: None) -> None:
    assert framework("interrupted") == (130, "", "\ninterrupted\n")
    refused("full", code=1, saying=["No space left on device: /somewhere/file"])
    with pytest.raises(KeyboardInterrupt):
        framework("--debug", "interrupted")
    with pytest.raises(OSError, match="No space"):
        framework("full", "--debug")
    with pytest.raises(UserError, match="nonsense"):
        framework("--debug", "nonsense")
    with pytest.raises(ZeroDivisionError):  # a bug shows where it is
        framework("careless")


@pytest.mark.parametrize("words", [["plugins"], ["--help"]])
def test_a_reader_that_goes_away(words: list[str]) -> None:
    """`framework plugins | head -1`: no traceback, no complaint."""
    child = subprocess.Popen([sys.executable, "-m", "framework", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None and child.stderr is not None
    child.stdout.close()
    assert child.stderr.read() == b""
    child.stderr.close()
    assert child.wait() == 0


def test_the_console_script(tmp_path: Path) -> None:
    script = Path(sys.executable).parent / "framework"
    for command in ([str(script)], [sys.executable, "-m", "framework"]):
        done = subprocess.run([*command, "nonsense"], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
