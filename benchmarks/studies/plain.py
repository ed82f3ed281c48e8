"""Plain students of an embedding model beside students of equal MACs whose vectors pass a Dense.

    python -m benchmarks.studies.plain --model DIR --data DATA --students 'macs=0.5=DIR' …

DIR is a folder of sentence-transformers, DATA one as `homodistil evaluate --task embedding --data_dir` takes it, with
`validation.txt`. Forward passes of one and of 32 texts of 32 tokens are timed in turns, in torch on one core.
"""

import argparse
import functools
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch

from homodistil_hf.files.provenance import machine_facts
from homodistil_hf.methods.embedding.evaluate import evaluate_embedding
from homodistil_hf.methods.embedding.model import EmbeddingModel
from homodistil_hf.methods.embedding.reading import load_embedding_model
from homodistil_hf.models.cost import encoder_macs
from homodistil_hf.models.widths import widths_of
from homodistil_hf.plans.latency.timing import time_in_turns

RECORD = Path("docs/results/embedding_plain.json")
BATCH_SIZES, NUM_TOKENS, NUM_ROUNDS = (1, 32), 32, 31


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="the teacher")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--students", nargs="+", required=True, metavar="NAME=DIR", help="in the order of the table")
    options = parser.parse_args()
    folders = {"teacher": options.model} | dict(entry.rsplit("=", 1) for entry in options.students)
    models = {name: load_embedding_model(folder) for name, folder in folders.items()}
    found = {name: sizes(models[name], Path(folder), models["teacher"]) for name, folder in folders.items()}
    for size in BATCH_SIZES:
        passes = {name: functools.partial(forward, model, size) for name, model in models.items()}
        for name, durations in time_in_turns(passes, num_rounds=NUM_ROUNDS, num_warmup=3).items():
            found[name][f"ms, {size} at once"] = round(statistics.median(durations), 3)
    settings = {"data_dir": str(options.data), "eval_data": [str(options.data / "validation.txt")]}
    for name, folder in list(folders.items())[1:]:
        with tempfile.TemporaryDirectory() as scratch:
            measured = evaluate_embedding(folder, teacher=options.model, settings=settings, output_dir=scratch)
        found[name] |= {"scores": measured["scores"], "agreement": measured["agreement"]}
    RECORD.write_text(json.dumps({"machine": machine_facts(), "models": found}, indent=2) + "\n", encoding="utf-8")


def sizes(model: EmbeddingModel, folder: Path, teacher: EmbeddingModel) -> dict[str, Any]:
    plan, whole = widths_of(model.encoder.config), widths_of(teacher.encoder.config)
    return {
        "plan": plan.to_dict(),
        "macs": round(encoder_macs(plan) / encoder_macs(whole), 4),
        "num_dense": len(model.dense),
        "size_bytes": sum(file.stat().st_size for file in folder.rglob("*.safetensors")),
    }


@torch.no_grad()
def forward(model: EmbeddingModel, batch_size: int) -> None:
    ids_BT = torch.arange(batch_size * NUM_TOKENS).view(batch_size, NUM_TOKENS) % 20_000 + 1000
    mask_BT = torch.ones_like(ids_BT)
    model.vectors(model.encoder(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state, mask_BT)


if __name__ == "__main__":
    main()
