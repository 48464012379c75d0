"""A browser ranks with keys and with the mouse (slow; skips itself where there is no Chromium)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from framework.datasets import records
from framework.datasets.base import Message
from framework.datasets.json_lines import JsonLines
from framework.ranking.rankings import Reply

ENTER, SPACE, TAB = "\ue007", "\ue00d", "\ue004"
PROMPTS = ["a", (Message("user", "b?"),), "c", "d"]
WRITTEN = {number: tuple(Reply(f"{number}{letter}", seed, True) for seed, letter in enumerate("wxyz")) for number in range(4)}


def texts(browser: Any) -> list[str]:
    return list(browser.run("return [...document.querySelectorAll('.said')].map((said) => said.textContent)"))


def chips(browser: Any) -> list[str]:
    return list(browser.run("return [...document.querySelectorAll('.rank')].map((chip) => chip.textContent)"))


def wait_for(browser: Any, prompt: str) -> list[str]:
    browser.until(
        f"[...document.querySelectorAll('#prompt .turn')].at(-1)?.textContent === '{prompt}' && !document.querySelector('#replies').hidden"
    )
    return texts(browser)


def press(browser: Any, keys: str) -> None:
    browser.type("body", keys)


@pytest.mark.slow
def test_keys_and_mouse(serving: Callable[..., Any], browse: Callable[..., Any], tmp_path: Path) -> None:
    def ranked() -> dict[str, int | None]:
        """Of the last ranking: text -> rank."""
        last = list(served.ledger.rankings.values())[-1]
        return {reply.text[-1]: rank for reply, rank in zip(last.replies, last.ranks, strict=True)}

    with serving(PROMPTS, samples=4, written=WRITTEN) as served:
        browser = browse()
        browser.command("/url", {"url": served.url})

        # keys: second, then third and first in a tie; one is left out; what is chosen by mistake is taken back
        shown = wait_for(browser, "a")
        press(browser, ENTER)
        press(browser, "24u3t1")
        assert chips(browser) == ["= 2nd", "1st", "= 2nd", ""]
        press(browser, ENTER)
        following = wait_for(browser, "b?")
        assert ranked() == {text[-1]: rank for text, rank in zip(shown, [2, 1, 2, None], strict=True)}
        assert browser.run("return document.querySelector('#progress').textContent") == "1 of 4 done"

        # the mouse: all four, one chosen again to take it out
        shown = following
        for place in (4, 3, 4, 1, 2, 4):
            browser.click(f".reply:nth-child({place})")
        assert chips(browser) == ["2nd", "3rd", "1st", "4th"]
        browser.click("#next")
        wait_for(browser, "c")
        assert ranked() == {text[-1]: rank for text, rank in zip(shown, [2, 3, 1, 4], strict=True)}

        # undo past the beginning goes back to the last ranking; the next judgement counts in its place
        press(browser, "u")
        assert wait_for(browser, "b?") == shown, "in the same order"
        assert len(served.ledger.rankings) == 1
        press(browser, f"t{ENTER}")
        wait_for(browser, "c")
        assert set(ranked().values()) == {1}

        # skip; and the keyboard alone, from card to card
        press(browser, "s")
        wait_for(browser, "d")
        assert set(ranked().values()) == {None}
        browser.run("document.querySelector('.reply:nth-child(2)').focus()")
        browser.command(
            "/actions",
            {
                "actions": [
                    {
                        "type": "key",
                        "id": "k",
                        "actions": [{"type": kind, "value": key} for key in (SPACE, TAB, SPACE) for kind in ("keyDown", "keyUp")],
                    }
                ]
            },
        )
        assert chips(browser) == ["", "1st", "2nd", ""]
        press(browser, ENTER)
        browser.until("document.querySelector('#state').textContent.startsWith('Everything is ranked')")

        # another person sees the same replies, and agreement is shown at the end
        browser.run("document.querySelector('#rater').value = 'bob'; document.querySelector('#rater').onchange()")
        wait_for(browser, "a")
        for prompt in ("a", "b?", "c", "d"):
            wait_for(browser, prompt)
            press(browser, f"1234{ENTER}")
        browser.until("document.querySelector('#state').textContent.includes('Krippendorff')")
        assert browser.errors() == [], "nothing broke the policy"
    rows = [json.loads(line) for line in (tmp_path / "preferences.jsonl").read_text().splitlines()]
    assert {row["rater"] for row in rows} == {"ann", "bob"}
    assert len(records.read(JsonLines(str(tmp_path / "preferences.jsonl")), records.preference)) == len(rows) == 5 + 5 + 4 * 6


@pytest.mark.slow
def test_a_phone_a_token_and_the_dark(serving: Callable[..., Any], browse: Callable[..., Any]) -> None:
    long = {0: (Reply("word " * 300, 0, False), Reply("x" * 500, 1, True))}
    with serving(["p" * 300], samples=2, written=long, token="secret") as served:
        browser = browse(390, 844, dark=True)
        browser.command("/url", {"url": served.url})
        browser.until("!document.querySelector('#problem').hidden")
        assert "what follows the #" in browser.run("return document.querySelector('#problem').textContent")
        browser.command("/url", {"url": f"{served.url}/?#secret"})
        wait_for(browser, "p" * 300)
        assert browser.run("return document.documentElement.scrollWidth <= innerWidth && innerWidth === 390")
        assert browser.run("return document.querySelectorAll('.cut').length") == 1
        first, second = browser.run("return [...document.querySelectorAll('.reply')].map((card) => card.getBoundingClientRect().top)")
        assert second > first + 50, "one below the other"
        assert browser.run("return getComputedStyle(document.body).backgroundColor") == "rgb(25, 26, 27)"
        assert browser.run("return document.querySelector('#next').getBoundingClientRect().bottom <= innerHeight")
        browser.click(".reply:nth-child(1)")
        browser.click("#next")
        browser.until("document.querySelector('#state').textContent.startsWith('Everything is ranked')")


@pytest.mark.slow
def test_a_server_that_is_gone_is_told(serving: Callable[..., Any], browse: Callable[..., Any]) -> None:
    browser = browse()
    with serving(PROMPTS, samples=4, written=WRITTEN) as served:
        browser.command("/url", {"url": served.url})
        wait_for(browser, "a")
    press(browser, f"1{ENTER}")
    browser.until("document.querySelector('#problem').textContent.includes('still running')")
    assert chips(browser).count("1st") == 1, "what was chosen stays"
