"""Text: F1 after fine-tuning of the first weights and of further pre-trained ones, by steps, a row each.

    python -m benchmarks.studies.further_pretraining_text --data DATA --tasks acl_arc scierc --num_steps 200
    python -m benchmarks.studies.further_pretraining_text --data DATA --tasks acl_arc --student macs=0.25

DATA has `teacher/`, a masked-LM BERT, and `domain/TASK/{train,validation,test}.parquet` with `text` and `label`. Each
variant is fine-tuned alike; its rate is chosen with the first seed on held-out training rows. Rates of the further
pre-training are cells of their own, to be chosen by the validation rows. With `--student` a student is distilled from
each variant's model, on the task's text and as much general text, and fine-tuned in its place.
"""

import argparse
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from sklearn.metrics import f1_score
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from benchmarks.quiet import QUIET
from benchmarks.studies.further_pretraining import (
    INITIAL,
    VARIANTS,
    Cell,
    cells_of,
    distance,
    pre_training,
    run_study,
)
from homodistil_hf.data.blocks import tokenize_to_blocks
from homodistil_hf.distillation.teacher import multiplies_bfloat16
from homodistil_hf.evaluation.fine_tuning import predict
from homodistil_hf.evaluation.glue.data import GlueTask, encode
from homodistil_hf.evaluation.own_task import MODEL_FOLDER, OwnTaskSettings, fine_tune_own
from homodistil_hf.experiments.config import run_of
from homodistil_hf.experiments.distill import distill
from homodistil_hf.export.student_in_folder import STUDENT_FOLDER
from homodistil_hf.methods.self_distillation.rounds import self_distill

METRICS = {"chemprot": "micro", "acl_arc": "macro", "scierc": "macro", "twitter_emotion": "macro"}
"""Data set → the F1 that is customary for it."""
BATCH_SIZE, ROW_LENGTH = 16, 128
RATES, STUDENT_RATES = (1e-4, 2e-4), (2e-4, 4e-4)
"""Of the fine-tuning, searched alike for all variants; smaller models take larger ones."""
DROPOUT = 0.0
"""Of the fine-tuning, which is too short for more."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", choices=METRICS, default=list(METRICS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--num_steps", type=int, nargs="+", default=[200, 800], help="of each round")
    parser.add_argument("--rates", type=float, nargs="+", default=[1.5e-4], help="of the further pre-training")
    parser.add_argument("--fine_tuning_steps", type=int, default=None, help="at most; default: the evaluations' own")
    parser.add_argument("--batch_size", type=int, default=16, help="of the fine-tuning")
    parser.add_argument("--student", help="distil each variant's model to these widths first, such as macs=0.25")
    parser.add_argument("--distilling_steps", type=int, default=500)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/further_pretraining"))
    options = parser.parse_args()
    given = {name: getattr(options, name) for name in ("fine_tuning_steps", "batch_size", "student")}
    given |= {"distilling_steps": options.distilling_steps} if options.student else {}
    cells = cells_of(options.tasks, options.num_steps, options.rates, **given)
    run_study(cells, options.seeds, partial(measured, data=options.data, output_dir=options.output_dir))


def measured(cell: Cell, rate: float | None, *, data: Path, output_dir: Path) -> dict[str, Any]:
    """Pre-train unless that is done, fine-tune, and measure: F1, distance from the first weights, settings chosen."""
    model = adapted = initial = str(data / "teacher")
    if cell["variant"] != INITIAL:
        folder = output_dir / "-".join(str(cell[name]) for name in ("task", "num_steps", "rate", "seed"))
        further_pre_train(cell, initial, data, folder)
        model = adapted = str(folder / VARIANTS[cell["variant"]])
    if cell["student"]:
        model = distilled(cell, adapted, data, output_dir / "distilled")
    tuned = output_dir / "fine_tuned"
    shutil.rmtree(tuned, ignore_errors=True)
    rows = {split: str(data / "domain" / cell["task"] / f"{split}.parquet") for split in ("train", "validation")}
    settings = OwnTaskSettings(
        model=model,
        train_data=rows["train"],
        eval_data=rows["validation"],
        output_dir=str(tuned),
        seed=cell["seed"],
        max_length=ROW_LENGTH,
        dropout_fraction=DROPOUT,
        max_train_steps=cell["fine_tuning_steps"],
        batch_size=cell["batch_size"],
        learning_rate=rate,
        learning_rates=() if rate else STUDENT_RATES if cell["student"] else RATES,
    )
    found = fine_tune_own(settings, print)
    scores = {split: f1_of(tuned / MODEL_FOLDER, data, cell["task"], split) for split in ("validation", "test")}
    facts = {name: found[name] for name in ("learning_rate", "num_train_rows")}
    return scores | facts | {"metric": f"{METRICS[cell['task']]}_f1", "distance": distance(initial, adapted)}


def further_pre_train(cell: Cell, initial: str, data: Path, folder: Path) -> None:
    """Train both variants' models of a number of steps, a rate and a seed, in one folder."""
    tokenizer = AutoTokenizer.from_pretrained(initial)
    texts = Dataset.from_parquet(str(data / "domain" / cell["task"] / "train.parquet")).select_columns("text")
    saving = {"save_strategy": "steps", "save_steps": 200, "save_total_limit": 1}
    batches = {"per_device_train_batch_size": BATCH_SIZE}
    args = pre_training(folder, cell["num_steps"], cell["rate"], seed=cell["seed"], **saving, **batches)
    blocks = tokenize_to_blocks(texts, tokenizer, max_seq_length=ROW_LENGTH)
    self_distill(initial, args, train_dataset=blocks, processing_class=tokenizer)


def distilled(cell: Cell, teacher: str, data: Path, folder: Path) -> str:
    """Distil a student of a teacher by the defaults; returns its folder."""
    texts = ("domain", cell["task"], "train.parquet"), ("corpora", "wikipedia", "validation.parquet")
    values = QUIET | {
        "teacher": teacher,
        "student": cell["student"],
        "train_data": [str(data.joinpath(*parts)) for parts in texts],
        "max_seq_length": ROW_LENGTH,
        "max_steps": cell["distilling_steps"],
        "seed": cell["seed"],
        "output_dir": str(folder),
        "overwrite_output_dir": True,
        "bf16": multiplies_bfloat16(torch.device("cpu")),
    }
    distill(run_of(values, "the study"), print)
    return str(folder / STUDENT_FOLDER)


def f1_of(folder: Path, data: Path, task: str, split: str) -> float:
    """The data set's customary F1 of a fine-tuned classifier."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = Dataset.from_parquet(str(data / "domain" / task / f"{split}.parquet"))
    classes = [int(name) for name in model.config.id2label.values()]  # the rows' labels, by number of the logit
    own = GlueTask("own", ("text",), num_labels=len(classes))
    logits_RC, labels_R = predict(model, encode(rows, own, tokenizer, ROW_LENGTH), tokenizer)
    return float(f1_score(labels_R, np.array(classes)[logits_RC.argmax(-1)], average=METRICS[task]))


if __name__ == "__main__":
    main()
