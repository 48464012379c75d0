"""Small stories in simple English, made up: a language with little to learn and much to see, of which there is as much as is wanted.

A seed flows in, documents flow out. Must not know tokenizers or networks.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator

from framework.datasets.base import Document, Documents
from framework.errors import ConfigError

PEOPLE = {"tom": "he", "ben": "he", "sam": "he", "jack": "he", "anna": "she", "lucy": "she", "mia": "she", "emma": "she"}
HOMES = {  # where an animal likes to sit; most of the time it does
    "cat": "mat", "dog": "bed", "bird": "branch", "hen": "nest", "duck": "pond", "mouse": "floor", "rabbit": "grass", "fox": "rock",
    "frog": "leaf", "owl": "roof",
}  # fmt: skip
FOODS = {
    "cat": "fish", "dog": "bones", "bird": "seeds", "hen": "corn", "duck": "bread", "mouse": "cheese", "rabbit": "carrots", "fox": "eggs",
    "frog": "flies", "owl": "mice",
}  # fmt: skip
PLURALS = {"mouse": "mice", "fox": "foxes"}
OPPOSITES = {"big": "small", "fast": "slow", "old": "young", "loud": "quiet", "brave": "shy", "wet": "dry", "warm": "cold", "happy": "sad"}
COLOURS = ("red", "blue", "green", "yellow", "white", "black", "brown")
THINGS = ("ball", "book", "cup", "hat", "key", "spoon", "coat", "drum")
HIDING_PLACES = ("in the box", "under the bed", "on the table", "behind the door", "in the basket", "on the shelf")
PLACES = ("garden", "park", "forest", "school", "kitchen", "river", "barn", "market")
FRUITS = {"apple": "apples", "plum": "plums", "egg": "eggs", "cake": "cakes", "nut": "nuts"}
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WEATHERS = {"sunny": "warm", "rainy": "wet", "snowy": "cold", "windy": "cold"}
GAMES = ("played with a ball", "sang a song", "ran a race", "told a story", "looked for flowers")


class Sentences(Documents):
    """Stories of one to three episodes about people, animals and things, in lower case, with fewer than 200 words in all.

    Some of it takes one fact (cats sit on mats), some agreement (he or she, one duck or two ducks), some memory of what stood further up
    (where the ball was put, how many apples are left), so that a small network that learnt it has something to show.

    Args:
        size: number of stories.
        seed: decides which.
        start: stories passed over before the first; ranges that do not overlap share stories only by chance.
    """

    def __init__(self, size: int = 20_000, seed: int = 0, start: int = 0) -> None:
        if size < 1 or start < 0:
            raise ConfigError(f"Sentences needs a size of at least 1 and a start of at least 0; got {size} and {start}.")
        self.size, self.seed, self.start = size, seed, start

    def __iter__(self) -> Iterator[Document]:
        for number in range(self.start, self.start + self.size):
            yield Document(_story(random.Random(f"{self.seed} {number}")), f"sentences:{number}")

    def fingerprint(self) -> str:
        """Of all settings and the words."""
        words = (PEOPLE, HOMES, FOODS, PLURALS, OPPOSITES, COLOURS, THINGS, HIDING_PLACES, PLACES, FRUITS, NUMBERS, WEATHERS, GAMES)
        return hashlib.sha256(repr(("sentences", self.size, self.seed, self.start, words)).encode()).hexdigest()


def _story(draw: random.Random) -> str:
    return " ".join(episode(draw) for episode in draw.sample(EPISODES, draw.randint(1, 3))) + "\n"


def _sitting(draw: random.Random) -> str:
    animal = draw.choice(list(HOMES))
    quality, opposite = _pair(draw)
    place = HOMES[animal] if draw.random() < 0.8 else draw.choice(list(HOMES.values()))
    adjective = f"{quality} " if draw.random() < 0.5 else ""
    next_day = f" the next day the {animal} sat on the {place} again." if draw.random() < 0.3 else ""
    feeling = f" it was {quality} and not {opposite}." if draw.random() < 0.5 else ""
    return f"the {adjective}{animal} sat on the {place}.{feeling} it likes to eat {FOODS[animal]}.{next_day}"


def _hiding(draw: random.Random) -> str:
    owner, friend = _people(draw)
    colour, thing, place = draw.choice(COLOURS), draw.choice(THINGS), draw.choice(HIDING_PLACES)
    return (
        f"{owner} had a {colour} {thing}. {PEOPLE[owner]} put the {thing} {place}. where is the {colour} {thing}, asked {friend}. "
        f"the {colour} {thing} is {place}, said {owner}."
    )


def _visit(draw: random.Random) -> str:
    visitor, animal, place = draw.choice(list(PEOPLE)), draw.choice(list(HOMES)), draw.choice(PLACES)
    colour, (quality, _) = draw.choice(COLOURS), _pair(draw)
    return (
        f"{visitor} went to the {place}. {PEOPLE[visitor]} saw {_article(animal)} {animal} there. the {animal} was {colour} and {quality}. "
        f"{visitor} gave the {animal} some {FOODS[animal]}. thank you, said the {animal}, and {visitor} went home."
    )


def _chase(draw: random.Random) -> str:
    hunter, hunted = draw.sample(list(HOMES), 2)
    place = draw.choice(PLACES)
    ends = (
        f"the {hunter} was slow and the {hunted} was fast.",
        f"the {hunted} was slow and the {hunter} was fast, but the {hunter} was not hungry.",
    )
    return f"the {hunter} saw the {hunted} in the {place}. the {hunted} ran and the {hunter} ran after it. {draw.choice(ends)}"


def _counting(draw: random.Random) -> str:
    giver, taker = _people(draw)
    fruit = draw.choice(list(FRUITS))
    had = draw.randint(1, 9)
    gave = draw.randint(1, had)
    return (
        f"{giver} had {_count(had, fruit)}. {PEOPLE[giver]} gave {_count(gave, fruit)} to {taker}. "
        f"now {giver} has {_count(had - gave, fruit)} and {taker} has {_count(gave, fruit)}."
    )


def _many(draw: random.Random) -> str:
    animal, place = draw.choice(list(HOMES)), draw.choice(PLACES)
    quality, opposite = _pair(draw)
    count = draw.randint(2, 9)
    return (
        f"{NUMBERS[count]} {_plural(animal)} live in the {place}. they are {quality}. one {animal} is {opposite}. it is not {quality}. "
        f"the other {_plural(animal)} like to eat {FOODS[animal]}."
    )


def _day_out(draw: random.Random) -> str:
    weather = draw.choice(list(WEATHERS))
    first, second = _people(draw)
    return (
        f"it was a {weather} day and the {draw.choice(PLACES)} was {WEATHERS[weather]}. {first} and {second} {draw.choice(GAMES)}. "
        f"{first} was happy and {second} was happy too. in the evening {first} and {second} went home."
    )


EPISODES: list[Callable[[random.Random], str]] = [_sitting, _hiding, _visit, _chase, _counting, _many, _day_out]


def _people(draw: random.Random) -> tuple[str, str]:
    first, second = draw.sample(list(PEOPLE), 2)
    return first, second


def _pair(draw: random.Random) -> tuple[str, str]:
    """A quality and its opposite."""
    pair = draw.choice(list(OPPOSITES.items()))
    return pair if draw.random() < 0.5 else (pair[1], pair[0])


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"


def _plural(animal: str) -> str:
    return PLURALS.get(animal, f"{animal}s")


def _count(number: int, fruit: str) -> str:
    return f"{NUMBERS[number]} {fruit if number == 1 else FRUITS[fruit]}"
