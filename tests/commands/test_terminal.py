"""What goes over terminals and pipes: encodings, control characters, and Ctrl-C as a question."""

from __future__ import annotations

import io
import os
import signal
import sys

import pytest

from framework.commands.terminal import INSISTENCE, Interrupts, ask, note, tolerate_encodings, unicode_text, write
from framework.errors import RequestError


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_no_control_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "a\tb\nc\x1b[31m\x00\r\x7f\x9bd é\u2028"
    monkeypatch.setattr(sys, "stdout", Screen())
    write(text)
    assert sys.stdout.getvalue() == "a\tb\nc\\x1b[31m\\x00\\r\\x7f\\x9bd é\u2028"  # type: ignore[attr-defined]
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    write(text)
    assert sys.stdout.getvalue() == text  # type: ignore[attr-defined]


def test_text_is_out_at_once_and_notes_are_elsewhere(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pipe = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(pipe, encoding="utf-8"))
    write("é")
    note("for you")
    assert pipe.getvalue() == "é".encode()
    assert capsys.readouterr().err == "for you\n"


def test_no_encoding_ends_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(pipe, encoding="ascii"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("é\n".encode()), encoding="ascii"))
    tolerate_encodings()
    write("né")
    assert pipe.getvalue() == b"n?"
    assert unicode_text(sys.stdin.readline(), "stdin") == "é\n"


def test_words_are_utf_8_whatever_the_locale() -> None:
    assert unicode_text("plain", "x") == "plain"
    assert unicode_text("né\U0001f60a", "x") == "né\U0001f60a"
    assert unicode_text(os.fsdecode("né".encode()).encode("utf-8", "surrogateescape").decode("ascii", "surrogateescape"), "x") == "né"
    with pytest.raises(RequestError, match="prompt 2 is no valid UTF-8"):
        unicode_text("n\udce9", "prompt 2")


def test_ctrl_c_is_remembered_or_raised() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGINT)
        assert interrupts.count == 1
        interrupts.count, interrupts.reading = 0, True
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        interrupts.count, interrupts.reading = 0, False
        for _ in range(INSISTENCE - 1):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_asking_reads_a_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\ntwo\n"))
    assert [ask("> "), ask("> ")] == ["one", "two"]
    with pytest.raises(EOFError):
        ask("> ")
