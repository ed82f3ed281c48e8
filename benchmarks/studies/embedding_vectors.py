"""What it saves to make a teacher's vectors once: the same short run three ways, in turns.

    python -m benchmarks.studies.embedding_vectors --model DIR --data DATA --steps 60

In every step: the teacher runs beside its student. Made: all vectors are made before the first step, as in a first
run. Found: they are there, as in the next run on these texts. Seconds are of `train()` alone, scoring and fitting of
the map included. Without other load; the table goes to docs/embeddings.md.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import datasets

from benchmarks.marked_pages import fill_in
from benchmarks.studies.embeddings import STUDY, sentences, trainer_of
from homodistil_hf.files.provenance import machine_facts
from homodistil_hf.methods.embedding.teacher_vectors import VECTOR
from homodistil_hf.tables import markdown_table

RECORD = Path("docs/results/studies/embedding_vectors.json")
WAYS = ("in every step", "made", "found")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--macs", type=float, default=0.25)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/embeddings"))
    options = parser.parse_args()
    texts = {split: sentences(options, split) for split in ("train", "validation")}
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(options.turns):
        with tempfile.TemporaryDirectory() as cache:
            os.environ["HF_DATASETS_CACHE"] = cache
            datasets.config.HF_DATASETS_CACHE = Path(cache)
            for way in WAYS:
                seconds[way].append(timed(way, options, texts))
                print(f"{way}: {seconds[way][-1]:.1f} s", flush=True)
    settings = {name: getattr(options, name) for name in ("macs", "steps")}
    record = {"settings": settings, "seconds": seconds, "machine": machine_facts()}
    RECORD.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    fill_in(STUDY.page, {"vectors": vectors_table(record)})


def timed(way: str, options: argparse.Namespace, texts: dict[str, str]) -> float:
    """Seconds of one run."""
    cell = {"variant": "vectors alone", "macs": options.macs, "steps": options.steps, "rate": 5e-4, "seed": 0}
    trainer, _ = trainer_of(cell, options, texts)
    if way == WAYS[0]:
        trainer._make_teacher_vectors = lambda: None
    since = time.perf_counter()
    trainer.train()
    if (VECTOR in trainer.train_dataset.column_names) != (way != WAYS[0]):
        raise RuntimeError(f"{way}: the teacher's vectors are not where they are wanted")
    return round(time.perf_counter() - since, 2)


def vectors_table(record: dict[str, Any]) -> str:
    """A row a way: seconds, and the ratio to the first way, turn by turn."""
    first = record["seconds"][WAYS[0]]
    cells = []
    for way, found in record["seconds"].items():
        ratios = [slow / fast for slow, fast in zip(first, found, strict=True)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} – {max(ratios):.2f})"
        cells.append([way, f"{statistics.median(found):.0f}", "1" if way == WAYS[0] else spread])
    return "\n".join(markdown_table(["the teacher's vectors", "s", "× as fast"], cells))


if __name__ == "__main__":
    main()
