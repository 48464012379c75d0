"""Rows of the formats in use become records; rows that do not fit say why, and are counted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from framework.datasets.base import Message, Row, Rows
from framework.datasets.records import Demonstration, Prompt, RowError, demonstration, preference, prompt, read
from framework.errors import ConfigError, DataError, RequestError

ASK, BLUE, GREEN = (
    {"role": "user", "content": "Sky?"},
    {"role": "assistant", "content": "Blue."},
    {"role": "assistant", "content": "Green."},
)
MORE, SYSTEM = {"role": "user", "content": "Sea?"}, {"role": "system", "content": "Be brief."}


def row(**fields: Any) -> Row:
    return Row(fields, "data.jsonl:7")


def turns(*messages: dict[str, str]) -> tuple[Message, ...]:
    return tuple(Message(message["role"], message["content"]) for message in messages)


@pytest.mark.parametrize(
    ("fields", "asked", "reply"),
    [
        # TRL
        ({"text": "The sky is blue."}, "", "The sky is blue."),
        ({"prompt": "The sky is", "completion": " blue."}, "The sky is", " blue."),
        ({"prompt": [SYSTEM, ASK], "completion": [BLUE]}, turns(SYSTEM, ASK), turns(BLUE)),
        ({"prompt": [ASK], "completion": "Blue."}, turns(ASK), turns(BLUE)),
        ({"prompt": [ASK], "completion": BLUE}, turns(ASK), turns(BLUE)),
        ({"messages": [ASK, BLUE, MORE, GREEN]}, turns(ASK), turns(BLUE, MORE, GREEN)),
        ({"messages": [BLUE, MORE, GREEN]}, (), turns(BLUE, MORE, GREEN)),
        ({"messages": [ASK, BLUE], "system": "Be brief."}, turns(SYSTEM, ASK), turns(BLUE)),
        ({"messages": [SYSTEM, ASK, BLUE], "system": "Be long."}, turns(SYSTEM, ASK), turns(BLUE)),
        ({"messages": [ASK, BLUE], "prompt": "Sky?", "prompt_id": "x", "tools": None}, turns(ASK), turns(BLUE)),  # as UltraChat
        ({"messages": [{**ASK, "name": None}, {**BLUE, "tool_calls": None}]}, turns(ASK), turns(BLUE)),  # as Parquet fills structs up
        # Alpaca
        ({"instruction": "Sky?", "input": "", "output": "Blue.", "text": "whole"}, turns(ASK), turns(BLUE)),
        ({"instruction": "Add", "input": "1 2", "output": "3"}, (Message("user", "Add\n1 2"),), (Message("assistant", "3"),)),
        (
            {"instruction": "Sea?", "output": "Green.", "system": "Be brief.", "history": [["Sky?", "Blue."]]},
            turns(SYSTEM, ASK),
            turns(BLUE, MORE, GREEN),
        ),
        # ShareGPT
        ({"conversations": [{"from": "human", "value": "Sky?"}, {"from": "gpt", "value": "Blue."}]}, turns(ASK), turns(BLUE)),
        (
            {
                "conversations": [
                    {"from": "system", "value": "Be brief."},
                    {"from": "human", "value": "Sky?"},
                    {"from": "function_call", "value": "look()"},
                    {"from": "observation", "value": "blue"},
                    {"from": "gpt", "value": "Blue."},
                ]
            },
            turns(SYSTEM, ASK),
            (Message("assistant", "look()"), Message("tool", "blue"), Message("assistant", "Blue.")),
        ),
        # GSM8K
        ({"question": "Sky?", "answer": "Blue."}, turns(ASK), turns(BLUE)),
    ],
)
def test_demonstrations(fields: dict[str, Any], asked: Any, reply: Any) -> None:
    assert demonstration(row(**fields)) == Demonstration(asked, reply, "data.jsonl:7")


@pytest.mark.parametrize(
    ("fields", "asked", "chosen", "rejected"),
    [
        ({"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}, "The sky is", " blue.", " green."),
        ({"prompt": [ASK], "chosen": [BLUE], "rejected": [GREEN]}, turns(ASK), turns(BLUE), turns(GREEN)),
        ({"prompt": [ASK], "chosen": "Blue.", "rejected": "Green."}, turns(ASK), turns(BLUE), turns(GREEN)),
        # the prompt is what both begin with
        ({"chosen": "The sky is blue.", "rejected": "The sky is big."}, "The sky is", " blue.", " big."),
        ({"chosen": "Sky?\nBlue.", "rejected": "Sky?\nBig."}, "Sky?", "\nBlue.", "\nBig."),
        ({"chosen": "blue", "rejected": "big"}, "", "blue", "big"),
        ({"chosen": "a sky", "rejected": "a sky, blue"}, "a", " sky", " sky, blue"),
        ({"chosen": [ASK, BLUE], "rejected": [ASK, GREEN]}, turns(ASK), turns(BLUE), turns(GREEN)),
        (
            {"chosen": [ASK, BLUE, MORE, GREEN], "rejected": [ASK, BLUE, MORE, BLUE]},
            turns(ASK, BLUE, MORE),
            turns(GREEN),
            turns(BLUE),
        ),
        # as UltraFeedback: text and, again, chats with it
        (
            {"prompt": "Sky?", "messages": [ASK, BLUE], "chosen": [ASK, BLUE], "rejected": [ASK, GREEN], "score_chosen": 8.0},
            turns(ASK),
            turns(BLUE),
            turns(GREEN),
        ),
        # a tool's turn first: a reply all the same, since the prompt is there
        (
            {"prompt": [ASK], "chosen": [{"role": "tool", "content": "x"}, BLUE], "rejected": [{"role": "tool", "content": "x"}, GREEN]},
            turns(ASK),
            (Message("tool", "x"), *turns(BLUE)),
            (Message("tool", "x"), *turns(GREEN)),
        ),
        # Alpaca and ShareGPT with two replies
        ({"instruction": "Sky?", "input": "", "chosen": "Blue.", "rejected": "Green."}, turns(ASK), turns(BLUE), turns(GREEN)),
        (
            {
                "conversations": [{"from": "human", "value": "Sky?"}],
                "chosen": {"from": "gpt", "value": "Blue."},
                "rejected": {"from": "gpt", "value": "Green."},
            },
            turns(ASK),
            turns(BLUE),
            turns(GREEN),
        ),
    ],
)
def test_preferences(fields: dict[str, Any], asked: Any, chosen: Any, rejected: Any) -> None:
    assert preference(row(**fields)) == (asked, chosen, rejected, None, "data.jsonl:7")
    assert preference(row(**fields, margin=2)).margin == 2.0


@pytest.mark.parametrize(
    ("fields", "asked", "others"),
    [
        ({"prompt": "1+1=", "answer": "2"}, "1+1=", {"answer": "2"}),
        ({"prompt": [SYSTEM, ASK], "answer": None}, turns(SYSTEM, ASK), {"answer": None}),
        ({"prompt": [ASK], "completion": [BLUE]}, turns(ASK), {"completion": [BLUE]}),
        ({"question": "Sky?", "answer": "Blue."}, turns(ASK), {"answer": "Blue."}),
        ({"instruction": "Sky?", "input": "", "output": "Blue."}, turns(ASK), {"output": "Blue."}),
        ({"messages": [ASK, BLUE, MORE, GREEN], "id": 3}, turns(ASK, BLUE, MORE), {"id": 3}),
        ({"messages": [ASK]}, turns(ASK), {}),
    ],
)
def test_prompts(fields: dict[str, Any], asked: Any, others: dict[str, Any]) -> None:
    assert prompt(row(**fields)) == Prompt(asked, others, "data.jsonl:7")


@pytest.mark.parametrize(
    ("convert", "fields", "reason"),
    [
        (demonstration, {}, "it has no fields; known are messages; conversations; prompt and completion; .*; text"),
        (demonstration, {"prompt": "x", "body": "y"}, "it has prompt, body; known are"),
        (demonstration, {"prompt": "x", "completion": None}, "it has prompt; known are"),
        (demonstration, {"text": ""}, "text is an empty reply"),
        (demonstration, {"text": 3}, "text is a int, not text"),
        (demonstration, {"prompt": "x", "completion": " \n"}, "completion is an empty reply"),
        (demonstration, {"prompt": "x", "completion": [BLUE]}, "the prompt is text and completion a list of messages"),
        (demonstration, {"prompt": [ASK], "completion": [MORE]}, "completion has no assistant's turn"),
        (demonstration, {"messages": [ASK, MORE]}, "messages has no assistant's turn"),
        (demonstration, {"messages": [ASK, {**BLUE, "content": ""}, MORE, GREEN]}, "messages has an empty reply"),
        (demonstration, {"messages": [ASK, BLUE], "tools": [{"name": "f"}]}, "it has tools"),
        (demonstration, {"instruction": "x", "output": ""}, "output is an empty reply"),
        (demonstration, {"instruction": "x", "output": "y", "history": [["a"]]}, r"history\[0\] is no pair"),
        (demonstration, {"instruction": "x", "output": "y", "history": 5}, "history is no list"),
        (demonstration, {"instruction": "x", "output": "y", "input": 5}, "input is a int, not text"),
        (preference, {"prompt": "x", "chosen": "y"}, "it has prompt, chosen, but a preference needs chosen and rejected"),
        (preference, {"prompt": "x", "chosen": "y", "rejected": "y"}, "chosen and rejected are the same"),
        (preference, {"chosen": [ASK, BLUE], "rejected": [ASK, BLUE]}, "chosen and rejected are the same"),
        (preference, {"prompt": "x", "chosen": "y", "rejected": ""}, "rejected is an empty reply"),
        (preference, {"prompt": "x", "chosen": [BLUE], "rejected": [GREEN]}, "the prompt is text and chosen a list"),
        (preference, {"chosen": [ASK, BLUE], "rejected": [MORE, GREEN]}, "begin with different turns"),
        (preference, {"chosen": [ASK, BLUE], "rejected": "Green."}, "one of chosen and rejected is text"),
        (preference, {"chosen": [ASK, BLUE], "rejected": [ASK, BLUE, MORE, GREEN]}, "chosen has no assistant's turn"),
        (preference, {"prompt": "x", "chosen": "y", "rejected": "z", "margin": "2"}, "margin is '2', no finite number"),
        (preference, {"prompt": "x", "chosen": "y", "rejected": "z", "margin": float("nan")}, "margin is nan"),
        (preference, {"prompt": "x", "chosen": "y", "rejected": "z", "margin": True}, "margin is True"),
        (prompt, {"text": "x"}, "no prompt: it has text; known are messages"),
        (prompt, {"prompt": ""}, "prompt asks nothing: it is empty"),
        (prompt, {"prompt": [ASK, BLUE]}, "prompt asks nothing: it ends with the reply"),
        (prompt, {"messages": [BLUE]}, "messages asks nothing: it is empty"),
    ],
)
def test_rows_that_do_not_fit_say_why(convert: Any, fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(RowError, match=reason) as refused:
        convert(row(**fields))
    assert "\n" not in str(refused.value)


class Numbers(Rows):
    """Ten rows, of which some lack a reply."""

    def __init__(self, *bad: int) -> None:
        self.bad = bad

    def rows(self) -> Iterator[Row]:
        for number in range(10):
            yield Row({"prompt": str(number), "completion": "" if number in self.bad else "x"}, f"a.jsonl:{number + 1}")

    def fingerprint(self) -> str:
        return ""


def test_bad_rows_are_counted_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert [made.prompt for made in read(Numbers(), demonstration)] == [str(number) for number in range(10)]
    assert capsys.readouterr().err == ""
    assert len(read(Numbers(2, 5), demonstration, max_bad_rows=0.2)) == 8
    reason = "completion is an empty reply"
    assert capsys.readouterr().err == f"note: 2 of 10 rows do not fit: a.jsonl:3: {reason}; a.jsonl:6: {reason}; they are left out\n"
    with pytest.raises(DataError, match=r"^2 of 10 rows do not fit: a\.jsonl:3: .*; a\.jsonl:6: .*max_bad_rows \(it is 0.19\)"):
        read(Numbers(2, 5), demonstration, max_bad_rows=0.19)
    with pytest.raises(DataError, match=r"^4 of 10 .*a\.jsonl:1: .*a\.jsonl:2: .*a\.jsonl:3: [^;]*; \.\.\."):
        read(Numbers(0, 1, 2, 9), demonstration)
    with pytest.raises(DataError, match="10 of 10"):
        read(Numbers(*range(10)), demonstration, max_bad_rows=1.0)
    with pytest.raises(ConfigError, match=r"max_bad_rows 1\.5 is no share"):
        read(Numbers(), demonstration, max_bad_rows=1.5)


def test_what_comes_after_may_refuse_rows_too_but_not_hide_mistakes_in_the_code() -> None:
    def refuse(row: Row) -> None:
        raise RequestError("roles must alternate")

    with pytest.raises(DataError, match="roles must alternate"):
        read(Numbers(), refuse)
    with pytest.raises(ZeroDivisionError):
        read(Numbers(), lambda row: 1 / 0)
