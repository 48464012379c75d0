"""Which examples share a row: best-fit-decreasing bin packing. Plain Python.

Lengths flow in, lists of their numbers flow out. Must not know tokens.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Bins of the numbers of `lengths`, each at most `capacity` long in sum; the longest first, each into the fullest bin with room.

    Needs at most 11/9 of the fewest possible bins (Johnson, 1973). The result depends on the arguments alone.
    """
    bins: list[list[int]] = []
    with_room: dict[int, list[int]] = {}  # room left -> bins that have it
    rooms: list[int] = []  # the keys of `with_room`, sorted
    for number in sorted(range(len(lengths)), key=lambda each: -lengths[each]):
        length = lengths[number]
        assert 0 < length <= capacity, "examples are cut to the capacity before they are packed"
        place = bisect_left(rooms, length)
        if place == len(rooms):
            chosen, room = len(bins), capacity
            bins.append([])
        else:
            room = rooms[place]
            chosen = with_room[room].pop()
            if not with_room[room]:
                del with_room[room], rooms[place]
        bins[chosen].append(number)
        left = room - length
        if left:
            if left not in with_room:
                with_room[left] = []
                insort(rooms, left)
            with_room[left].append(chosen)
    return bins
