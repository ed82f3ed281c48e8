"""A nested student beside runs of each size of its own: embedding models and masked words.

    python -m benchmarks.studies.nested --teacher FOLDER --data FOLDER --record FILE --output_dir FOLDER --steps 300

The data are those of `homodistil evaluate` with `corpora/wikipedia` beside. A folder of sentence-transformers is
distilled as an embedding model and looks questions of QNLI up in the teacher's index, any other by masked words. A run
of its own has one size in every step, a nested one two: `nested` has 1.5 times the steps, so that the sizes have as
many steps together as three runs; `nested, half` has half of these. A row is a run; rows that are there are not run
again.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.studies.study import Study, flags, record_cells
from homodistil_hf.cli import main as homodistil
from homodistil_hf.embedding.evaluate import load_tasks, retrieval_tasks
from homodistil_hf.embedding.metrics import retrieval_scores
from homodistil_hf.embedding.model import load_embedding_model
from homodistil_hf.files.strict_json import read_json_object
from homodistil_hf.methods.formats import load_nested
from homodistil_hf.models.loading import MODULES_FILE
from homodistil_hf.tables import markdown_table

from ..spread import Spread

SIZES = ("macs=0.5", "macs=0.25", "macs=0.125")
NESTED = {"nested": 1.5, "nested, half": 0.75}
"""Variant → its steps, as a multiple of those of a run of its own."""
QUESTIONS = 400
KEPT = ("cosine", "neighbours_in_index", "kl", "mlm_accuracy")


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("teacher", "data", "record", "output_dir"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name, default in {"steps": 300, "rows": 32, "seeds": 1, "length": 64}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    kind = "embedding" if (args.teacher / MODULES_FILE).is_file() else "masked words"
    variants = [
        *({"variant": "own", "size": size} for size in SIZES),
        *({"variant": name, "size": ""} for name in NESTED),
    ]
    cells = [
        {"kind": kind, "steps": args.steps, "rows": args.rows, "seed": seed} | variant
        for seed in range(args.seeds)
        for variant in variants
    ]
    record_cells(args.record, cells, lambda cell: run(cell, args))


def run(cell: Mapping[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """Distil by the command, and measure every size that came of it: name → metrics."""
    folder = args.output_dir / "-".join(str(value).replace(" ", "_") for value in cell.values() if value != "")
    corpus, is_nested = args.data / "corpora" / "wikipedia", not cell["size"]
    settings = {
        "teacher": args.teacher,
        "train_data": corpus / "train.parquet",
        "eval_data": corpus / "validation.parquet",
        "text_column": "text",
        "max_steps": round(args.steps * NESTED.get(cell["variant"], 1)),
        "per_device_train_batch_size": args.rows,
        "max_seq_length": args.length,
        "student": json.dumps(SIZES) if is_nested else cell["size"],
        "seed": cell["seed"],
        "output_dir": folder,
        "save_strategy": "no",
        "report_to": "none",
    }
    since = time.process_time()
    words = [
        "distill",
        *flags(settings),
        *(["--nested", "true"] if is_nested else []),
        "--overwrite_output_dir",
        "true",
    ]
    if homodistil(words) != 0:
        raise SystemExit(f"{' '.join(map(str, words))} failed")
    seconds, results = time.process_time() - since, read_json_object(folder / "results.json", "results.json")
    found = {
        model["name"] if is_nested else cell["size"]: {name: model[name] for name in KEPT if name in model}
        for model in results["models"][1:]
    }
    if cell["kind"] == "embedding":
        load = {name: load_nested(folder, name) for name in found} if is_nested else {}
        for name, questions in found.items():
            questions["qnli"] = in_index(load.get(name) or load_embedding_model(folder / "student"), args)
    return {"processor_s": round(seconds), "sizes": found}


def in_index(model: Any, args: argparse.Namespace) -> float:
    """nDCG@10 of a model's questions of QNLI among the teacher's documents; these are encoded once."""
    (task,) = [
        one for one in retrieval_tasks(load_tasks(args.data, max_queries=QUESTIONS)) if one.name.startswith("qnli")
    ]
    if not hasattr(args, "index"):
        args.index = load_embedding_model(args.teacher).encode(task.documents)
    scores = retrieval_scores(model.encode(task.queries), args.index, task.answers or [])
    return scores["ndcg_at_10"]


def tables(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Mark → table: a row a variant and size, with the processor's time of all runs of a variant."""
    found: dict[str, list[str]] = {}
    for kind, names in {"embedding": ("cosine", "neighbours_in_index", "qnli"), "masked words": ("kl",)}.items():
        cells = []
        for size in SIZES:
            for variant in ("own", *NESTED):
                some = [row for row in rows if row["kind"] == kind and row["variant"] == variant]
                of_size = [row["sizes"][size] for row in some if size in row["sizes"]]
                if of_size:
                    scale, form = (1, ".3f") if kind == "masked words" else (100, ".1f")
                    values = [format(Spread.of([scale * one[name] for one in of_size]), form) for name in names]
                    minutes = sum(row["processor_s"] for row in some) / 60 / len({row["seed"] for row in some})
                    cells.append([size, variant, *values, f"{minutes:.0f}"])
        heads = {"neighbours_in_index": "neighbours", "qnli": "QNLI", "kl": "KL, nats"}
        header = ["size", "", *(heads.get(name, name) for name in names), "minutes of all sizes"]
        found[kind.replace(" ", "_")] = markdown_table(header, cells)
    return found


STUDY = Study(Path("docs/results/studies/nested.jsonl"), Path("docs/guides/nested.md"), tables)


if __name__ == "__main__":
    main()
