"""Made-up stories: reproducible, disjoint where asked, and true in themselves."""

from __future__ import annotations

import re
from typing import Any

import pytest

from framework.datasets import sentences
from framework.datasets.sentences import NUMBERS, PEOPLE, Sentences
from framework.errors import ConfigError
from framework.testing.datasets import CHECKS

STORIES = [document.text for document in Sentences(size=3000)]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_conformance(check: Any) -> None:
    check(Sentences(size=50))


def test_a_range_is_the_part_of_a_larger_one() -> None:
    part = list(Sentences(size=20, start=2980))
    assert [document.text for document in part] == STORIES[2980:]
    assert part[0].source == "sentences:2980"
    assert [document.text for document in Sentences(size=20, seed=1)] != STORIES[:20]
    fingerprints = {Sentences(size=5).fingerprint(), Sentences(size=6).fingerprint(), Sentences(size=5, seed=1).fingerprint()}
    assert len(fingerprints | {Sentences(size=5, start=1).fingerprint()}) == 4


def test_the_language_is_small_and_lower_case() -> None:
    words = set(re.findall(r"[^\s.,]+", " ".join(STORIES)))
    assert 150 < len(words) < 200 and all(word.isalpha() and word.islower() for word in words)
    assert all(story.endswith(".\n") and story.count("\n") == 1 for story in STORIES)
    assert len(set(STORIES)) > 0.95 * len(STORIES)


def test_what_stands_in_a_story_is_true() -> None:
    found = dict.fromkeys(("counted", "hidden", "pronouns"), 0)
    for story in STORIES:
        for had, gave, left, got in re.findall(
            r"had (\w+) \w+\. s?he gave (\w+) \w+ to \w+\. now \w+ has (\w+) \w+ and \w+ has (\w+)", story
        ):
            assert NUMBERS.index(had) - NUMBERS.index(gave) == NUMBERS.index(left) and got == gave
            found["counted"] += 1
        for thing, first, again, last in re.findall(
            r"put the (\w+) ([a-z ]+)\. where is the (\w+ \w+), asked \w+\. the \3 is ([a-z ]+),", story
        ):
            assert again.split()[1] == thing and first == last
            found["hidden"] += 1
        for name, pronoun in re.findall(r"(\w+) had [^.]*\. (s?he) ", story):
            assert PEOPLE[name] == pronoun
            found["pronouns"] += 1
        for number, noun in re.findall(rf"\b({'|'.join(NUMBERS)}) (\w+) (?:to|live|and|\.)", story):
            assert (number == "one") == (noun in sentences.FRUITS), story
    assert all(count > 300 for count in found.values()), found


def test_cats_sit_on_mats() -> None:
    places = re.findall(r"cat sat on the (\w+)", " ".join(STORIES))
    assert 0.7 < places.count("mat") / len(places) < 0.95


@pytest.mark.parametrize("settings", [{"size": 0}, {"start": -1}])
def test_bad_settings_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="Sentences needs"):
        Sentences(**settings)
