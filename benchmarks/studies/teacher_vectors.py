"""Students of a large model's vectors: a small start by this package, and by LEAF's recipe, on the same rows.

    python -m benchmarks.studies.teacher_vectors TEACHER START DATA OUTPUT_DIR

LEAF (arXiv 2509.12539) adds a random Dense to its start and trains both on the squared distance alone. Here it has
this package's batches and learning-rate curve, so the fitted map is all that differs. All encode in bfloat16.
"""

import itertools
import re
import sys
import time
from pathlib import Path
from typing import Any

import datasets
import torch
from datasets import Dataset

from homodistil_hf.data.corpus import load_text
from homodistil_hf.experiments.config import run_of
from homodistil_hf.experiments.student import make_trainer
from homodistil_hf.files.strict_json import read_json, write_json
from homodistil_hf.methods.embedding.evaluate import evaluate_embedding
from homodistil_hf.methods.embedding.reading import load_embedding_model
from homodistil_hf.methods.embedding.tasks import PairTask, load_tasks
from homodistil_hf.methods.embedding.vectors import TeacherVectors

RECORD = Path("docs/results/studies/teacher_vectors.json")
VARIANTS = (
    *(("map alone", 1e-12), ("start", 1e-3), ("LEAF", 1e-3), ("start", 3e-4), ("LEAF", 3e-4), ("start", 1e-4)),
    *(("macs=0.5", 3e-4), ("LEAF", 1e-4)),
)
TASKS = {"stsb": ("validation", None), "qnli_part": ("validation", 1200), "squad_v2_part": ("validation", 400)}
NUM_SENTENCES, NUM_QUESTIONS, STEPS, BATCH_SIZE, MOST = 2500, 1500, 200, 32, 400
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")


def train_texts(data: Path) -> list[str]:
    """Sentences of Wikipedia, questions and sentences of QNLI's training rows."""
    documents: Any = load_text(str(data / "corpora/wikipedia/train.parquet"))
    lines = (line for row in documents for line in row["text"].splitlines()[:3])
    sentences = (part for line in lines for part in _SENTENCE.split(line) if len(part) >= 40)
    rows = Dataset.from_parquet(str(data / "glue/qnli_part/train.parquet"))[: NUM_QUESTIONS // 2]
    return list(dict.fromkeys([*itertools.islice(sentences, NUM_SENTENCES), *rows["question"], *rows["sentence"]]))


def task_folder(data: Path, folder: Path) -> Path:
    """First development rows of three tasks."""
    for name, (split, most) in TASKS.items():
        origin = (data if name.startswith("squad") else data / "glue") / name / f"{split}.parquet"
        rows = Dataset.from_parquet(str(origin))
        for part in ("train", split):
            (folder / name).mkdir(parents=True, exist_ok=True)
            rows.select(range(most or len(rows))).to_parquet(folder / name / f"{part}.parquet")
    return folder


def encoded(teacher: str, texts: list[str], file: Path) -> str:
    """A file of a teacher's vectors."""
    if not file.is_file():
        unique = list(dict.fromkeys(texts))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            vectors = load_embedding_model(teacher).encode(unique)
        TeacherVectors("", unique, torch.nn.functional.normalize(vectors.float(), dim=1)).documents.to_parquet(file)
    return str(file)


def trained(variant: str, rate: float, files: dict[str, str], start: str, folder: Path) -> Path:
    """Train one variant; the folder of its student."""
    settings = {"teacher_vectors": [files["train"]], "start": start, "max_seq_length": 64, "bf16": True}
    settings |= {"output_dir": str(folder), "max_steps": STEPS, "per_device_train_batch_size": BATCH_SIZE}
    settings |= {"learning_rate": rate, "overwrite_output_dir": True, "save_strategy": "no", "report_to": "none"}
    settings |= {"student": variant} if "=" in variant else {}
    settings |= {"max_steps": 1} if variant == "map alone" else {}
    trainer = make_trainer(run_of(settings, "the study"), print)
    if variant == "LEAF":
        trainer.distillation.dense.reset_parameters()
        trainer.fit_map = lambda: None
    trainer.train()
    return trainer.export(folder / "student")


def main() -> None:
    teacher, start, data, out = sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])
    tasks = task_folder(data, out / "tasks")
    texts = [
        text
        for task in load_tasks(tasks, max_queries=MOST)
        for part in ((task.first, task.second) if isinstance(task, PairTask) else (task.queries, task.documents))
        for text in part
    ]
    files = {"train": encoded(teacher, train_texts(data), out / "train.parquet")}
    files["tasks"] = encoded(teacher, texts, out / "tasks.parquet")
    found = read_json(RECORD, str(RECORD)) if RECORD.is_file() else []
    for variant, rate in VARIANTS:
        if any((row["variant"], row["rate"]) == (variant, rate) for row in found):
            continue
        since = time.process_time()
        student = trained(variant, rate, files, start, out / "run")
        seconds = round(time.process_time() - since)
        settings: dict[str, Any] = {"data_dir": str(tasks), "max_queries": MOST}
        settings |= {"eval_data": [files["tasks"]], "eval_split": "train"}
        with torch.autocast("cpu", dtype=torch.bfloat16):
            told = evaluate_embedding(
                student, teacher=files["tasks"], settings=settings, output_dir=out / "evaluation"
            )
        costs = {name: told["models"]["student"][name] for name in ("num_parameters", "encoder_macs")}
        row = {"variant": variant, "rate": rate, "cpu_s": seconds, "scores": told["scores"], **costs}
        found.append(row | {"agreement": told["agreement"]})
        write_json(RECORD, found)
        print(found[-1], flush=True)


if __name__ == "__main__":
    datasets.disable_progress_bars()
    main()
