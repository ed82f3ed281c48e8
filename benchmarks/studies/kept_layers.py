"""Layers that stay: those that are missed most, evenly spread ones, or those with the best scores |g · ∂L/∂g|.

A row of the record is a run; where ways choose the same layers it counts for both. Rows of masked words are of
`python -m benchmarks.sweep examples/sweeps/sizes.json` with 500 steps, those that name a student of shapes.json beside
it, those of the demo of `python -m benchmarks.studies.demo`. Those of all-MiniLM-L6-v2, of 5x192-8x24-216 and
3x168-7x24-232, are as embedding_shapes.py beside this file makes them, those of STS-B of `homodistil distill` with the
teacher that bit_diagnosis.py fine-tunes. Scores chose at commit a80376e1, even spreads at 4acae705. Of the English
teacher's layers five stay (0 1 2 4 5) and three (0 2 5) as with even spreads.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.spread import Spread
from benchmarks.studies.study import Study
from homodistil_hf.tables import markdown_table

_METRICS = {"kl": "KL, nats", "neighbours": "neighbours", "pearson": "Pearson"}
_WAYS = ("missed most", "evenly", "by scores")


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A row a teacher and share: layers and metric of each way, and how much that of the first is higher."""
    cells = []
    for teacher, share in dict.fromkeys((row["teacher"], row["share"]) for row in rows):
        found = [row for row in rows if (row["teacher"], row["share"]) == (teacher, share)]
        (metric,) = (name for name in _METRICS if name in found[0])
        by_way = [{(row["seed"], row.get("student")): row for row in found if way in row["chosen"]} for way in _WAYS]
        first, *others = by_way
        shown, gaps = [], []
        for one in by_way:
            layers = dict.fromkeys(" ".join(map(str, row["layers"])) for row in one.values())
            shown.append(f"{'; '.join(layers)}: {Spread.of(row[metric] for row in one.values()):.3f}" if one else "–")
        for one in others:
            pairs = [(first[run], one[run]) for run in first.keys() & one.keys()]
            is_other = any(own["layers"] != row["layers"] for own, row in pairs)
            gaps.append(f"{Spread.of(own[metric] - row[metric] for own, row in pairs):+.3f}" if is_other else "–")
        cells.append([f"{teacher}: {_METRICS[metric]}", share, *shown, *gaps])
    return markdown_table(["", "MACs", *_WAYS, *(f"minus {way}" for way in _WAYS[1:])], cells)


STUDY = Study(
    Path("docs/results/studies/kept_layers.jsonl"), Path("docs/method.md"), lambda rows: {"kept-layers": table(rows)}
)
