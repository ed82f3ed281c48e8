"""Record how fast training is on this machine: docs/results/speed.json and a bar chart of each case.

    python -m benchmarks.speed.cases                         # all cases, on a quiet machine
    python -m benchmarks.speed.cases --cases teacher6x384-bfloat16 growth

Cases that are not named keep what the file has. `python -m benchmarks.speed.gpu` is the part for a GPU.
"""

import argparse
import json
import logging
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks.speed.chart import draw_parts
from benchmarks.speed.growth import format_growth, run_growth
from benchmarks.speed.measure import run_bench
from benchmarks.speed.settings import BenchSettings
from benchmarks.speed.tables import format_bench

RESULTS = Path("docs/results/speed.json")

# As the recorded figures were measured.
TEACHER = {"shape": "teacher6x384", "student": "192-12x16-704", "pruning_end_fraction": 0.5}
# Pruning ends at 0.7 of the steps: what the ceiling of compaction is stated for.
BERT_BASE = {"shape": "bert-base", "student": "homobert-tiny", "pruning_end_fraction": 0.7, "points": 4}
SHORT = {"rounds": 3, "warmup_rounds": 1, "points": 2}
CASES: dict[str, dict[str, Any]] = {
    "teacher6x384-bfloat16": TEACHER | {"rounds": 9},
    "bert-base-bfloat16": BERT_BASE | {"rounds": 5},
    "teacher6x384-bfloat16-attention": TEACHER | {"attention_weight": 1.0, "rounds": 5, "points": 3},
    "teacher6x384-bfloat16-platon": TEACHER | {"importance_metric": "platon", "with_reference": False, "points": 3},
    "teacher6x384-bfloat16-512": TEACHER | {"length": 512, "batch_size": 8, "rounds": 5, "points": 3},
    "teacher6x384-float32": TEACHER | {"dtype": "float32", "rounds": 3, "points": 3},
    "bert-base-bfloat16-attention": BERT_BASE | {"attention_weight": 1.0} | SHORT,
    "bert-base-bfloat16-platon": BERT_BASE | {"importance_metric": "platon", "with_reference": False} | SHORT,
    "bert-base-bfloat16-512": BERT_BASE | {"length": 512, "batch_size": 8} | SHORT,
    "bert-base-float32": BERT_BASE | {"dtype": "float32", "batch_size": 8} | SHORT,
}
GROWTH = "growth"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=[*CASES, GROWTH], default=[*CASES, GROWTH])
    parser.add_argument("--rounds", type=int, help="timed steps of every arm (default: the case's)")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    for case in options.cases:
        record(case, options.results, rounds=options.rounds)


def record(case: str, file: Path, *, rounds: int | None = None) -> None:
    """Run one case and write it into the file."""
    print(f"\n# {case}\n", flush=True)
    given = CASES.get(case, TEACHER) | ({} if rounds is None else {"rounds": rounds})
    results = run_growth(BenchSettings(**given)) if case == GROWTH else run_bench(BenchSettings(**given))
    print(format_growth(results) if case == GROWTH else format_bench(results), flush=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    if case != GROWTH:
        draw_parts(results, file.parent / f"speed-{case}.png")
    recorded = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    recorded[case] = {"date": f"{datetime.now(timezone.utc):%Y-%m-%d}"} | results
    file.write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
