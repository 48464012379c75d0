"""`framework generate`: what stands on stdout, what the options do, files of prompts, and one clear line for bad ones."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from framework.__main__ import main
from framework.checkpoint import save
from framework.commands.generate import Page
from framework.engine.engine import Engine
from framework.generation import Chunk
from framework.networks.shape import NetworkShape
from framework.networks.transformer import Transformer
from framework.tokenizers.byte import Byte


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained run over bytes whose weights favour letters, so that its text is text."""
    torch.manual_seed(0)
    tokenizer = Byte()
    network = Transformer(NetworkShape(num_layers=1, width=16, num_heads=2, tied_embeddings=False), tokenizer.vocab_size, 64)
    with torch.no_grad():
        network.head.weight.normal_(std=0.3)  # type: ignore[union-attr]
        network.head.weight[:97] = network.head.weight[123:] = 0.0  # type: ignore[union-attr]
    directory = tmp_path_factory.mktemp("runs") / "tiny"
    directory.mkdir()
    save(directory / "model", network, tokenizer, {})
    (directory / "model" / "chat_template.jinja").write_text(
        "{% for message in messages %}{% if message.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
    )
    return directory


def _generate(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    code = main(["generate", *map(str, words)])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out


def test_prompt_and_continuation(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = _generate(capsys, run, "def ", "--max_new_tokens", 12, "--top_k", 30, "--seed", 1)
    assert out.startswith("def ") and out.endswith("\n") and len(out) > 5
    assert out == _generate(capsys, run / "model", "def ", "--max_new_tokens=12", "--top_k=30", "--seed=1")
    assert out != _generate(capsys, run, "def ", "--max_new_tokens", 12, "--top_k", 30, "--seed", 2)


def test_prompts_and_samples_are_kept_apart(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--max_new_tokens", 8, "--temperature", 0.7, "--samples", 2, "--seed", 5)
    texts = _generate(capsys, run, "one ", "two ", *words).split(f"{'-' * 40}\n")
    assert [text[:4] for text in texts] == ["one ", "one ", "two ", "two "]
    assert len({text[4:] for text in texts}) == 4
    assert texts[1] == _generate(capsys, run, "one ", "--max_new_tokens", 8, "--temperature", 0.7, "--seed", 6)


def test_temperature_0_is_greedy_whatever_the_seed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = {_generate(capsys, run, "x", "--temperature", 0, "--seed", seed, "--max_new_tokens", 9) for seed in range(3)}
    assert len(texts) == 1


def test_beams_need_no_more_than_their_number(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One prompt, wide search: the engine is made wide enough; the seed draws nothing."""
    texts = set()
    for seed in ("1", "2"):
        assert main(["generate", str(run), "the", "--num_beams", "3", "--max_new_tokens", "5", "--seed", seed]) == 0
        texts.add(capsys.readouterr().out)
    assert len(texts) == 1 and texts.pop().startswith("the")


def test_stop(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = _generate(capsys, run, "x", "--seed", 1, "--max_new_tokens", 20)
    stop = whole[4:6]
    assert _generate(capsys, run, "x", "--seed", 1, "--max_new_tokens", 20, "--stop", f"[{stop!r}]") == whole[: whole.index(stop, 1)] + "\n"


def test_a_sampler_goes_after_the_default_list(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    greedy = _generate(capsys, run, "x", "--temperature", 0, "--max_new_tokens", 9)
    assert _generate(capsys, run, "x", "--temperature", 1.3, "--max_new_tokens", 9, "--samplers+=Greedy") == greedy
    assert _generate(capsys, run, "x", "--max_new_tokens", 9, "--samplers", '[{"class_path": "TopK", "init_args": {"k": 1}}]') == greedy


def test_no_prompt_begins_a_document(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(_generate(capsys, run, "--max_new_tokens", 5, "--seed", 0)) > 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--temperature", "-1"], "temperature is -1.0 and must be"),
        (["--temperature", "inf"], "temperature"),
        (["--top_p", "0"], "top_p is 0.0"),
        (["--max_new_tokens", "0"], "max_new_tokens is 0"),
        (["--samples", "0"], "samples is 0"),
        (["--top_k", "many"], "top_k"),
        (["--samplers+=Grredy"], "Did you mean Greedy?"),
        (["--topk", "3"], "topk"),
        (["y" * 70], "shorten the prompt to at most 63 tokens"),
    ],
)
def test_bad_options_get_one_line(run: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    assert main(["generate", str(run), "x", *words]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1, captured.err


def test_a_missing_run_gets_the_nearest(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", str(run.parent / "tinny"), "x"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and f"did you mean {run}?" in captured.err


@pytest.mark.parametrize(
    ("words", "check"),
    [
        (["--logit_bias", '{"65": 100}'], lambda reply: reply == "A" * 12),
        (["--logit_bias", '{"65": 100}', "--no_repeat_ngram_size", "2"], lambda reply: "AAA" not in reply and "A" in reply),
        (["--temperature", "0", "--repetition_penalty", "1000"], lambda reply: len(set(reply)) == len(reply)),
        (["--logit_bias", '{"65": 30, "66": 29.5}', "--temperature", "0", "--presence_penalty", "2"], lambda reply: {*reply} == {"A", "B"}),
        (["--logit_bias", '{"65": 30, "66": 29}', "--temperature", "0", "--frequency_penalty", "2"], lambda reply: {*reply} == {"A", "B"}),
        (["--logit_bias", '{"65": 30, "66": 30}', "--typical_p", "0.9"], lambda reply: {*reply} <= {"A", "B"}),
        (["--logit_bias", '{"65": 30, "66": 20}', "--min_p", "0.5"], lambda reply: {*reply} == {"A"}),
        (["--logit_bias", '{"256": 100}', "--min_new_tokens", "3"], lambda reply: len(reply.encode()) >= 3),
        (["--logit_bias", '{"256": 100}'], lambda reply: reply == ""),
        (["--logit_bias", '{"65": 100}', "--stop", "AAA"], lambda reply: reply == ""),
        (["--logit_bias", '{"65": 100}', "--stop", "AAA", "--include_stop", "true"], lambda reply: reply == "AAA"),
        (["--logit_bias", '{"65": 100}', "--stop_ids", "65"], lambda reply: reply == ""),
        (["--choices", "yes", "--choices", "no"], lambda reply: reply in ("yes", "no")),
    ],
)
def test_every_option_by_its_usual_name(run: Path, capsys: pytest.CaptureFixture[str], words: list[str], check: Any) -> None:
    out = _generate(capsys, run, "x", "--max-new-tokens", 12, "--seed", 3, *words)
    assert check(out[1:-1]), out


def test_a_prompt_from_stdin(run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("né\n\n".encode()), encoding="utf-8"))
    out = _generate(capsys, run, "-", "--max_new_tokens", 4, "--seed", 1)
    assert out == _generate(capsys, run, "né\n", "--max_new_tokens", 4, "--seed", 1)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff"), encoding="utf-8"))
    assert main(["generate", str(run), "-"]) == 2
    assert capsys.readouterr().err == "error: stdin is no valid UTF-8\n"


def test_replies_that_grow_side_by_side_are_shown_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    page = Page(["P", "Q", "R"], 2)
    for chunk, expected in zip(
        [(0, Chunk("1", None)), (1, Chunk("later", "stop")), (0, Chunk(".", "stop")), (0, Chunk("2", "stop", 1))], ["P1", "", ".\n", None]
    ):
        page.add(*chunk)
        out = capsys.readouterr().out
        assert expected is None or out == expected
    line = "-" * 40
    assert out == f"{line}\nP2\n{line}\nQlater\n"
    page.add(1, Chunk("x", None, 1))
    page.drop(2)
    page.drop(1)
    assert capsys.readouterr().out == f"{line}\nQx\n"


LENGTH = ("--max_new_tokens", 8, "--seed", 5)


def _lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """A file of six prompts."""
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(f'{{"prompt": "number {number}", "id": {number}}}\n' for number in range(6)))
    return file


def test_a_file_of_prompts_to_a_file_of_lines(run: Path, capsys: pytest.CaptureFixture[str], prompts: Path) -> None:
    output = prompts.with_name("out.jsonl")
    assert _generate(capsys, run, "--prompts-file", prompts, "--output", output, *LENGTH) == ""
    lines = _lines(output.read_text())
    assert [line["id"] for line in lines] == list(range(6))
    assert {line["finish_reason"] for line in lines} == {"length"}
    for number, line in enumerate(lines):
        alone = _generate(capsys, run, line["prompt"], "--max_new_tokens", 8, "--seed", 5 + number)
        assert alone == line["prompt"] + line["completion"] + "\n"
    assert _lines(_generate(capsys, run, "--prompts_file", prompts, *LENGTH)) == lines


def test_samples_texts_and_chats_of_a_file(run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "chats.jsonl").write_text('{"messages": [{"role": "user", "content": "a"}]}\n{"text": "b"}\n')
    lines = _lines(_generate(capsys, run, "--prompts_file", tmp_path / "chats.jsonl", "--samples", 2, *LENGTH))
    assert [list(line) for line in lines] == [["messages", "completion", "finish_reason"], ["text", "completion", "finish_reason"]]
    assert all(len(line["completion"]) == len(line["finish_reason"]) == 2 for line in lines)
    assert lines[0]["completion"][0] != lines[0]["completion"][1]
    (tmp_path / "refused.jsonl").write_text('{"text": "a"}\n{"messages": [{"role": "tool", "content": "a"}]}\n{"text": "b"}\n')
    assert main(["generate", str(run), "--prompts_file", str(tmp_path / "refused.jsonl"), *map(str, LENGTH)]) == 2
    captured = capsys.readouterr()
    assert [line["finish_reason"] for line in _lines(captured.out)] == ["length", "error", "length"]
    assert captured.err.startswith("error: prompt 2: ") and "no tools" in captured.err and captured.err.count("\n") == 1
    (tmp_path / "plain.txt").write_text("a\nb\n")
    assert [line["prompt"] for line in _lines(_generate(capsys, run, "--prompts_file", tmp_path / "plain.txt", *LENGTH))] == ["a", "b"]


def test_log_probabilities(run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    _generate(
        capsys, run, "x\u00e9", "--output", output, "--logprobs", 3, "--prompt_logprobs", 1, "--temperature", 0, "--max_new_tokens", 6
    )
    (line,) = _lines(output.read_text())
    assert len(line["logprobs"]) == 6 and len(line["prompt_logprobs"]) == 2
    for token in line["logprobs"]:
        assert len(token["top"]) == 3 and token["logprob"] == token["top"][0]["logprob"] < 0
        assert token["token"] == bytes([token["id"]]).decode(errors="replace")
    assert set(line["prompt_logprobs"][0]) == {"logprob", "top"}


def test_a_bad_prompt_stops_no_other(run: Path, capsys: pytest.CaptureFixture[str], prompts: Path) -> None:
    with prompts.open("a") as file:
        file.write(json.dumps({"prompt": "y" * 70}) + '\n{"prompt": "last"}\n')
    output = prompts.with_name("out.jsonl")
    assert main(["generate", str(run), "--prompts_file", str(prompts), "--output", str(output), *map(str, LENGTH)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert captured.err.startswith("error: prompt 7: the prompt has 70 tokens")
    lines = _lines(output.read_text())
    assert len(lines) == 8 and lines[7]["completion"]
    assert lines[6]["completion"] is None and lines[6]["finish_reason"] == "error" and "70 tokens" in lines[6]["error"]
    assert main(["generate", str(run), "ok", "y" * 70, "also", *map(str, LENGTH)]) == 2
    captured = capsys.readouterr()
    assert captured.out.startswith("ok") and "\nalso" in captured.out and "y" * 70 not in captured.out
    assert captured.err.startswith("error: prompt 2: ")


def test_a_stopped_run_is_gone_on_with(
    run: Path, capsys: pytest.CaptureFixture[str], prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["generate", str(run), "--prompts_file", str(prompts), *map(str, LENGTH), "--max_running", "2", "--output"]
    whole, stopped = str(prompts.with_name("whole.jsonl")), str(prompts.with_name("stopped.jsonl"))
    assert main([*words, whole]) == 0
    step, rounds = Engine.step, 0

    def interrupted(engine: Engine) -> Any:
        nonlocal rounds
        rounds += 1
        if rounds == 14:
            raise KeyboardInterrupt
        return step(engine)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "step", interrupted)
        assert main([*words, stopped]) == 130
    assert not Path(stopped).exists()
    assert "prompts are answered; the same command goes on there" in capsys.readouterr().err
    asked, add = [], Engine.add
    monkeypatch.setattr(Engine, "add", lambda engine, request: asked.append(request) or add(engine, request))
    assert main([*words, stopped]) == 0
    said = capsys.readouterr().err
    assert len(asked) < 6 and said == f"note: {6 - len(asked)} of 6 prompts were answered before; going on there\n"
    assert Path(stopped).read_bytes() == Path(whole).read_bytes()


def test_other_settings_begin_anew(run: Path, capsys: pytest.CaptureFixture[str], prompts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = prompts.with_name("out.jsonl")
    words = ["generate", str(run), "--prompts_file", str(prompts), "--output", str(output), "--samplers", "Greedy"]
    with monkeypatch.context() as patch:
        patch.setattr("framework.commands.results_file.ResultsFile.finish", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        assert main([*words, "--max_new_tokens", "3"]) == 130
    capsys.readouterr()
    assert main([*words, "--max_new_tokens", "4"]) == 0
    assert capsys.readouterr().err == ""
    assert {len(line["completion"].encode()) >= 4 for line in _lines(output.read_text())} == {True}


def test_progress_is_shown_to_a_terminal_only(
    run: Path, capsys: pytest.CaptureFixture[str], prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    words = ["generate", str(run), "--prompts_file", str(prompts), "--output", str(prompts.with_name("out.jsonl")), *map(str, LENGTH)]
    assert main(words) == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys, "stderr", Screen())
    assert main(words) == 0
    shown = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert "6/6" in shown and "tokens/s" in shown
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["x", "--prompts_file", "prompts.jsonl"], "give prompts or --prompts_file, not both"),
        (["x", "--logprobs", "2"], "add --output FILE.jsonl"),
        (["--prompts_file", "none.jsonl"], "none.jsonl cannot be read"),
        (["--prompts_file", "prompts.jsonl", "--output", "prompts.jsonl"], "would replace the prompts"),
        (["--prompts_file", "prompts.jsonl", "--temperature", "-1"], "temperature is -1.0"),
        (["x", "--output", "."], "is a directory"),
        (["x", "--choices", "a", "--regex", "b"], "choices and regex cannot go together"),
        (["x", "--max_running", "0"], "max_running is 0"),
        (["x", "--quantize", "int3"], "quantize"),
    ],
)
def test_mistakes_with_files(
    run: Path, capsys: pytest.CaptureFixture[str], prompts: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(prompts.parent)
    before = prompts.read_bytes()
    assert main(["generate", str(run), *words]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1, captured.err
    assert prompts.read_bytes() == before and [file.name for file in prompts.parent.iterdir()] == [prompts.name]


def test_closed_pipes_and_other_locales(run: Path) -> None:
    """One process: bytes of UTF-8 under a locale that knows ASCII only, read by someone who soon goes away."""
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    words = [
        sys.executable,
        "-m",
        "framework",
        "generate",
        run,
        *[f"né{'.' * 50}".encode()] * 800,
        "--max_new_tokens",
        "1",
    ]  # more than a pipe holds
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, pipesize=4096)
    assert process.stdout and process.stderr
    first = process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait() == 0 and errors == b""
    assert first.startswith(b"n?")
