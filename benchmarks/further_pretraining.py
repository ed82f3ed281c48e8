"""Is further pre-training worth it, and self-distillation more? F1 after fine-tuning, by steps, a row each.

    python -m benchmarks.further_pretraining --data DATA --tasks acl_arc scierc --seeds 0 1 2 3 4 --num_steps 200 800

DATA has `teacher/`, a masked-LM BERT, and `domain/TASK/{train,validation,test}.parquet` with `text` and `label`. The
arms: the first weights; further pre-trained on the training rows' text; the same with one round of self-distillation.
Each is fine-tuned alike, its rate chosen on held-out training rows among the same. Rates of the further pre-training
are cells of their own, to be chosen by the validation rows. Rows that are there are not run again.
"""

import argparse
import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from homodistil_hf.data.blocks import tokenize_to_blocks
from homodistil_hf.evaluation.fine_tuning import predict
from homodistil_hf.evaluation.glue.data import GlueTask, encode
from homodistil_hf.evaluation.own_task import MODEL_FOLDER, OwnTaskSettings, fine_tune_own
from homodistil_hf.experiments.rounds import RUN_FILE, load_initial, self_distill
from homodistil_hf.files.provenance import machine_facts
from homodistil_hf.methods.self_distillation import SelfDistillationArguments

RECORD = Path("docs/results/further_pretraining.jsonl")
METRICS = {"chemprot": "micro", "acl_arc": "macro", "scierc": "macro", "twitter_emotion": "macro"}
"""Data set → the F1 that is customary for it."""
ARMS = {"further": "round-0/model", "self_distilled": "student"}
"""Arm → where its model is in the folder of a run."""
INITIAL = "initial"
BATCH_SIZE, ROW_LENGTH = 32, 128


def main() -> None:
    options = _options()
    cells = [{"task": task, "arm": INITIAL, "num_steps": 0, "rate": 0.0} for task in options.tasks]
    cells += [
        {"task": task, "arm": arm, "num_steps": num_steps, "rate": rate}
        for task, num_steps, rate, arm in itertools.product(options.tasks, options.num_steps, options.rates, ARMS)
    ]
    # Seed by seed, so that an interrupted study has every arm.
    for seed, cell in itertools.product(options.seeds, cells):
        cell = cell | {"seed": seed, "fine_tuning_steps": options.fine_tuning_steps}
        if any(cell.items() <= row.items() for row in rows_of(options.record)):
            continue
        row = cell | measured(cell, options.data, options.output_dir) | {"machine": machine_facts()}
        options.record.parent.mkdir(parents=True, exist_ok=True)
        with options.record.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{cell}: F1 {row['test_f1']:.4f}, distance {row['distance']:.3f}", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", choices=METRICS, default=list(METRICS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--num_steps", type=int, nargs="+", default=[200, 800, 3200], help="of each round")
    parser.add_argument("--rates", type=float, nargs="+", default=[1.5e-4], help="of the further pre-training")
    parser.add_argument("--fine_tuning_steps", type=int, default=None, help="at most; default: the evaluations' own")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/further_pretraining"))
    parser.add_argument("--record", type=Path, default=RECORD)
    return parser.parse_args()


def rows_of(record: Path) -> Iterator[dict[str, Any]]:
    """Rows that are recorded already."""
    if record.is_file():
        yield from map(json.loads, record.read_text(encoding="utf-8").splitlines())


def measured(cell: dict[str, Any], data: Path, output_dir: Path) -> dict[str, Any]:
    """Pre-train unless that is done, fine-tune, and measure: F1, distance from the first weights, settings chosen."""
    model = initial = str(data / "teacher")
    if cell["arm"] != INITIAL:
        folder = output_dir / "-".join(str(cell[name]) for name in ("task", "num_steps", "rate", "seed"))
        model = str(further_pre_trained(cell, initial, data, folder) / ARMS[cell["arm"]])
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
        max_train_steps=cell["fine_tuning_steps"],
    )
    found = fine_tune_own(settings, print)
    scores = {split: f1_of(tuned / MODEL_FOLDER, data, cell["task"], split) for split in ("validation", "test")}
    return {
        **{f"{split}_f1": score for split, score in scores.items()},
        **{"f1": METRICS[cell["task"]], "distance": distance(initial, model)},
        **{name: found[name] for name in ("learning_rate", "num_train_rows")},
    }


def further_pre_trained(cell: dict[str, Any], initial: str, data: Path, folder: Path) -> Path:
    """Both arms' models of a number of steps, a rate and a seed, in one folder; goes on where it was."""
    tokenizer = AutoTokenizer.from_pretrained(initial)
    texts = Dataset.from_parquet(str(data / "domain" / cell["task"] / "train.parquet")).select_columns("text")
    args = SelfDistillationArguments(
        output_dir=str(folder),
        max_steps=cell["num_steps"],
        learning_rate=cell["rate"],
        seed=cell["seed"],
        per_device_train_batch_size=BATCH_SIZE,
        save_steps=200,
        save_total_limit=1,
        logging_steps=50,
        disable_tqdm=True,
        report_to="none",
        resume_from_checkpoint="last" if (folder / RUN_FILE).is_file() else None,
    )
    blocks = tokenize_to_blocks(texts, tokenizer, max_seq_length=ROW_LENGTH)
    self_distill(initial, args, train_dataset=blocks, processing_class=tokenizer)
    return folder


def f1_of(folder: Path, data: Path, task: str, split: str) -> float:
    """The data set's customary F1 of a fine-tuned classifier."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = Dataset.from_parquet(str(data / "domain" / task / f"{split}.parquet"))
    classes = [int(name) for name in model.config.id2label.values()]  # the rows' labels, by number of the logit
    own = GlueTask("own", ("text",), num_labels=len(classes))
    logits_RC, labels_R = predict(model, encode(rows, own, tokenizer, ROW_LENGTH), tokenizer)
    return f1(np.array(classes)[logits_RC.argmax(-1)], labels_R, average=METRICS[task])


def f1(given: np.ndarray, wanted: np.ndarray, *, average: str) -> float:
    """F1 of class numbers, micro (of single labels: the accuracy) or macro over the classes that occur in either."""
    if average == "micro":
        return float(np.mean(given == wanted))
    shares = []
    for label in np.union1d(given, wanted):
        both = np.sum((given == label) & (wanted == label))
        shares.append(2 * both / (np.sum(given == label) + np.sum(wanted == label)))
    return float(np.mean(shares))


def distance(initial: str, model: str) -> float:
    """‖θ − θ₀‖ over all parameters."""
    first, last = (dict(load_initial(name).named_parameters()) for name in (initial, model))
    squares = [(last[name].double() - tensor.double()).square().sum() for name, tensor in first.items()]
    return float(torch.stack(squares).sum().sqrt().detach())


if __name__ == "__main__":
    main()
