"""Students of a sparse encoder that is trained here: their questions in its index.

    python -m benchmarks.studies.sparse --masked_lm MODEL --data DATA --output_dir runs/sparse

DATA has QNLI, SQuAD and corpora, in the folders `glue/qnli_part/`, `squad_v2_part/` and `corpora/`. The teacher learns
from pairs of QNLI and SQuAD (arXiv 2109.10086); its students from text alone, by
`homodistil distill`. Scores are of sentence-transformers, on the development questions of QNLI.
"""

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, concatenate_datasets, load_dataset
from torch.nn.functional import cross_entropy
from transformers import AutoModelForMaskedLM, AutoTokenizer, get_linear_schedule_with_warmup

from benchmarks.studies.study import Study, flags
from homodistil_hf.distillation.teacher import multiplies_bfloat16
from homodistil_hf.embedding.evaluate import load_tasks, retrieval_tasks
from homodistil_hf.embedding.model import PoolingSettings
from homodistil_hf.embedding.sparse import SparseModel, load_sparse_model, write_sparse
from homodistil_hf.models.conversion import to_student
from homodistil_hf.models.cost import model_facts
from homodistil_hf.tables import markdown_table

RECORD = Path("docs/results/studies/sparse.json")
TEACHER, SHARES = "teacher", {"half": 0.5, "quarter": 0.25}
PAIRS_A_STEP, MAX_LENGTH, TEXTS = 32, 64, 60_000
FLOPS = 3e-3
"""Weight of Σ_v (mean of z_v)², of questions and of documents."""
NUM_TIMED = 300


def table(models: Mapping[str, Mapping[str, float]]) -> list[str]:
    """A row a model: what it finds in the teacher's index and in its own, active words, cost."""
    cells = [
        [name, f"{one['macs']:.2f}"]
        + [f"{100 * one[side]:.1f}" for side in ("in_index", "own_index")]
        + [f"{one['query_words']:.0f}, {one['document_words']:.0f}", f"{one['bytes'] / 1e6:.0f}", f"{one['ms']:.1f}"]
        for name, one in models.items()
    ]
    header = ["model", "MACs", "in the teacher's index", "in its own", "words a query, document", "MB", "ms a query"]
    return markdown_table(header, cells)


STUDY = Study(RECORD, Path("docs/guides/sparse.md"), lambda record: {"sparse": table(record["models"])})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--masked_lm", required=True, help="what the teacher starts from")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--teacher_steps", type=int, default=400)
    parser.add_argument("--max_steps", type=int, default=500)
    options = parser.parse_args()
    teacher = options.output_dir / TEACHER
    if not teacher.is_dir():
        train_teacher(options.masked_lm, teacher, pairs(options.data), max_steps=options.teacher_steps)
    texts = options.output_dir / "texts.parquet"
    training_texts(options.data).to_parquet(texts)
    for name, share in SHARES.items():
        learning = {"teacher": teacher, "train_data": texts, "max_steps": options.max_steps}
        distil(options.output_dir / name, **learning, student=f"macs={share}")
    models = measured(options.output_dir, load_tasks(options.data / "glue", max_queries=1000))
    steps = {"teacher_steps": options.teacher_steps, "max_steps": options.max_steps}
    RECORD.write_text(json.dumps({"settings": steps, "models": models}, indent=1) + "\n", encoding="utf-8")


def pairs(data: Path) -> Dataset:
    """Questions with the text that answers them: of QNLI class 0, of SQuAD those with an answer."""
    qnli = rows_of(data / "glue/qnli_part").filter(lambda row: row["label"] == 0)
    squad = rows_of(data / "squad_v2_part").filter(lambda row: len(row["answers"]["text"]) > 0)
    sides = [(qnli, "sentence"), (squad, "context")]
    return concatenate_datasets(
        [Dataset.from_dict({"anchor": rows["question"], "positive": rows[text]}) for rows, text in sides]
    ).shuffle(seed=0)


def training_texts(data: Path) -> Dataset:
    """Paragraphs of corpora, and questions and texts of QNLI's training rows."""
    qnli = rows_of(data / "glue/qnli_part")
    corpora = [rows_of(data / "corpora" / name)["text"][: TEXTS // 2] for name in ("wikipedia", "books")]
    texts = [*qnli["question"], *qnli["sentence"], *(text for part in corpora for text in part)]
    return Dataset.from_dict({"text": [text for text in texts if text.strip()]}).shuffle(seed=0)


def rows_of(folder: Path) -> Any:
    return load_dataset("parquet", data_files=str(folder / "train.parquet"), split="train")


def train_teacher(masked_lm: str, folder: Path, rows: Dataset, *, max_steps: int) -> None:
    """SPLADE: cross-entropy among a batch's documents, and FLOPS of both sides, rising over the first third."""
    tokenizer = AutoTokenizer.from_pretrained(masked_lm)
    encoder = to_student(AutoModelForMaskedLM.from_pretrained(masked_lm, dtype=torch.float32)).eval()
    model = SparseModel(
        encoder, tokenizer, PoolingSettings("max", normalizes=False, max_seq_length=MAX_LENGTH), name=""
    )
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-4, weight_decay=0.0)
    schedule = get_linear_schedule_with_warmup(optimizer, max_steps // 10, max_steps)
    texts = itertools.chain.from_iterable(rows.shuffle(seed=epoch).iter(PAIRS_A_STEP) for epoch in itertools.count())
    for step, batch in enumerate(itertools.islice(texts, max_steps)):
        with torch.autocast("cpu", enabled=multiplies_bfloat16(torch.device("cpu"))):
            questions, answers = (model.of_inputs(model.tokenize(batch[side])) for side in ("anchor", "positive"))
        scores = questions @ answers.T
        ranking = cross_entropy(scores, torch.arange(len(scores)))
        costs = sum(side.mean(0).square().sum() for side in (questions, answers))
        (ranking + FLOPS * min(1.0, 3 * step / max_steps) ** 2 * costs).backward()
        torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 20 == 0:
            words = [float((side > 0).sum(1).float().mean()) for side in (questions, answers)]
            print(f"step {step}: {float(ranking.detach()):.3f}, words {words}", flush=True)
    folder.mkdir(parents=True)
    write_sparse(model, folder)


def distil(folder: Path, **settings: Any) -> None:
    """A run of the command line, with its defaults; one that is finished stays."""
    from homodistil_hf.cli import main as homodistil

    settings |= {"output_dir": folder, "report_to": "none"}
    if not (folder / "results.json").is_file() and homodistil(["distill", *flags(settings)]):
        raise SystemExit(f"{folder}: distill failed")


def measured(folder: Path, tasks: Sequence[Any]) -> dict[str, dict[str, float]]:
    """Model → nDCG@10 of its queries in the teacher's index and in its own, active words, cost."""
    from sentence_transformers.sparse_encoder import SparseEncoder
    from sentence_transformers.sparse_encoder.evaluation import SparseInformationRetrievalEvaluator

    (task,) = (task for task in retrieval_tasks(tasks) if task.name.startswith("qnli"))
    queries = {str(number): text for number, text in enumerate(task.queries)}
    documents = {str(number): text for number, text in enumerate(task.documents)}
    answers = {str(number): {str(answer)} for number, answer in enumerate(task.answers or [])}
    torch.set_num_threads(1)
    found, index, whole = {}, None, None
    for name in (TEACHER, *SHARES):
        place = folder / name if name == TEACHER else folder / name / "student"
        model = SparseEncoder(str(place), device="cpu")
        scores: dict[str, dict[str, float]] = {}
        own = model.encode_document(list(documents.values()), show_progress_bar=False)
        index = own if index is None else index
        for side, vectors in {"in_index": index, "own_index": own}.items():
            evaluator = SparseInformationRetrievalEvaluator(queries, documents, answers, name=side, write_csv=False)
            scores[side] = evaluator(model, corpus_embeddings=vectors)
        macs = cost(place)
        whole = macs if whole is None else whole
        found[name] = {
            **{side: scores[side][f"{side}_dot_ndcg@10"] for side in scores},
            "query_words": scores["own_index"]["own_index_query_active_dims"],
            "document_words": scores["own_index"]["own_index_corpus_active_dims"],
            "macs": macs / whole,
            "bytes": sum(file.stat().st_size for file in place.rglob("*.safetensors")),
            "ms": query_ms(model, task.queries[:NUM_TIMED]),
        }
        print(name, json.dumps(found[name]), flush=True)
    return found


def cost(folder: Path) -> float:
    """MACs of the encoder a token."""
    return float(model_facts(load_sparse_model(folder).encoder)["encoder_macs"])


def query_ms(model: Any, queries: Sequence[str]) -> float:
    """Median milliseconds of a query, one at a time on one core, tokenizer included."""
    times = []
    for text in queries:
        start = time.perf_counter()
        model.encode_query(text, show_progress_bar=False)
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


if __name__ == "__main__":
    main()
