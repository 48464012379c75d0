"""Preference pairs of GSM8K: of each question, a solution of a model that is right and one that is wrong.

    python recipes/gsm8k_pairs.py gsm8k-model-solutions.jsonl pairs.jsonl

Reads the file of model solutions that OpenAI published with GSM8K (a question and the solutions of several models a line, each with
`is_correct`), writes `prompt`, `chosen`, `rejected` rows for the recipe reward-model. Calculator marks (<<3+4=7>>) are taken out.
"""

from __future__ import annotations

import itertools
import json
import re
import sys
from pathlib import Path

MARKS = re.compile(r"<<[^>]*>>")


def pairs(line: str) -> list[dict[str, str]]:
    """A question's pairs: the right solutions with the wrong ones in turn, none of them twice."""
    record = json.loads(line)
    answers = [record[name] for name in sorted(record) if isinstance(record[name], dict)]
    sides = [[MARKS.sub("", a["solution"]).strip() for a in answers if a["is_correct"] == wanted] for wanted in (True, False)]
    question = {"prompt": f"Question: {record['question'].strip()}\nAnswer: "}
    return [{**question, "chosen": right, "rejected": wrong} for right, wrong in zip(*sides) if right and wrong and right != wrong]


def main(source: Path, target: Path) -> None:
    """Write the pairs of a file."""
    found = list(itertools.chain.from_iterable(pairs(line) for line in source.read_text(encoding="utf-8").splitlines() if line.strip()))
    target.write_text("".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in found), encoding="utf-8")
    print(f"{len(found)} pairs in {target}", file=sys.stderr)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
