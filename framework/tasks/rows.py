"""What tasks on rows share: which rows are asked, and the worked ones that come before each.

Rows flow in, rows flow out, named by where they came from when they are unfit. Must not know models.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from framework.datasets.base import Row, Rows
from framework.errors import DataError

BETWEEN = "\n\n"  # what parts examples in plain text, as in lm-eval


def few_shot_split(dataset: Rows, few_shot: int, few_shot_dataset: Rows | None, limit: int | None) -> tuple[list[Row], list[Row]]:
    """The rows that are shown with their answers before each question, and the rows that are asked.

    Those shown are the first of `few_shot_dataset`, or without one of the dataset itself, whose others are then asked.

    Raises:
        DataError: too few rows.
    """
    shown = list(itertools.islice(dataset.rows() if few_shot_dataset is None else few_shot_dataset.rows(), few_shot))
    skipped = few_shot if few_shot_dataset is None else 0
    asked = list(itertools.islice(dataset.rows(), skipped, None if limit is None else skipped + limit))
    if len(shown) < few_shot or not asked:
        raise DataError(f"the dataset has too few rows: {few_shot} are shown with their answers, and at least one more is asked")
    return shown, asked


def fill(template: str, row: Row) -> str:
    """A text with the row's fields in the place of their names in braces."""
    try:
        return template.format_map(row.fields)
    except (KeyError, IndexError, AttributeError, ValueError) as problem:
        raise DataError(f"{row.source}: the template {template!r} cannot be filled: {_said(problem, row.fields)}") from None


def value(row: Row, name: str) -> Any:
    """A field that the row must have."""
    if row.fields.get(name) is None:
        raise DataError(f"{row.source} has no field {name}; it has {', '.join(row.fields) or 'none'}")
    return row.fields[name]


def describe(dataset: Rows) -> dict[str, str]:
    """What identifies a dataset in a result."""
    return {"class": type(dataset).__name__, "fingerprint": dataset.fingerprint()}


def _said(problem: Exception, fields: Mapping[str, Any]) -> str:
    return f"there is no field {problem}, but {', '.join(fields)}" if isinstance(problem, KeyError) else str(problem)
