"""How far raters agree: on pairs of replies that at least two of them judged.

Rankings flow in, figures flow out; pure functions. Must not know files or pages.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from framework.ranking.rankings import Ranking


@dataclass(frozen=True)
class Agreement:
    """What was found.

    Args:
        num_raters: who judged any of the pairs below.
        num_pairs: pairs of replies that at least two judged; a judgement is better, worse or tie.
        pairwise: share of agreeing judgements, over all two raters of a pair; None without pairs.
        alpha: Krippendorff's alpha (nominal): 1 is perfect, 0 what chance gives; None where chance cannot be told.
    """

    num_raters: int
    num_pairs: int
    pairwise: float | None
    alpha: float | None

    def __str__(self) -> str:
        if self.pairwise is None:
            return "agreement: no pair of replies was judged by two raters"
        alpha = "undefined (all judgements are ties)" if self.alpha is None else f"{self.alpha:.3f}"
        judged = f"{self.num_pairs} {'pair' if self.num_pairs == 1 else 'pairs'} judged by at least 2 of {self.num_raters} raters"
        return f"agreement: {judged}; pairwise {self.pairwise:.1%}; Krippendorff's alpha (nominal) {alpha}"


def agreement(rankings: Iterable[Ranking]) -> Agreement:
    """The agreement of all raters; of two rankings of one thing by one rater the later counts.

    Which reply of a pair is named first means nothing, so each pair counts in both orders for alpha, as better and as worse.
    """
    judged: defaultdict[tuple[str, str, str], dict[str, int]] = defaultdict(dict)
    for ranking in rankings:
        for one, other in combinations(sorted(range(len(ranking.replies)), key=lambda number: ranking.replies[number].text), 2):
            judgement = ranking.better(one, other)
            if judgement is not None:
                judged[ranking.key, ranking.replies[one].text, ranking.replies[other].text][ranking.rater] = judgement
    shared = [raters for raters in judged.values() if len(raters) > 1]
    units = [list(raters.values()) for raters in shared]
    both_orders = units + [[-judgement for judgement in unit] for unit in units]
    return Agreement(len(set().union(*shared)), len(units), pairwise(units), krippendorff_alpha(both_orders))


def pairwise(units: Sequence[Sequence[Hashable]]) -> float | None:
    """Share of equal values over all two values of a unit; None without any."""
    equal = [one == other for unit in units for one, other in combinations(unit, 2)]
    return sum(equal) / len(equal) if equal else None


def krippendorff_alpha(units: Sequence[Sequence[Hashable]]) -> float | None:
    """Krippendorff's alpha for nominal values, of any number of raters with values missing (Computing Krippendorff's Alpha, 2011).

    Args:
        units: for each thing that was judged, the values it was given.

    Returns:
        1 - observed / expected disagreement; None where all values are equal.
    """
    units = [unit for unit in units if len(unit) > 1]
    totals = Counter(value for unit in units for value in unit)
    num_values = totals.total()
    expected = num_values**2 - sum(count**2 for count in totals.values())
    if not expected:
        return None
    observed = sum((len(unit) ** 2 - sum(count**2 for count in Counter(unit).values())) / (len(unit) - 1) for unit in units)
    return 1 - (num_values - 1) * observed / expected
