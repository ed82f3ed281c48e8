"""Students of a multi-vector encoder: what their queries find in the teacher's index of token vectors, by MaxSim.

    python -m benchmarks.studies.multi_vector --model all-MiniLM-L6-v2 --data DATA --output_dir OUT

The teacher has the token vectors of an embedding model, each brought to length 1, without any training for MaxSim.
DATA has `corpora/wikipedia` and `glue/qnli_part`. Students learn from sentences and questions; a row a student goes
to the record, unless it is there.
"""

import argparse
import itertools
import re
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.studies.study import Study, record_cells
from homodistil_hf.cli import main as run_command
from homodistil_hf.data.corpus import load_text
from homodistil_hf.embedding.evaluate import RetrievalTask, load_tasks, retrieval_tasks
from homodistil_hf.embedding.metrics import gains, mean_maxsim
from homodistil_hf.embedding.multi_vector import MultiVectorModel, load_multi_vector_model
from homodistil_hf.files.strict_json import read_json_object
from homodistil_hf.models.cost import model_facts
from homodistil_hf.plans.latency import time_in_turns
from homodistil_hf.tables import markdown_table

RECORD, PAGE = Path("docs/results/studies/multi_vector.jsonl"), Path("docs/guides/multi_vector.md")
NUM_SENTENCES, NUM_QUERIES, NUM_ROUNDS = 40_000, 500, 50
MACS = (0.5, 0.25)
ACROSS = "student, teacher's index"
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
_BLOCK = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--record", type=Path, default=RECORD)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--queries", type=int, default=NUM_QUERIES)
    options = parser.parse_args()
    write_teacher(options.model, options.output_dir / "teacher")
    write_texts(options.data, options.output_dir)
    cells = [{"macs": macs, "steps": options.steps, "seed": 0} for macs in MACS]
    record_cells(options.record, cells, partial(measured, options))


def write_teacher(model: Path, folder: Path) -> None:
    """Write the multi-vector encoder of an embedding model's token vectors."""
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    if not folder.is_dir():
        modules = [Transformer(str(model)), MultiVectorMask(), Normalize(module_input_name="token_embeddings")]
        MultiVectorEncoder(modules=modules, device="cpu").save_pretrained(str(folder))


def write_texts(data: Path, folder: Path) -> None:
    """Write sentences of Wikipedia and questions of QNLI's training rows, a line each."""
    documents: Any = load_text(str(data / "corpora" / "wikipedia" / "train.parquet"))
    lines = (line.strip() for row in documents for line in row["text"].splitlines())
    sentences = itertools.islice((one for line in lines for one in _SENTENCE.split(line) if one), NUM_SENTENCES)
    questions: Any = load_text(str(data / "glue" / "qnli_part" / "train.parquet"), text_column="question")
    for name, texts in {"sentences": sentences, "questions": (row["text"] for row in questions)}.items():
        (folder / f"{name}.txt").write_text("\n".join(dict.fromkeys(texts)), encoding="utf-8")


def measured(options: argparse.Namespace, cell: Mapping[str, Any]) -> dict[str, Any]:
    """Train one student, unless that is done, and look its queries up in the teacher's index."""
    out = options.output_dir
    folder, teacher_folder = out / f"macs-{cell['macs']}-steps-{cell['steps']}", out / "teacher"
    if not (folder / "results.json").is_file():
        texts = [str(out / f"{name}.txt") for name in ("sentences", "questions")]
        named = {"teacher": teacher_folder, "student": f"macs={cell['macs']}", "max_steps": cell["steps"]}
        named |= {"output_dir": folder, "seed": cell["seed"], "bf16": True}
        named |= {"max_seq_length": 64, "per_device_train_batch_size": 64}
        words = [word for name, value in named.items() for word in (f"--{name}", str(value))]
        if status := run_command(["distill", *words, "--train_data", *texts]):
            raise SystemExit(status)
    results = read_json_object(folder / "results.json", "results")
    models = {
        "teacher": load_multi_vector_model(teacher_folder),
        "student": load_multi_vector_model(folder / "student"),
    }
    (task,) = retrieval_tasks(load_tasks(options.data / "glue", max_queries=options.queries))
    return {
        "ndcg_at_10": scores_of(models, task),
        "sizes": {"queries": len(task.queries), "documents": len(task.documents)},
        "ms": milliseconds(models, task.queries),
        "models": {name: model_facts(model.stock_encoder) for name, model in models.items()},
        **{key: results[key] for key in ("evaluation", "plan", "time_s")},
    }


def scores_of(models: Mapping[str, MultiVectorModel], task: RetrievalTask) -> dict[str, float]:
    """nDCG@10 of the teacher, of the student in an index of its own, and of its queries in the teacher's."""
    queries = {name: model.encode_each(task.queries, prompt_name="query") for name, model in models.items()}
    index = {name: model.encode_each(task.documents, prompt_name="document") for name, model in models.items()}
    pairs = {"teacher": ("teacher",) * 2, "student": ("student",) * 2, ACROSS: ("student", "teacher")}
    answers = task.answers or []
    return {name: ndcg(queries[asking], index[asked], answers) for name, (asking, asked) in pairs.items()}


def ndcg(queries: Sequence[torch.Tensor], documents: Sequence[torch.Tensor], answers: Sequence[int]) -> float:
    """nDCG@10 by MaxSim where each query has one right document."""
    blocks = [mean_maxsim(queries[at : at + _BLOCK], documents) for at in range(0, len(queries), _BLOCK)]
    scores_NM = torch.cat(blocks)
    right_N1 = scores_NM.gather(1, torch.tensor(answers)[:, None])
    return float(gains((scores_NM >= right_N1).sum(1).double()).mean())


def milliseconds(models: Mapping[str, MultiVectorModel], queries: list[str]) -> dict[str, float]:
    """Median milliseconds of encoding one query, tokenizer included, in turns."""

    def next_query(model: MultiVectorModel) -> Any:
        texts = itertools.cycle(queries)
        return lambda: model.encode_each([next(texts)], prompt_name="query")

    passes = {name: next_query(model) for name, model in models.items()}
    taken = time_in_turns(passes, num_rounds=NUM_ROUNDS, num_warmup=3, rest_s=0.0)
    return {name: round(statistics.median(durations), 3) for name, durations in taken.items()}


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A row a model: nDCG@10 × 100, milliseconds a query and megabytes."""
    own = rows[0]
    cells = [["teacher", *[f"{100 * own['ndcg_at_10']['teacher']:.1f}"] * 2, "1.000", "", _megabytes(own, "teacher")]]
    for row in rows:
        scores = [f"{100 * row['ndcg_at_10'][name]:.1f}" for name in (ACROSS, "student")]
        both = f"{row['ms']['student']:.1f} of {row['ms']['teacher']:.1f}"  # timed in turns
        cosine = f"{row['evaluation']['cosine']:.3f}"
        cells.append([f"{row['macs']:g}", *scores, cosine, both, _megabytes(row, "student")])
    return markdown_table(["MACs", "nDCG@10, teacher's index", "own index", "cosine", "ms a query", "MB"], cells)


def _megabytes(row: Mapping[str, Any], side: str) -> str:
    return f"{row['models'][side]['size_bytes'] / 1e6:.0f}"


STUDY = Study(RECORD, PAGE, lambda rows: {"measured": table(rows)})

if __name__ == "__main__":
    main()
