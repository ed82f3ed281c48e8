"""Other small models beside the students of retrieval.py, in an index of their own, and the speed of all.

    python -m benchmarks.studies.retrieval_rivals --models FOLDER … --static FOLDER --tasks TASKS

The first model is the teacher, the others are folders of sentence-transformers; TASKS is what retrieval.py makes. The
static one has Model2Vec's vectors: `model2vec.distill.distill(model_name=TEACHER).save_pretrained(FOLDER)`.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed.latency import PROFILED, one_core_figures
from benchmarks.studies.study import Study
from homodistil_hf import load_embedding_model
from homodistil_hf.files.folders import write_text
from homodistil_hf.files.provenance import machine_facts
from homodistil_hf.methods.embedding.tasks import PairTask, load_tasks, pair_score, retrieval_scores
from homodistil_hf.models.cost import model_facts
from homodistil_hf.plans.latency.timing import FirstOutput, export_onnx, model_inputs
from homodistil_hf.tables import markdown_table

RECORD = Path("docs/results/studies/retrieval_rivals.json")
MAX_QUERIES = 1000
STATIC = "static"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, nargs="+", required=True)
    parser.add_argument("--static", type=Path, required=True)
    parser.add_argument("--tasks", type=Path, required=True)
    options = parser.parse_args()
    torch.manual_seed(0)
    models = {folder.name: load_embedding_model(folder) for folder in options.models}
    found = {name: {"scores": scores(model.encode, options.tasks)} for name, model in models.items()}
    for name, model in models.items():
        found[name] |= {key: model_facts(model.encoder)[key] for key in ("size_bytes", "encoder_macs")}
    found[STATIC] = static(options.static, options.tasks)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        encoders = {name: model.encoder.eval() for name, model in models.items()}
        graphs = {name: Path(folder) / f"{name}.onnx" for name in encoders}
        for name, encoder in encoders.items():
            export_onnx(FirstOutput(encoder), model_inputs(encoder.config, *PROFILED), graphs[name])
        speed = one_core_figures(encoders, graphs)
    write_text(RECORD, json.dumps({"models": found, **speed, "machine": machine_facts()}, indent=1) + "\n")


def scores(encode: Callable[[list[str]], torch.Tensor], tasks: Path) -> dict[str, float]:
    """STS-B's Spearman and nDCG@10, each model in its own space."""
    found = {}
    for task in load_tasks(tasks, max_queries=MAX_QUERIES):
        if isinstance(task, PairTask):
            pair = encode(task.first), encode(task.second)
            found[task.name] = pair_score(task.metric, *pair, task.labels, similarity="cosine")
        elif task.answers is not None:
            vectors = encode(task.queries), encode(task.documents)
            found[task.name] = retrieval_scores(*vectors, task.answers)["ndcg_at_10"]
    return found


def static(folder: Path, tasks: Path) -> dict[str, Any]:
    """Vectors of words, of which a text's is the mean."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    return {"scores": scores(lambda texts: model.encode(texts, convert_to_tensor=True), tasks), "size_bytes": size}


def table(found: dict[str, Any]) -> list[str]:
    """A row a model: scores, bytes, and speed beside the first."""
    cells = []
    for name, one in found["models"].items():
        ratio = found["speed_up"].get(name, {}).get("ratio", 1.0)
        values = [f"{100 * score:.1f}" for score in one["scores"].values()]
        cells.append([name, *values, f"{one['size_bytes'] / 1e6:.1f}", "–" if name == STATIC else f"{ratio:.1f}"])
    return markdown_table(["model", "STS-B", "QNLI", "SQuAD", "MB", "× faster"], cells)


STUDY = Study(RECORD, Path("docs/embeddings.md"), lambda found: {"rivals": table(found)})

if __name__ == "__main__":
    main()
