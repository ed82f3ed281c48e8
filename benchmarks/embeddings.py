"""Students of a real embedding model: which widths, layers and terms keep what, a row a run.

    python -m benchmarks.embeddings --model DIR --data DATA --arms width "layers 0 1 5" --macs 0.5 --seeds 0
    python -m benchmarks.embeddings --model DIR --data DATA --macs 0.25 --steps 300 --rates 5e-4

DIR is a folder of sentence-transformers (all-MiniLM-L6-v2), DATA has `corpora/{wikipedia,books}/*.parquet` and
`glue/stsb`. Each arm is trained on the same sentences, one a row, and measured on STS-B's development pairs and on
held-out sentences. Rows that are there are not run again; the table goes to docs/embeddings.md.
"""

import argparse
import itertools
import json
import math
import random
import re
import shutil
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmarks import embedding_opponents
from benchmarks.further_pretraining.study import rows_of
from benchmarks.marked_pages import fill_in
from homodistil_hf.data.corpus import load_text
from homodistil_hf.distillation.teacher import multiplies_bfloat16
from homodistil_hf.evaluation.records import Spread
from homodistil_hf.experiments.config import run_of
from homodistil_hf.experiments.texts import make_text_trainer
from homodistil_hf.export.student_in_folder import STUDENT_FOLDER
from homodistil_hf.files.provenance import machine_facts
from homodistil_hf.methods.embedding.evaluate import evaluate_embedding
from homodistil_hf.methods.embedding.folder import facts_of
from homodistil_hf.methods.embedding.model import load_embedding_model
from homodistil_hf.methods.embedding.texts import LEAST_CHARACTERS, paragraphs
from homodistil_hf.tables import markdown_table

RECORD, PAGE = Path("docs/results/studies/embeddings.jsonl"), Path("docs/embeddings.md")
LIBRARY, FITTED, GRADUAL = "library", "fitted", "gradual"
VECTORS_ALONE = {"hidden_weight": 0.0, "embedding_weight": 0.0, "vector_weight": 1.0}
LAYERS_0_1_5 = {"layers": [0, 1, 5]}
ARMS: dict[str, dict[str, Any]] = {
    "width": {},
    "layers 0 1 5": LAYERS_0_1_5,
    "layers 0 1 2 5": {"layers": [0, 1, 2, 5]},
    "layers 0 5": {"layers": [0, 5]},
    "vectors alone": VECTORS_ALONE,
    "layers 0 1 5, vectors alone": VECTORS_ALONE | LAYERS_0_1_5,
    "vectors alone, by magnitude": VECTORS_ALONE | {"importance_metric": "magnitude"},
    "vectors alone, map not fitted": VECTORS_ALONE | {FITTED: ()},
    "vectors alone, map fitted at the start alone": VECTORS_ALONE | {FITTED: ("start",)},
    "vectors alone, gradually": VECTORS_ALONE | {GRADUAL: 0.3},
    "own space": {"output": "student"},
    "library, layers 0 1 5": {LIBRARY: [0, 1, 5]},
    "library, layers 0 2 4": {LIBRARY: [0, 2, 4]},
    "library, random weights": {LIBRARY: None},
}
"""Arm → settings that differ from `width`: all layers, narrower, by the defaults. Those of the library are trained by
sentence-transformers: layers of the teacher, or the shape of `width`, drawn anew."""
REMOVED = (
    "layers 0 1 5, relational 0.5",
    "vectors alone, relational 0.5",
    "vectors alone, relational 0.03",
    "own space, relational 15",
)
"""Arms of the record that no longer run: the KL between similarities of texts, with its weight, was removed."""
STUDENTS = ("width", "layers 0 1 5", "layers 0 1 2 5", "layers 0 5", *(arm for arm in ARMS if arm.startswith(LIBRARY)))
"""Arms that are told as students; the others tell what a term, a score or the map brings."""
TERMS_STEPS, TERMS_MACS = 300, 0.25
_MEASURES = ("stsb", "cosine", "neighbours")
_CELL = ["macs", "arm", "steps"]
_OWN = ("layers", "output", "vector_weight")
BATCH_SIZE, MAX_LENGTH = 64, 64
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--macs", type=float, nargs="+", default=[0.5, 0.25])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rates", type=float, nargs="+", default=[5e-4])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--output_dir", type=Path, default=Path("runs/embeddings"))
    options = parser.parse_args()
    texts = {split: sentences(options, split) for split in ("train", "validation")}
    given = itertools.product(options.seeds, options.macs, options.rates, options.arms)
    for seed, macs, rate, arm in given:
        cell = {"arm": arm, "macs": macs, "rate": rate, "steps": options.steps, "seed": seed}
        if any(cell.items() <= row.items() for row in rows_of(RECORD)):
            continue
        row = cell | measured(cell, options, texts) | {"machine": machine_facts()}
        RECORD.parent.mkdir(parents=True, exist_ok=True)
        with RECORD.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{cell}: STS-B {row['stsb']:.4f} of {row['teacher_stsb']:.4f}, {row['agreement']}", flush=True)
    fill_in(PAGE, tables(rows_of(RECORD)))


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


def stsb_alone(options: argparse.Namespace) -> Path:
    """A folder with this task's rows alone: all that a search for settings needs."""
    folder: Path = options.output_dir / "tasks"
    if not folder.is_dir():
        shutil.copytree(options.data / "glue" / "stsb", folder / "stsb")
    return folder


def measured(cell: dict[str, Any], options: argparse.Namespace, texts: dict[str, str]) -> dict[str, Any]:
    """Train one arm, and measure it beside its teacher."""
    since = time.perf_counter()
    folder = (by_library if LIBRARY in ARMS[cell["arm"]] else by_us)(cell, options, texts)
    time_s = round(time.perf_counter() - since, 1)
    told = evaluate_embedding(
        folder,
        teacher=options.model,
        settings={"data_dir": str(stsb_alone(options)), "eval_data": [texts["validation"]]},
        output_dir=options.output_dir / "evaluation",
    )
    scores = told["scores"]["stsb"]["spearman"]
    teacher, student = (facts_of(load_embedding_model(path)) for path in (options.model, folder))
    return {
        "stsb": scores["student"],
        "teacher_stsb": scores["teacher"],
        "agreement": {name: round(value, 4) for name, value in told["agreement"].items()},
        "kept_macs": round(student["encoder_macs"] / teacher["encoder_macs"], 4),
        "time_s": time_s,
        **{name: student[name] for name in ("num_parameters", "encoder_macs", "size_bytes")},
    }


def by_us(cell: dict[str, Any], options: argparse.Namespace, texts: dict[str, str]) -> Path:
    """Train by this package on the texts; the student's folder."""
    trainer, folder = trainer_of(cell, options, texts)
    fit, when = trainer.fit_map, ARMS[cell["arm"]].get(FITTED, ("start", "end"))
    trainer.fit_map = lambda: fit() if ("end" if trainer.state.global_step else "start") in when else None
    trainer.args.pruning_end_fraction = ARMS[cell["arm"]].get(GRADUAL, 0.0)  # the package refuses other shares than 0
    trainer.train()
    return trainer.export(folder / STUDENT_FOLDER)


def trainer_of(cell: dict[str, Any], options: argparse.Namespace, texts: dict[str, str]) -> tuple[Any, Path]:
    """A run of this package, not started, and its folder."""
    changed = ARMS[cell["arm"]]
    folder = options.output_dir / "run"
    values = {name: value for name, value in changed.items() if name not in (*_OWN, FITTED, GRADUAL)} | {
        "teacher": options.model,
        "student": f"macs={cell['macs']}",
        "method_settings": {name: value for name, value in changed.items() if name in _OWN},
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
        "eval_strategy": "no",
        "save_strategy": "no",
        "disable_tqdm": True,
        "report_to": "none",
    }
    shutil.rmtree(folder, ignore_errors=True)
    return make_text_trainer(run_of(values, "the benchmark"), print), folder


def by_library(cell: dict[str, Any], options: argparse.Namespace, texts: dict[str, str]) -> Path:
    """Train by sentence-transformers on the same texts; the student's folder."""
    layers = ARMS[cell["arm"]][LIBRARY]
    shape = by_us(cell | {"arm": "width", "steps": 1}, options, texts) if layers is None else None
    lines = Path(texts["train"]).read_text(encoding="utf-8").split("\n\n")
    lines = [line for line in lines if len(line) >= LEAST_CHARACTERS]
    random.Random(cell["seed"]).shuffle(lines)
    folder: Path = options.output_dir / LIBRARY
    shutil.rmtree(folder, ignore_errors=True)
    embedding_opponents.train(
        folder,
        teacher=options.model,
        layers=layers,
        shape=shape,
        texts=lines,
        steps=cell["steps"],
        rate=cell["rate"],
        seed=cell["seed"],
        batch_size=BATCH_SIZE,
        max_length=MAX_LENGTH,
        bf16=multiplies_bfloat16(torch.device("cpu")),
    )
    return folder


def tables(rows: Iterator[dict[str, Any]]) -> dict[str, str]:
    """The page's tables by their marks: students with their best rates, terms and map one by one, and the rates."""
    runs = pd.DataFrame(rows)
    runs = pd.concat([runs, 100 * runs["agreement"].apply(pd.Series)], axis=1)
    runs["stsb"], runs["teacher_stsb"] = 100 * runs["stsb"], 100 * runs["teacher_stsb"]
    runs["order"] = runs["arm"].map([*ARMS, *REMOVED].index)
    runs = runs.sort_values(["macs", "steps", "order", "rate"], ascending=[False, True, True, True], kind="stable")
    cells = runs.groupby([*_CELL, "rate"], sort=False).agg(lambda found: list(found)).reset_index()
    cells["likeness"] = cells["neighbours"].map(statistics.fmean)  # a space of its own has no cosine
    best = cells.loc[cells.groupby(_CELL, sort=False)["likeness"].idxmax()]
    is_term = ~cells["arm"].isin(STUDENTS[1:]) & (cells["macs"] == TERMS_MACS) & (cells["steps"] == TERMS_STEPS)
    rates = cells.groupby(_CELL, sort=False).filter(lambda found: len(found) > 1)
    told = {"students": best[best["arm"].isin(STUDENTS)], "terms": cells[is_term], "rates": rates}
    return {name: _table(found) for name, found in told.items()}


def _table(cells: pd.DataFrame) -> str:
    header = ["MACs", "student", "rate", "steps", "STS-B", "kept", "cosine", "neighbours", "parameters"]
    return "\n".join(markdown_table(header, [_told(cell) for _, cell in cells.iterrows()]))


def _told(cell: Any) -> list[str]:
    found = {name: [value for value in cell[name] if not math.isnan(value)] for name in _MEASURES}
    scores = [f"{Spread.of(values):.1f}" if values else "–" for values in found.values()]
    kept = statistics.fmean(cell["stsb"]) / statistics.fmean(cell["teacher_stsb"])
    size = statistics.fmean(cell["num_parameters"]) / 1e6
    setting = [f"{statistics.fmean(cell['kept_macs']):.2f}", cell["arm"], f"{cell['rate']:g}", f"{cell['steps']:,}"]
    return [*setting, scores[0], f"{kept:.1%}", *scores[1:], f"{size:.1f} M"]


if __name__ == "__main__":
    main()
