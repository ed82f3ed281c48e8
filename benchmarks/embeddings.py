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
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmarks.further_pretraining.study import rows_of
from benchmarks.marked_pages import fill_in
from homodistil_hf.data.corpus import load_text
from homodistil_hf.data.texts import paragraphs
from homodistil_hf.distillation.teacher import multiplies_bfloat16
from homodistil_hf.evaluation.embedding.evaluate import evaluate_embedding
from homodistil_hf.evaluation.records import Spread
from homodistil_hf.experiments.config import run_of
from homodistil_hf.experiments.texts import distill_texts
from homodistil_hf.files.provenance import machine_facts
from homodistil_hf.tables import markdown_table

RECORD, PAGE = Path("docs/results/studies/embeddings.jsonl"), Path("docs/embeddings.md")
NO_STATES = {"hidden_weight": 0.0, "embedding_weight": 0.0, "vector_weight": 1.0, "relational_weight": 0.5}
ARMS: dict[str, dict[str, Any]] = {
    "width": {},
    "width, with states": {"hidden_weight": 1.0, "embedding_weight": 1.0},
    "width, vectors alone": {"relational_weight": 0.0},
    "width, by magnitude": {"importance_metric": "magnitude"},
    "layers 0 1 5": {"layers": [0, 1, 5]},
    "layers 0 1 5, with states": {"layers": [0, 1, 5], "hidden_weight": 1.0, "embedding_weight": 1.0},
    "layers 0 5": {"layers": [0, 5]},
    "layers 0 1 2 5": {"layers": [0, 1, 2, 5]},
    "layers 0 1 5, vectors alone": {"layers": [0, 1, 5], "relational_weight": 0.0},
}
"""Arm → settings that differ from `width`: all layers, narrower, vector and relational terms, no hidden states."""
_OWN = ("layers", "relational_weight", "vector_weight")
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
    fill_in(PAGE, {"students": students_table(rows_of(RECORD))})


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
    changed = NO_STATES | ARMS[cell["arm"]]
    folder = options.output_dir / "run"
    values = {name: value for name, value in changed.items() if name not in _OWN} | {
        "teacher": options.model,
        "student": f"macs={cell['macs']}",
        "method_settings": {name: value for name, value in changed.items() if name in _OWN},
        "train_data": texts["train"],
        "eval_data": texts["validation"],
        "max_seq_length": 64,
        "max_steps": cell["steps"],
        "learning_rate": cell["rate"],
        "per_device_train_batch_size": 64,
        "per_device_eval_batch_size": 64,
        "seed": cell["seed"],
        "output_dir": str(folder),
        "overwrite_output_dir": True,
        "bf16": multiplies_bfloat16(torch.device("cpu")),
        "eval_strategy": "no",
        "save_strategy": "no",
        "disable_tqdm": True,
        "report_to": "none",
    }
    results = distill_texts(run_of(values, "the benchmark"), print)
    told = evaluate_embedding(
        folder,
        teacher=options.model,
        settings={"data_dir": str(stsb_alone(options)), "eval_data": [texts["validation"]]},
        output_dir=options.output_dir / "evaluation",
    )
    scores = told["scores"]["stsb"]["spearman"]
    costs = {name: results["models"][1][name] for name in ("num_parameters", "encoder_macs", "size_bytes")}
    teacher_macs = results["models"][0]["encoder_macs"]
    return {
        "stsb": scores["student"],
        "teacher_stsb": scores["teacher"],
        "agreement": {name: round(value, 4) for name, value in told["agreement"].items()},
        "kept_macs": round(costs["encoder_macs"] / teacher_macs, 4),
        "time_s": results["time_s"],
        **costs,
    }


def students_table(rows: Iterator[dict[str, Any]]) -> str:
    """A row an arm, budget, rate and length: STS-B × 100 over seeds, likeness, size."""
    table = pd.DataFrame(rows)
    if table.empty:
        return ""
    table = pd.concat([table, table["agreement"].apply(pd.Series)], axis=1)
    cells = []
    for (macs, arm, rate, steps), found in table.groupby(["macs", "arm", "rate", "steps"], sort=False):
        scores = [f"{Spread.of((100 * found[name]).tolist()):.1f}" for name in ("stsb", "cosine", "neighbours")]
        kept = f"{(found['stsb'] / found['teacher_stsb']).mean():.1%}"
        size = f"{found['num_parameters'].mean() / 1e6:.1f} M"
        told = [
            f"{found['kept_macs'].mean():.2f}",
            str(arm),
            f"{rate:g}",
            str(steps),
            scores[0],
            kept,
            *scores[1:],
            size,
        ]
        cells.append((macs, told))
    cells.sort(key=lambda entry: -entry[0])
    header = ["MACs", "student", "rate", "steps", "STS-B", "kept", "cosine", "neighbours", "parameters"]
    return "\n".join(markdown_table(header, [told for _, told in cells]))


if __name__ == "__main__":
    main()
