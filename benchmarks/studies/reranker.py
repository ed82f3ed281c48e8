"""A reranker of questions and passages, narrowed: what it keeps of its teacher's order, by size and learning rate.

    python -m benchmarks.studies.reranker --sizes 1/2 1/4 --rates "" 1e-3

Pairs are QNLI's. The teacher is fine-tuned on all of them, once, from the masked-LM teacher in --data_dir. Held-out
questions each have the passage that answers them and the nine others that share most of their words.
"""

import argparse
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.results.changes import SIZES
from benchmarks.studies.study import Study, flags, record_cells
from homodistil_hf.cli import main as homodistil
from homodistil_hf.files.strict_json import read_json_object
from homodistil_hf.tables import markdown_table

RECORD, PAGE = Path("docs/results/studies/reranker.jsonl"), Path("docs/guides/reranker.md")
NUM_QUESTIONS = 300
METRICS = {"ndcg_at_10": "nDCG@10", "mrr_at_10": "MRR@10"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["1/4"])
    parser.add_argument("--rates", nargs="+", default=[""], help="learning rates; empty for the default")
    parser.add_argument("--data_dir", type=Path, default=Path("../shared/data"))
    parser.add_argument("--output_dir", type=Path, default=Path("runs/reranker"))
    given = parser.parse_args()
    cells = ({"size": size, "rate": rate} for size, rate in product(given.sizes, given.rates))
    record_cells(RECORD, cells, partial(run, data_dir=given.data_dir, output_dir=given.output_dir))


def run(cell: Mapping[str, str], data_dir: Path, output_dir: Path) -> dict[str, Any]:
    """Distil one student; returns how it and its teacher order the passages of the same held-out questions."""
    write_pairs(data_dir, output_dir)
    teacher, folder = output_dir / "teacher", output_dir / f"{cell['size'].replace('/', '-')},{cell['rate']}"
    pairs = {"train_data": output_dir / "train.parquet", "eval_data": output_dir / "eval.parquet"}
    if not (teacher / "results.json").is_file():
        values = {
            "train_data": output_dir / "graded.parquet",
            "model": data_dir / "teacher",
            "output_dir": teacher,
            "learning_rate": 1e-4,
            "max_train_steps": 400,
        }
        homodistil(["finetune", *flags(values)])
    values = pairs | {"teacher": teacher / "model", "method": "reranker", "student": SIZES[cell["size"]]}
    values |= {"output_dir": folder} | ({"learning_rate": cell["rate"]} if cell["rate"] else {})
    homodistil(["distill", *flags(values), "--overwrite_output_dir", "--logging_steps", "100"])
    results = read_json_object(folder / "results.json", str(folder))
    alone, student = results["models"][0], results["evaluation"]
    scores = {name: {"teacher": alone[name], "student": student[name]} for name in METRICS}
    return {
        **scores,
        "correlation": student["correlation"],
        "steps": results["num_steps"],
        "seconds": results["time_s"],
    }


def write_pairs(data_dir: Path, folder: Path) -> None:
    """Write train.parquet and eval.parquet: query, passage, and the label 1 where the passage answers the query."""
    if (folder / "eval.parquet").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    for split, name in (("validation", "eval"), ("train", "train")):
        table = pd.read_parquet(data_dir / "glue" / "qnli_part" / f"{split}.parquet")
        table = table.rename(columns={"question": "query", "sentence": "passage"})
        table["label"] = (table["label"] == 0).astype(float)
        table = table[["query", "passage", "label"]]
        (with_rivals(table) if name == "eval" else table).to_parquet(folder / f"{name}.parquet", index=False)
        if name == "train":  # fractions make the teacher a regression, of one score a pair
            table.assign(label=0.05 + 0.9 * table["label"]).to_parquet(folder / "graded.parquet", index=False)


def with_rivals(table: pd.DataFrame) -> pd.DataFrame:
    """Questions with the passage that answers them, and the nine that share most of their words, rare ones first."""
    words = {passage: set(passage.lower().split()) for passage in dict.fromkeys(table["passage"])}
    counts = Counter(word for those in words.values() for word in those)
    rows = []
    for query, passage in table[table["label"] == 1][["query", "passage"]].head(NUM_QUESTIONS).itertuples(index=False):
        own = {word: math.log(len(words) / counts[word]) for word in query.lower().split() if word in counts}
        shared = {other: sum(own.get(word, 0) for word in those) for other, those in words.items() if other != passage}
        rivals = sorted(shared, key=lambda other: -shared[other])[:9]
        rows += [(query, passage, 1.0), *((query, rival, 0.0) for rival in rivals)]
    return pd.DataFrame(rows, columns=["query", "passage", "label"])


def tables(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """A row a size and learning rate: × 100, of the student, the teacher's in the heading."""
    teacher = rows[0]
    headings = [f"{label}, teacher {100 * teacher[name]['teacher']:.1f}" for name, label in METRICS.items()]
    cells = [
        [
            row["size"],
            row["rate"] or "default",
            *(f"{100 * row[name]['student']:.1f}" for name in METRICS),
            f"{row['correlation']:.3f}",
        ]
        for row in sorted(rows, key=lambda row: list(SIZES).index(row["size"]))
    ]
    return {"reranker": markdown_table(["MACs", "learning rate", *headings, "correlation"], cells)}


STUDY = Study(RECORD, PAGE, tables)


if __name__ == "__main__":
    main()
