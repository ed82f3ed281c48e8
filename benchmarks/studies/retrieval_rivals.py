"""Other small models beside the students of retrieval.py, each in an index of its own; and the speed of all.

    python -m benchmarks.studies.retrieval_rivals --models NAME=FOLDER … --rival NAME=FOLDER --static FOLDER \
      --tasks TASKS

Models are teachers and students by the names that the table has, folders of sentence-transformers; TASKS is what
retrieval.py makes. The static one has Model2Vec's vectors of all-MiniLM-L6-v2:
`model2vec.distill.distill(model_name=TEACHER).save_pretrained(FOLDER)`.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed.latency import PROFILED, one_core_figures
from benchmarks.studies import retrieval
from benchmarks.studies.study import Study
from homodistil_hf.files.folders import write_text
from homodistil_hf.files.provenance import machine_facts
from homodistil_hf.models.cost import model_facts
from homodistil_hf.plans.latency.timing import FirstOutput, export_onnx, model_inputs
from homodistil_hf.tables import markdown_table

RECORD = Path("docs/results/studies/retrieval_rivals.json")
MAX_QUERIES = 1000
STATIC = "static vectors"
STUDENTS = {
    retrieval.MINILM: ("half", "teacher"),
    "half": ("half, 2,000 steps", "student"),
    "quarter": ("quarter, 2,000 steps", "student"),
    retrieval.MPNET: ("mpnet quarter", "teacher"),
    "quarter of mpnet": ("mpnet quarter", "student"),
}
"""Model in the table → run of retrieval.py that has measured it, and its side there."""


def main() -> None:
    from homodistil_hf import load_embedding_model

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", required=True)
    parser.add_argument("--rival", required=True)
    parser.add_argument("--static", type=Path, required=True)
    parser.add_argument("--tasks", type=Path, required=True)
    options = parser.parse_args()
    torch.manual_seed(0)
    folders = dict(given.split("=") for given in (*options.models, options.rival))
    models = {name: load_embedding_model(folder) for name, folder in folders.items()}
    name = options.rival.split("=")[0]
    found = {name: scores(models[name].encode, options.tasks), STATIC: static(options.static, options.tasks)}
    sizes = {name: model_facts(model.encoder)["size_bytes"] for name, model in models.items()}
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        encoders = {name: model.encoder.eval() for name, model in models.items()}
        graphs = {name: Path(folder) / f"{number}.onnx" for number, name in enumerate(encoders)}
        for name, encoder in encoders.items():
            export_onnx(FirstOutput(encoder), model_inputs(encoder.config, *PROFILED), graphs[name])
        speed = one_core_figures(encoders, graphs)
    results = {"scores": found, "size_bytes": sizes, **speed, "machine": machine_facts()}
    write_text(RECORD, json.dumps(results, indent=1) + "\n")


def scores(encode: Callable[[list[str]], torch.Tensor], tasks: Path) -> dict[str, float]:
    """Task → STS-B's Spearman or nDCG@10."""
    from homodistil_hf.methods.embedding.tasks import PairTask, load_tasks, pair_score, retrieval_scores

    found = {}
    for task in load_tasks(tasks, max_queries=MAX_QUERIES):
        if isinstance(task, PairTask):
            pair = encode(task.first), encode(task.second)
            found[task.name] = pair_score(task.metric, *pair, task.labels, similarity="cosine")
        elif task.answers is not None:
            vectors = encode(task.queries), encode(task.documents)
            found[task.name] = retrieval_scores(*vectors, task.answers)["ndcg_at_10"]
    return found


def static(folder: Path, tasks: Path) -> dict[str, float]:
    """Scores of vectors of words, of which a text's is the mean."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    return scores(lambda texts: model.encode(texts, convert_to_tensor=True), tasks)


def times_faster(found: Mapping[str, Any], name: str, teacher: str) -> float:
    """How many times as fast as its teacher a model is: 128 tokens in ONNX Runtime, processor time of one core."""
    times = found["processor_time"]
    return times[teacher]["median_ms"] / times[name]["median_ms"]


def table(found: dict[str, Any]) -> list[str]:
    """A row a model: scores, bytes, and how many times as fast as all-MiniLM-L6-v2 it is."""
    runs = {row["run"]: row["scores"] for row in retrieval.STUDY.read() if row["seed"] == 0}
    measured = {
        name: {task: runs[run][task][side] for task in retrieval.TASKS} for name, (run, side) in STUDENTS.items()
    }
    cells = []
    for name, values in (measured | found["scores"]).items():
        shown = ["–", "–"]
        if name in found["size_bytes"]:
            faster = times_faster(found, name, retrieval.MINILM)
            shown = [f"{found['size_bytes'][name] / 1e6:.0f}", f"{faster:.1f}"]
        cells.append([name, *(f"{100 * values[task]:.1f}" for task in retrieval.TASKS), *shown])
    return markdown_table(["model", "STS-B", "QNLI", "SQuAD", "MB", "speed"], cells)


STUDY = Study(RECORD, retrieval.PAGE, lambda found: {"rivals": table(found)})

if __name__ == "__main__":
    main()
