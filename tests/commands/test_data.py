"""`framework data show`: what would be trained, on a terminal and on a page, and that what must not be trained is refused before it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

Refused = Callable[..., str]
SHOW = ("data", "show", "chats.yaml")
FAULTY = '''
from framework.batches.base import Batches
from framework.batches.demonstrations import Demonstrations
from framework.batches.types import IGNORE, TokenBatch
from framework.tokenizers.byte import Byte


class Masked(Demonstrations):
    """Takes nothing for a reply."""

    def training_batch(self, number):
        batch = super().training_batch(number)
        batch.targets_BT.fill_(IGNORE)
        return batch


class Unending(Demonstrations):
    """Trains a reply without what ends it."""

    def training_batch(self, number):
        batch = super().training_batch(number)
        for end in self.examples.end_ids:
            batch.targets_BT[batch.targets_BT == end] = IGNORE
        return batch


class PadIsTurn(Byte):
    """The padding's id ends turns too, as in some published tokenizers."""

    @property
    def pad_id(self):
        return self.special_tokens["<|im_end|>"]


class HiddenByPadding(Demonstrations):
    """Makes labels by masking the padding's id."""

    def training_batch(self, number):
        batch = super().training_batch(number)
        batch.targets_BT[batch.targets_BT == self.tokenizer.pad_id] = IGNORE
        return batch


class Foreign(Batches):
    """A plugin's own DataModule, whose batches train nothing."""

    def __init__(self, tokenizer: Byte) -> None:
        super().__init__()
        self.tokenizer = tokenizer

    def train_dataloader(self):
        import torch

        while True:
            yield TokenBatch(torch.zeros(1, 4, dtype=torch.int64), torch.full((1, 4), IGNORE))

    def describe(self):
        return {}

    def fingerprint(self):
        return ""
'''


@pytest.fixture
def chats(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """chats.yaml, a run on chats.jsonl; and a module `faulty` of DataModules that go wrong."""
    rows = [
        {"messages": [{"role": "user", "content": f"{number}+1="}, {"role": "assistant", "content": str(number + 1)}]}
        for number in range(20)
    ]
    (here / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (here / "faulty.py").write_text(FAULTY)
    monkeypatch.syspath_prepend(str(here))
    base = yaml.safe_load((here / "base.yaml").read_text())
    base["name"], base["model"]["class_path"] = "chats", "SFT"
    dataset = {"class_path": "JsonLines", "init_args": {"paths": "chats.jsonl"}}
    settings = {"dataset": dataset, "tokenizer": "Byte", "chat_template": "chatml", "context_length": 48, "batch_size": 5, "packing": False}
    base["data"] = {"class_path": "Demonstrations", "init_args": settings}
    (here / "chats.yaml").write_text(yaml.safe_dump(base))
    return here


def test_text(chats: Path, framework: Any) -> None:
    shown = framework(*SHOW, "--rows", 2)
    assert shown.code == 0, shown.err
    assert shown.out.startswith("[[trained]] <pad x n>\n\nbatch 0\nrow 0: ")
    assert shown.out.count("<|im_start|>assistant\n[[") == 2 and shown.out.count("<|im_end|>]]") == 2
    assert shown.out.rstrip().endswith("... and 3 rows more (--rows)") and "\033" not in shown.out
    assert not (chats / "runs").exists() or not any((chats / "runs").iterdir())


def test_colour(chats: Path, framework: Any) -> None:
    shown = framework(*SHOW, "--color", "always", "--rows", "1")
    assert shown.code == 0 and "\033[30;42m" in shown.out and "[[" not in shown.out


def test_table(chats: Path, framework: Any) -> None:
    shown = framework(*SHOW, "--table", "true", "--rows", 1)
    heading, *lines = shown.out.split("\n\n")[1].splitlines()[2:]
    assert heading.split() == ["position", "document", "id", "trained", "token"]
    trained = [line.split()[-1] for line in lines if " yes " in line]
    assert trained[-1] == "'<|im_end|>'" and all(token.strip("'").isdigit() for token in trained[:-1])
    assert [int(line.split()[0]) for line in lines[:-1]] == list(range(len(lines) - 1))


def test_html(chats: Path, framework: Any) -> None:
    shown = framework(*SHOW, "--html", "page.html", "--batches", 3, "--data.packing", "true")
    assert (shown.code, shown.out, shown.err) == (0, "", "wrote page.html\n")
    page = (chats / "page.html").read_text()
    assert [f"<h2>batch {number}</h2>" in page for number in range(4)] == [True, True, True, False]
    assert "Demonstrations: what is trained" in page and "<dt>train examples</dt><dd>" in page and page.count("<h3>row ") == 15


def test_what_is_shown_is_what_is_trained(chats: Path, framework: Any) -> None:
    """The batches of the run itself, of its seed."""
    shown = framework(*SHOW, "--table", "true", "--batches", 2, "--rows", 9, "--seed_everything", 7)
    trained = [line.split()[2] for line in shown.out.splitlines() if " yes " in line]
    from framework.commands.data import prepared

    data: Any = prepared(["--config", "chats.yaml", "--seed_everything", "7"])
    targets = [data.training_batch(number).targets_BT for number in range(2)]
    assert [int(each) for each in trained] == [token for batch in targets for token in batch.flatten().tolist() if token != -100]
    assert framework(*SHOW, "--seed_everything", 8).out != framework(*SHOW, "--seed_everything", 7).out


FAULTS = {
    "Masked": "no token is trained, every target is masked",
    "Unending": "is trained without a token that ends it",
    "HiddenByPadding": "is trained without a token that ends it",
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_would_train_the_wrong_thing_is_refused(name: str, chats: Path, refused: Refused) -> None:
    configuration = yaml.safe_load((chats / "chats.yaml").read_text())
    configuration["data"]["class_path"] = f"faulty.{name}"
    if name == "HiddenByPadding":
        configuration["data"]["init_args"]["tokenizer"] = "faulty.PadIsTurn"
    (chats / "chats.yaml").write_text(yaml.safe_dump(configuration))
    refused(*SHOW, saying=[FAULTS[name], "batch"])
    refused("fit", "--config", "chats.yaml", saying=[FAULTS[name], "the first batch"])
    assert not (chats / "runs" / "chats").exists()


def test_a_template_without_an_end_is_refused(chats: Path, refused: Refused) -> None:
    (chats / "endless.jinja").write_text(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    )
    for command in (SHOW, ("fit", "--config", "chats.yaml")):
        refused(*command, "--data.chat_template", "endless.jinja", saying=["ends an assistant's turn with no special token"])


def test_a_plugins_own_batches_that_train_nothing(chats: Path, refused: Refused) -> None:
    refused(*SHOW, "--data", "faulty.Foreign", "--data.tokenizer", "Byte", saying=["batch 0: no token is trained"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rows", "x"], "--rows is 'x'; it takes a whole number"),
        (["--batches", "0"], "--batches is '0'"),
        (["--html"], "--html needs a value"),
        (["--color", "pink"], "--color is 'pink'; it takes one of auto, always, never"),
        (["--table", "1"], "--table is '1'; it takes one of true, false"),
        (["--data.batch_sise", "2"], "did you mean batch_size?"),
        (["--data.batch_size", "0"], "batch_size must be at least 1"),
        (["--data.chat_template", "null"], "the model has no chat template"),
        (["--data.chat_template", "chatmk"], "there is no chat template chatmk"),
        (["--data.dataset.paths", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--trainer.help"], "--trainer.help has no effect here"),
        (["extra.yaml"], "unexpected argument 'extra.yaml'"),
    ],
)
def test_mistakes(words: list[str], said: str, chats: Path, refused: Refused) -> None:
    refused(*SHOW, *words, saying=[said])


def test_other_mistakes(chats: Path, framework: Any, refused: Refused) -> None:
    refused("data", "look", saying=["framework data knows `show`, not 'look'"])
    refused("data", "show", saying=["give --config FILE"])
    refused("data", "show", "nope.yaml", saying=["there is no file nope.yaml"])
    refused("data", "show", "--recipe", "sfd", saying=["did you mean sft?"])
    refused(*SHOW, "--html", "nowhere/page.html", code=1, saying=["No such file or directory: nowhere/page.html"])
    helped = framework("data", "--help")
    assert helped.code == 0 and "--batches N" in helped.out
