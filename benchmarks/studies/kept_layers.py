"""Layers that stay: spread evenly, or those with the best scores |g · ∂L/∂g|.

A row of the record is a run. Those of masked words are of `python -m benchmarks.sweep examples/sweeps/sizes.json` with
500 steps. Those of all-MiniLM-L6-v2, of 5x192-8x24-216 and 3x168-7x24-232, are as embedding_shapes.py beside this file
makes them; the demo's of `python -m benchmarks.studies.demo`. Scores chose at commit a80376e1.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.spread import Spread
from benchmarks.studies.study import Study
from homodistil_hf.tables import markdown_table

_METRICS = {"kl": "KL, nats", "neighbours": "neighbours"}


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A row a teacher and share: the metric of either choice, and their difference seed by seed."""
    cells = []
    for teacher, share in dict.fromkeys((row["teacher"], row["share"]) for row in rows):
        found = [row for row in rows if (row["teacher"], row["share"]) == (teacher, share)]
        (metric,) = (name for name in _METRICS if name in found[0])
        evenly, scored = (
            {row["seed"]: row for row in found if row["chosen"] == way} for way in ("evenly", "by scores")
        )
        seeds = evenly.keys() & scored.keys()
        kept = "; ".join(dict.fromkeys(" ".join(map(str, one["layers"])) for one in scored.values()))
        values = [Spread.of(way[seed][metric] for seed in seeds) for way in (evenly, scored)]
        gap = Spread.of(evenly[seed][metric] - scored[seed][metric] for seed in seeds)
        even = " ".join(map(str, next(iter(evenly.values()))["layers"]))
        shown = [f"{value:.3f}" for value in values]
        cells.append(
            [f"{teacher}: {_METRICS[metric]}", share, f"{even}: {shown[0]}", f"{kept}: {shown[1]}", f"{gap:+.3f}"]
        )
    return markdown_table(["", "MACs", "evenly", "by scores", "difference"], cells)


STUDY = Study(
    Path("docs/results/studies/kept_layers.jsonl"), Path("docs/method.md"), lambda rows: {"kept-layers": table(rows)}
)
