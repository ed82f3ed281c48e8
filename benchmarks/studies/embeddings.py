"""Students of a real embedding model: which widths, layers and terms keep what, a row a run.

    python -m benchmarks.studies.embeddings --model DIR --data DATA --variants width "layers 0 1 5" --macs 0.5
    python -m benchmarks.studies.embeddings --model DIR --data DATA --macs 0.25 --steps 300 --rates 5e-4

DIR is a folder of sentence-transformers (all-MiniLM-L6-v2), DATA has `corpora/{wikipedia,books}/*.parquet` and
`glue/stsb`. Each variant is trained on the same sentences, one a row, and measured on STS-B's development pairs and on
held-out sentences. Rows that are recorded are not run again.
"""

import argparse
import itertools
import math
import random
import re
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmarks.quiet import QUIET
from benchmarks.studies import embedding_baselines
from benchmarks.studies.study import Study
from homodistil_hf.data.corpus import load_text
from homodistil_hf.distillation.teacher import multiplies_bfloat16
from homodistil_hf.evaluation.records import Spread
from homodistil_hf.experiments.config import run_of
from homodistil_hf.experiments.texts import make_text_trainer
from homodistil_hf.export.student_in_folder import STUDENT_FOLDER
from homodistil_hf.methods.embedding.evaluate import evaluate_embedding
from homodistil_hf.methods.embedding.folder import facts_of
from homodistil_hf.methods.embedding.model import load_embedding_model
from homodistil_hf.methods.embedding.texts import LEAST_CHARACTERS, paragraphs
from homodistil_hf.tables import markdown_table

LIBRARY = "library"
VECTORS_ALONE = {"hidden_weight": 0.0, "embedding_weight": 0.0, "vector_weight": 1.0}
LAYERS_0_1_5 = {"layers": [0, 1, 5]}
VARIANTS: dict[str, dict[str, Any]] = {
    "width": {},
    "layers 0 1 5": LAYERS_0_1_5,
    "layers 0 1 2 5": {"layers": [0, 1, 2, 5]},
    "layers 0 5": {"layers": [0, 5]},
    "vectors alone": VECTORS_ALONE,
    "layers 0 1 5, vectors alone": VECTORS_ALONE | LAYERS_0_1_5,
    "vectors alone, by magnitude": VECTORS_ALONE | {"importance_metric": "magnitude"},
    "own space": {"output": "student"},
    "library, layers 0 1 5": {LIBRARY: [0, 1, 5]},
    "library, layers 0 2 4": {LIBRARY: [0, 2, 4]},
    "library, random weights": {LIBRARY: None},
}
"""Variant → settings that differ from `width`: all layers, narrower, by the defaults. Those of the library are trained
by embedding_baselines.py: layers of the teacher, or the shape of `width` with random weights."""
ORDER = (
    *("width", "layers 0 1 5", "layers 0 1 2 5", "layers 0 5", "vectors alone", "layers 0 1 5, vectors alone"),
    *("layers 0 1 5, relational 0.5", "vectors alone, relational 0.5", "vectors alone, relational 0.03"),
    *("vectors alone, by magnitude", "vectors alone, map not fitted"),
    *("vectors alone, map fitted at the start alone", "vectors alone, gradually", "own space"),
    *("own space, relational 15", "library, layers 0 1 5", "library, layers 0 2 4", "library, random weights"),
)
"""All variants of the record. Those that VARIANTS lacks were left out of the package; commit 7db6fe1 trains them."""
STUDENTS = (*ORDER[:4], *(name for name in ORDER if name.startswith(LIBRARY)))
"""The table of students has these; the table of terms shows the worth of a term, a score or the map."""
TERMS_STEPS, TERMS_MACS = 300, 0.25
_MEASURES = ("stsb", "cosine", "neighbours")
_CELL = ["macs", "variant", "steps"]
_OF_THE_METHOD = ("layers", "output", "vector_weight")
BATCH_SIZE, MAX_LENGTH = 64, 64
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--macs", type=float, nargs="+", default=[0.5, 0.25])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rates", type=float, nargs="+", default=[5e-4])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--output_dir", type=Path, default=Path("runs/embeddings"))
    options = parser.parse_args()
    texts = {split: sentences(options, split) for split in ("train", "validation")}
    given = itertools.product(options.seeds, options.macs, options.rates, options.variants)
    for seed, macs, rate, variant in given:
        cell = {"variant": variant, "macs": macs, "rate": rate, "steps": options.steps, "seed": seed}
        if not any(cell.items() <= row.items() for row in STUDY.read()):
            row = cell | measured(cell, options, texts)
            STUDY.add(row)
            print(f"{cell}: STS-B {row['stsb']:.4f} of {row['teacher_stsb']:.4f}, {row['agreement']}", flush=True)
    STUDY.show()


def sentences(options: argparse.Namespace, split: str) -> str:
    """A file with a sentence a paragraph, of both corpora."""
    file = options.output_dir / f"{split}.txt"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        found: list[str] = []
        for corpus in ("wikipedia", "books"):
            documents: Any = load_text(str(options.data / "corpora" / corpus / f"{split}.parquet"))
            lines = (line for row in documents for line in paragraphs(row["text"]))
            whole = (sentence for line in lines for sentence in _SENTENCE.split(line))
            found += itertools.islice(whole, 40_000 if split == "train" else 1000)
        file.write_text("\n\n".join(found), encoding="utf-8")
    return str(file)


def measured(cell: dict[str, Any], options: argparse.Namespace, texts: dict[str, str]) -> dict[str, Any]:
    """Train one variant, and measure it beside its teacher."""
    since = time.perf_counter()
    folder = (by_library if LIBRARY in VARIANTS[cell["variant"]] else by_us)(cell, options, texts)
    time_s = round(time.perf_counter() - since, 1)
    tasks: Path = options.output_dir / "tasks"  # STS-B alone
    if not tasks.is_dir():
        shutil.copytree(options.data / "glue" / "stsb", tasks / "stsb")
    found = evaluate_embedding(
        folder,
        teacher=options.model,
        settings={"data_dir": str(tasks), "eval_data": [texts["validation"]]},
        output_dir=options.output_dir / "evaluation",
    )
    scores = found["scores"]["stsb"]["spearman"]
    teacher, student = (facts_of(load_embedding_model(path)) for path in (options.model, folder))
    return {
        "stsb": scores["student"],
        "teacher_stsb": scores["teacher"],
        "agreement": {name: round(value, 4) for name, value in found["agreement"].items()},
        "kept_macs": round(student["encoder_macs"] / teacher["encoder_macs"], 4),
        "time_s": time_s,
        **{name: student[name] for name in ("num_parameters", "encoder_macs", "size_bytes")},
    }


def by_us(cell: dict[str, Any], options: argparse.Namespace, texts: dict[str, str]) -> Path:
    """Train by this package on the texts; returns the student's folder."""
    trainer, folder = trainer_of(cell, options, texts)
    trainer.train()
    return trainer.export(folder / STUDENT_FOLDER)


def trainer_of(cell: dict[str, Any], options: argparse.Namespace, texts: dict[str, str]) -> tuple[Any, Path]:
    """A run of this package, not started, and its folder."""
    changed = VARIANTS[cell["variant"]]
    folder = options.output_dir / "run"
    values = QUIET | {name: value for name, value in changed.items() if name not in _OF_THE_METHOD}
    values |= {
        "teacher": options.model,
        "student": f"macs={cell['macs']}",
        "method_settings": {name: value for name, value in changed.items() if name in _OF_THE_METHOD},
        "train_data": texts["train"],
        "eval_data": texts["validation"],
        "max_seq_length": MAX_LENGTH,
        "max_steps": cell["steps"],
        "learning_rate": cell["rate"],
        "per_device_train_batch_size": BATCH_SIZE,
        "per_device_eval_batch_size": BATCH_SIZE,
        "seed": cell["seed"],
        "output_dir": str(folder),
        "overwrite_output_dir": True,
        "bf16": multiplies_bfloat16(torch.device("cpu")),
    }
    shutil.rmtree(folder, ignore_errors=True)
    return make_text_trainer(run_of(values, "the benchmark"), print), folder


def by_library(cell: dict[str, Any], options: argparse.Namespace, texts: dict[str, str]) -> Path:
    """Train by sentence-transformers on the same texts; returns the student's folder."""
    layers = VARIANTS[cell["variant"]][LIBRARY]
    shape = by_us(cell | {"variant": "width", "steps": 1}, options, texts) if layers is None else None
    lines = Path(texts["train"]).read_text(encoding="utf-8").split("\n\n")
    lines = [line for line in lines if len(line) >= LEAST_CHARACTERS]
    random.Random(cell["seed"]).shuffle(lines)
    folder: Path = options.output_dir / LIBRARY
    shutil.rmtree(folder, ignore_errors=True)
    embedding_baselines.train(
        folder,
        lines[: cell["steps"] * BATCH_SIZE],
        teacher=options.model,
        layers=layers,
        shape=shape,
        max_length=MAX_LENGTH,
        max_steps=cell["steps"],
        learning_rate=cell["rate"],
        seed=cell["seed"],
        per_device_train_batch_size=BATCH_SIZE,
    )
    return folder


def tables(rows: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Mark → table: students with their best rates; terms and map one by one; rates."""
    runs = pd.DataFrame(rows)
    runs = pd.concat([runs, 100 * runs["agreement"].apply(pd.Series)], axis=1)
    runs["stsb"], runs["teacher_stsb"] = 100 * runs["stsb"], 100 * runs["teacher_stsb"]
    runs["order"] = runs["variant"].map(ORDER.index)
    runs = runs.sort_values(["macs", "steps", "order", "rate"], ascending=[False, True, True, True], kind="stable")
    cells = runs.groupby([*_CELL, "rate"], sort=False).agg(lambda found: list(found)).reset_index()
    cells["likeness"] = cells["neighbours"].map(statistics.fmean)  # a space of its own has no cosine
    best = cells.loc[cells.groupby(_CELL, sort=False)["likeness"].idxmax()]
    is_term = ~cells["variant"].isin(STUDENTS[1:]) & (cells["macs"] == TERMS_MACS) & (cells["steps"] == TERMS_STEPS)
    rates = cells.groupby(_CELL, sort=False).filter(lambda found: len(found) > 1)
    parts = {"students": best[best["variant"].isin(STUDENTS)], "terms": cells[is_term], "rates": rates}
    header = ["MACs", "student", "rate", "steps", "STS-B", "kept", "cosine", "neighbours", "parameters"]
    return {mark: markdown_table(header, [_row(cell) for _, cell in part.iterrows()]) for mark, part in parts.items()}


def _row(cell: Any) -> list[str]:
    found = {name: [value for value in cell[name] if not math.isnan(value)] for name in _MEASURES}
    scores = [f"{Spread.of(values):.1f}" if values else "–" for values in found.values()]
    kept = statistics.fmean(cell["stsb"]) / statistics.fmean(cell["teacher_stsb"])
    macs, size = statistics.fmean(cell["kept_macs"]), statistics.fmean(cell["num_parameters"]) / 1e6
    setting = [f"{macs:.2f}", cell["variant"], f"{cell['rate']:g}", f"{cell['steps']:,}"]
    return [*setting, scores[0], f"{kept:.1%}", *scores[1:], f"{size:.1f} M"]


STUDY = Study(Path("docs/results/studies/embeddings.jsonl"), Path("docs/embeddings.md"), tables)


if __name__ == "__main__":
    main()
