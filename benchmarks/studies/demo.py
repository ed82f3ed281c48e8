"""The demo with several seeds: the student beside the same widths pruned at once, and from scratch.

python -m benchmarks.studies.demo
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.spread import Spread
from benchmarks.studies.study import Study
from homodistil_hf.files.provenance import machine_facts
from homodistil_hf.runs.demo.run import DemoSettings, run_demo
from homodistil_hf.tables import markdown_table

SEEDS = range(3)
MODELS = {"student": "HomoDistil", "at_once": "pruned at once", "scratch": "from scratch"}


def table(demos: Sequence[Sequence[Mapping[str, Any]]]) -> list[str]:
    """A row a model: KL, how much higher than the student's, and share of the words that the teacher guesses."""
    rows: dict[str, list[Mapping[str, Any]]] = {
        name: [row for demo in demos for row in demo if row["name"] == name] for name in ("teacher", *MODELS)
    }
    cells = []
    for name, title in MODELS.items():
        more = Spread.of(row["kl"] - own["kl"] for row, own in zip(rows[name], rows["student"], strict=True))
        pairs = zip(rows[name], rows["teacher"], strict=True)
        words = Spread.of(row["mlm_accuracy"] / teacher["mlm_accuracy"] for row, teacher in pairs)
        kl = Spread.of(row["kl"] for row in rows[name])
        cells.append([title, f"{kl}", "–" if name == "student" else f"{more:+.3f}", f"{words:.0%}"])
    return markdown_table(["", "KL, nats", "less HomoDistil's", "masked words kept"], cells)


STUDY = Study(
    Path("docs/results/studies/demo.json"), Path("docs/index.md"), lambda record: {"demo": table(record["demos"])}
)


def main() -> None:
    demos = []
    for seed in SEEDS:
        with TemporaryDirectory() as folder:
            demos.append(run_demo(DemoSettings(output_dir=f"{folder}/demo", seed=seed)))
    record = {"demos": demos, "machine": machine_facts()}
    STUDY.record.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
