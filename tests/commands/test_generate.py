"""`framework generate`: what stands on stdout, what the options do, and one clear line for bad ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from framework.__main__ import main
from framework.checkpoint import save
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
