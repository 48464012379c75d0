"""`framework chat`: what stands on stdout, what the model is shown, commands, limits, Ctrl-C, and a real terminal."""

from __future__ import annotations

import io
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pytest
import torch

from framework.__main__ import main
from framework.chat import Message
from framework.checkpoint import save
from framework.commands import conversation as module
from framework.commands.conversation import Conversation, Turn
from framework.commands.terminal import Interrupts
from framework.generation import Generator, Settings
from framework.networks.shape import NetworkShape
from framework.networks.transformer import Transformer
from framework.samplers.base import Sampler
from framework.tokenizers.byte import Byte

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _model(directory: Path, context_length: int, template: str | None = TEMPLATE) -> Path:
    """An untrained model of bytes that talks in small letters only, and never ends by itself."""
    torch.manual_seed(0)
    tokenizer = Byte()
    shape = NetworkShape(num_layers=1, width=16, num_heads=2, positions="rotary", tied_embeddings=False)
    network = Transformer(shape, tokenizer.vocab_size, context_length)
    with torch.no_grad():
        network.embedding.weight[:, 0] = 5.0  # so the first number of every hidden state is large ...
        network.head.weight.normal_(std=0.3)  # type: ignore[union-attr]
        network.head.weight[:, 0] = -30.0  # type: ignore[union-attr]  # ... and rules out what is no letter
        network.head.weight[97:123, 0] = 0.0  # type: ignore[union-attr]
    save(directory, network, tokenizer, {})
    if template:
        (directory / "chat_template.jinja").write_text(template)
    return directory


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _model(tmp_path_factory.mktemp("model") / "tiny", 256)


class Talk(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def talk(model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Talk]:
    """Talks through a pipe: `talk("hello", "/quit", options=[...])`."""

    def run(*lines: str | bytes, options: Sequence[object] = ("--max_new_tokens", 10, "--seed", 1), directory: Path = model) -> Talk:
        content = b"".join((line.encode() if isinstance(line, str) else line) + b"\n" for line in lines)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))
        code = main(["chat", str(directory), *map(str, options)])
        return Talk(code, *capsys.readouterr())

    return run


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[list[Message]]:
    """The chats that the model is asked to go on with."""
    chats: list[list[Message]] = []
    render = Generator.render

    def spy(self: Generator, messages: Sequence[Message]) -> list[int]:
        chats.append(list(messages))
        return render(self, messages)

    monkeypatch.setattr(Generator, "render", spy)
    return chats


def test_replies_alone_are_on_stdout(talk: Callable[..., Talk], model: Path, shown: list[list[Message]]) -> None:
    code, out, err = talk("hello", "", "how are you?")
    replies = out.splitlines()
    assert code == 0 and [len(reply) for reply in replies] == [10, 10]
    assert set("".join(replies)) <= set("abcdefghijklmnopqrstuvwxyz")
    assert err.splitlines() == ["[cut off after 10 tokens: /set max_new_tokens allows more]"] * 2
    hello, again = Message("user", "hello"), Message("user", "how are you?")
    assert shown == [[hello], [hello, Message("assistant", replies[0]), again]]
    generator = Generator.load(model)
    assert replies[1] == "".join(chunk.text for chunk in generator.chat(shown[1], max_new_tokens=10, seed=2))


def test_sampling_options_are_generate_s(talk: Callable[..., Talk]) -> None:
    greedy = talk("hello", options=["--temperature", 0, "--max-new-tokens", 12]).out
    assert greedy == talk("hello", options=["--top_k", 1, "--max_new_tokens", 12]).out
    assert greedy == talk("hello", options=["--samplers", "Greedy", "--max_new_tokens", 12]).out
    stop = greedy[3:5]
    assert talk("hello", options=["--temperature", 0, "--stop", stop]).out == greedy[: greedy.index(stop)] + "\n"


def test_the_system_message_and_forgetting(talk: Callable[..., Talk], shown: list[list[Message]]) -> None:
    options = ["--system", "Be kind.", "--max_new_tokens", 2]
    assert talk("a", "/system Be brief.", "b", "/reset", "c", "/system", "d", options=options).code == 0
    kind, brief = Message("system", "Be kind."), Message("system", "Be brief.")
    assert [(chat[0], len(chat)) for chat in shown] == [(kind, 2), (brief, 4), (brief, 2), (Message("user", "c"), 3)]


def test_a_turn_of_several_lines(talk: Callable[..., Talk], shown: list[list[Message]]) -> None:
    talk('"""one', "", '/two"""', '"""three"""', '"""', "four", '"""', " /five", '"""cut')
    assert [chat[-1].content for chat in shown] == ["one\n\n/two", "three", "four", "/five"]


def test_settings_change_while_talking(talk: Callable[..., Talk]) -> None:
    lines = [
        "/set max_new_tokens 3",
        "a",
        "/set temperature 0",
        "/set stop END",
        "/set max-new-tokens",
        "/set",
        "/set max_new_tokens 5",
        "/reset",
        "a",
    ]
    code, out, err = talk(*lines)
    first, second = out.splitlines()
    assert code == 0 and (len(first), len(second)) == (3, 5)
    for line in ("max_new_tokens 3", "temperature 0.0", "stop ['END']", "temperature 0.0\nmax_new_tokens 3\nstop ['END']\nseed 1"):
        assert f"{line}\n" in err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/set temprature 1", "there is no option temprature; did you mean temperature?"),
        ("/set temperature hot", "temperature cannot be 'hot': it is float | None"),
        ("/set temperature -1", "temperature is -1.0"),
        ("/set top_p 2", "top_p is 2"),
        ("/set n 2", "there is no option n"),
        ("/rest", "there is no command /rest; did you mean /reset?"),
        ("/etc/passwd", "With a space in front it is no command."),
        (b"n\xe9", "what was entered is no valid UTF-8"),
    ],
)
def test_mistakes_cost_one_line_and_no_history(
    talk: Callable[..., Talk], shown: list[list[Message]], line: str | bytes, message: str
) -> None:
    code, out, err = talk(line, "a", options=["--max_new_tokens", 2])
    assert code == 2 and len(out) == 3 and [len(chat) for chat in shown] == [1]
    (error,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert message in error


def test_help_and_leaving(talk: Callable[..., Talk], shown: list[list[Message]]) -> None:
    code, out, err = talk("/help", "/quit", "never said")
    assert (code, out, shown) == (0, "", [])
    for word in ("/reset", "/system", "/set", "/stats", "/quit", "Ctrl-C"):
        assert word in err


def test_speed_is_told_where_it_is_asked_for(talk: Callable[..., Talk]) -> None:
    assert talk("a", "/stats", "b").err.count("tokens/s, the first after") == 1
    err = talk("a", "/stats", "b", options=["--stats", "true", "--max_new_tokens", 5]).err
    assert err.count("tokens/s, the first after") == 1 and "[5 tokens at " in err
    assert " of 256 tokens of the context are used]" in err


def test_a_full_context_is_said_and_nothing_is_dropped(talk: Callable[..., Talk], shown: list[list[Message]]) -> None:
    code, out, err = talk("a" * 150, "b" * 100, "/reset", "b", "c" * 300, options=["--max_new_tokens", 20])
    assert code == 2 and [len(reply) for reply in out.splitlines()] == [20, 20]
    long, too_long = [line for line in err.splitlines() if line.startswith("error: ")]
    assert "the context of 256 leaves no room" in long and "/reset begins anew" in long
    assert "/reset begins anew" in too_long  # "b" and its reply are still there
    assert [len(chat) for chat in shown] == [1, 3, 1, 3]
    code, out, err = talk("c" * 300, "a", options=["--seed", 1])
    assert "shorten the message" in err
    assert "[the context of 256 tokens is full: /reset begins anew]" in err
    assert len(out) == 256 - len("|user\na|\n|assistant\n") + 1  # a reply is as long as the context allows


def test_what_the_template_refuses_is_not_kept(tmp_path: Path, talk: Callable[..., Talk]) -> None:
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system message, please') }}{% endif %}" + TEMPLATE
    model = _model(tmp_path / "model", 64, refusing)
    code, out, err = talk("/system x", "a", "/system", "b", directory=model, options=["--max_new_tokens", 3])
    assert code == 2 and len(out) == 4 and "no system message, please" in err


def test_a_model_without_a_template(tmp_path: Path, talk: Callable[..., Talk]) -> None:
    model = _model(tmp_path / "model", 64, template=None)
    code, out, err = talk("a", directory=model)
    assert (code, out) == (2, "")
    assert err == f"error: {model} has no chat template to talk by; `framework generate` continues texts with it\n"


@pytest.mark.parametrize("options", [["--temperature", "-1"], ["--max_new_tokens", "0"], ["--n", "2"], ["--logprobs", "2"]])
def test_bad_options_are_said_before_anything_is_read(talk: Callable[..., Talk], options: list[str]) -> None:
    code, out, err = talk("a", options=options)
    assert (code, out) == (2, "") and err.startswith("error: ") and err.count("\n") == 1
    assert options[0].removeprefix("--") in err


@pytest.fixture
def conversation(model: Path) -> Conversation:
    return Conversation(Generator.load(model, max_running=1), Settings(seed=1))


def _interrupt_after(pieces: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ctrl-C once so many pieces were shown; all that are."""
    shown: list[str] = []

    def write(text: str) -> None:
        shown.append(text)
        if len(shown) == pieces:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(module, "write", write)
    return shown


def test_ctrl_c_stops_a_reply_and_keeps_what_is_there(
    conversation: Conversation, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = _interrupt_after(3, monkeypatch)
    with Interrupts() as interrupts:
        assert conversation.take(Turn("hello", is_command=False), interrupts)
        assert interrupts.count == 1
        interrupts.count = 0
    reply = "".join(shown[:-1])
    assert len(shown) == 4 and shown[-1] == "\n" and reply
    assert conversation.messages == [Message("user", "hello"), Message("assistant", reply)]
    assert capsys.readouterr().err == "[stopped]\n"
    engine = conversation.generator.engine
    assert (engine.num_active, engine.statistics.running, engine.statistics.waiting) == (0, 0, 0)
    assert conversation.take(Turn("/set max_new_tokens 4", is_command=True)) and conversation.take(Turn("again", is_command=False))
    assert len(conversation.messages) == 4 and len(conversation.messages[-1].content) == 4


def test_ctrl_c_before_a_reply_begins_takes_the_turn_back(conversation: Conversation, capsys: pytest.CaptureFixture[str]) -> None:
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGINT)
        conversation.take(Turn("hello", is_command=False), interrupts)
    assert conversation.messages == [] and "taken back" in capsys.readouterr().err
    assert conversation.generator.engine.num_active == 0


def test_a_sampler_that_fails_leaves_the_engine_empty(conversation: Conversation) -> None:
    class Broken(Sampler):
        def __call__(self, *_: Any) -> Any:
            raise ZeroDivisionError("broken")

    conversation.settings = Settings(samplers=[Broken()])
    with pytest.raises(ZeroDivisionError):
        conversation.take(Turn("hello", is_command=False))
    assert conversation.messages == [] and conversation.generator.engine.num_active == 0


def _child(*words: object) -> NoReturn:
    """What a new process does in place of this one's tests: the command, on the descriptors 0 to 2."""
    code = 1
    try:
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
        code = main([str(word) for word in words])
        sys.stdout.flush()
    finally:
        os._exit(code)


def test_a_reader_that_goes_away_ends_it_quietly(model: Path) -> None:
    (stdin, turns), (replies, stdout), (errors, stderr) = os.pipe(), os.pipe(), os.pipe()
    if not (process := os.fork()):
        for descriptor, own in enumerate((stdin, stdout, stderr)):
            os.dup2(own, descriptor)
        os.closerange(3, 1000)
        _child("chat", model, "--max_new_tokens", "3")
    for descriptor in (stdin, stdout, stderr):
        os.close(descriptor)
    os.write(turns, b"hello\n")
    with open(replies) as file:
        assert len(file.readline()) == 4
    os.write(turns, b"more\n" * 5)
    os.close(turns)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
    with open(errors) as file:
        assert "Traceback" not in file.read()


class Terminal:
    """A command at a terminal of its own: `type` keys, wait `until` something is shown."""

    PATIENCE = 120.0  # seconds, on the busiest machine
    SILENCE = 10.0  # after it a key is pressed again

    def __init__(self, *words: object, stdout: Path | None = None) -> None:
        import pty

        self.process, self.descriptor = pty.fork()
        if not self.process:
            os.environ |= {"TERM": "xterm", "INPUTRC": os.devnull}
            if stdout:
                os.dup2(os.open(stdout, os.O_WRONLY | os.O_CREAT), 1)
            _child(*words)
        self.shown = ""
        self._seen = 0
        self._deadline = time.monotonic() + self.PATIENCE

    def type(self, keys: str) -> None:
        os.write(self.descriptor, keys.encode())

    def until(self, *expected: str, again: str = "") -> str:
        """What is shown up to the last of these, in order; where nothing comes, the keys `again` are typed."""
        start = self._seen
        for text in expected:
            while (found := self.shown.find(text, self._seen)) < 0:
                came = self._read(self.SILENCE)
                assert came is not False and time.monotonic() < self._deadline, f"no {text!r}: {self.shown}"
                if came is None and again:
                    self.type(again)
            self._seen = found + len(text)
        return self.shown[start : self._seen]

    def more(self, characters: int) -> None:
        """Wait until so many further characters are shown."""
        while len(self.shown) < self._seen + characters:
            assert self._read(self.SILENCE) is not False and time.monotonic() < self._deadline, self.shown

    def end(self) -> int:
        """The exit code, once the program has ended."""
        while self._read(self.SILENCE) is not False:
            assert time.monotonic() < self._deadline, f"does not end: {self.shown}"
        return os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])

    def _read(self, seconds: float) -> bool | None:
        """True: something came; None: nothing; False: the program has ended."""
        if not select.select([self.descriptor], [], [], seconds)[0]:
            return None
        try:
            data = os.read(self.descriptor, 65536)
        except OSError:  # Linux, when the other side is closed
            return False
        self.shown += data.decode(errors="replace")
        return bool(data)


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_a_real_terminal(tmp_path: Path) -> None:
    """One program, many keys: streaming, Ctrl-C, the history, editing, and leaving with Ctrl-C twice."""
    model = _model(tmp_path / "model", 20_000)
    terminal = Terminal("chat", model, "--seed", "1", "--temperature", "0")
    terminal.until("Ctrl-C stops a reply", "> ")
    terminal.type("hello\n")
    terminal.until("hello\r\n")
    terminal.more(20)  # the reply comes piece by piece: it would take 20,000 tokens to end
    terminal.type("\x03")
    reply = terminal.until("[stopped]\r\n", "> ")
    assert len(reply) < 20_000
    terminal.type("/set max_new_tokens 6\n")
    terminal.until("max_new_tokens 6\r\n", "> ")
    terminal.type("/stats\n")
    terminal.until("after each reply: shown]\r\n", "> ")
    terminal.type("second\x02\x02X\n")  # two to the left, then an X
    first = terminal.until("[6 tokens at", "of the context are used]\r\n", "> ")
    assert "Traceback" not in terminal.shown
    terminal.type("/reset\n")
    terminal.until("is forgotten]\r\n", "> ")
    terminal.type("\x1b[A\x1b[A\n")  # the turn before /reset, out of the history
    second = terminal.until("[6 tokens at", "of the context are used]\r\n", "> ")
    assert "secoXnd" in second and "/reset" in second

    def used(text: str) -> int:
        return int(text.rpartition("; ")[2].partition(" of ")[0].replace(",", ""))

    assert used(first) > used(second) + 20  # the reply that was stopped was part of the conversation
    terminal.type("abc")
    terminal.until("abc")
    for answer in ("Ctrl-C again leaves\r\n> ", "\r\n"):
        terminal.type("\x03")
        terminal.until(answer, again="\x03")  # readline may miss a Ctrl-C that comes while it draws its prompt
    assert terminal.end() == 0
    assert "Traceback" not in terminal.shown


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_a_terminal_whose_replies_go_to_a_file(model: Path, tmp_path: Path) -> None:
    """The prompt, the editing and the notes stay on the terminal."""
    terminal = Terminal("chat", model, "--max_new_tokens", "5", "--stats", "true", stdout=tmp_path / "replies")
    terminal.until("> ")
    terminal.type("second\x02\x02X\n")
    assert "second\b\bXnd" in terminal.until("[5 tokens at", "> ")
    terminal.type("\x04")
    assert terminal.end() == 0
    reply = (tmp_path / "replies").read_text()
    assert len(reply) == 6 and reply[:5].isalpha() and reply[5] == "\n"
