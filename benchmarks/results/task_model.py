"""One task model, two ways: prune a fine-tuned model while distilling it on its task, or prune first, then fine-tune.

    homodistil distill examples/configs/wikibooks_quarter.json --output_dir runs/task_model/general --max_steps 250
    python -m benchmarks.results.task_model --general runs/task_model/general/student --seeds 0 1 2

The task is SST-2. Each arm chooses its learning rate among the same few, with seed 0, on a slice of the training rows
that neither it nor its teacher learns from; the dev rows are only ever measured on. Every training has a record in
OUTPUT_DIR; those that are there are not repeated, and all of them together are written to --results, which
`benchmarks/write_results.py` reads. What a task model is distilled with is `HomoDistilTrainer`'s business, what a
fine-tuning is `homodistil_hf.evaluation`'s.
"""

import argparse
import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.trainer_pt_utils import get_length_grouped_indices

from homodistil_hf import HomoDistilTrainer, HomoDistilTrainingArguments, OneShotTrainer
from homodistil_hf.evaluation import GlueSettings
from homodistil_hf.evaluation.evaluated_model import EvaluatedModel, load_model
from homodistil_hf.evaluation.fine_tuning import fine_tune, fresh_classifier, predict, training_dtype
from homodistil_hf.evaluation.glue.data import GLUE_TASKS, encode, load_glue
from homodistil_hf.evaluation.task_runs import training_rows, with_held_out
from homodistil_hf.experiments.sweep.folder import CELL_FILE
from homodistil_hf.export.facts import FACTS_FILE
from homodistil_hf.export.student_in_folder import SETTINGS_FILE
from homodistil_hf.files.folders import write_text
from homodistil_hf.files.provenance import machine_facts
from homodistil_hf.files.strict_json import read_json_object
from homodistil_hf.models.cost import model_facts

TASK = "sst2"
SEARCH = "search"
SEARCH_SEED = 0
PREDICTION_TERMS = {"hidden_weight": 0.0, "embedding_weight": 0.0}
"""Of a student that was not cut out of its teacher: none of its channels stands for one of the teacher's."""


@dataclass(frozen=True)
class Options:
    """What all arms have in common; results of other options can't stand beside them."""

    student: str = "192-12x16-704"
    max_train_samples: int = 10_000
    max_length: int = 64
    batch_size: int = 64
    num_train_epochs: int = 2
    num_pruning_epochs: int = 4
    num_search_epochs: int = 1
    learning_rates: tuple[float, ...] = (1e-4, 2.5e-4, 6e-4)


@dataclass(frozen=True)
class Rows:
    """Encoded rows to learn from and to measure on."""

    train: Dataset
    measured: Dataset


@dataclass(frozen=True)
class Run:
    """One training of an arm: its record's name, how long it is, what it learns from, where its teacher lies."""

    arm: str
    name: str
    learning_rate: float
    seed: int
    num_epochs: int
    rows: Rows
    teacher: Path


@dataclass(frozen=True)
class Arm:
    """How a model comes about: epochs of its training, and what makes it; its rate may be another arm's."""

    num_epochs: int
    make: Callable[[Run], tuple[PreTrainedModel, int]]
    rate_of: str | None = None
    num_general_tokens: int = 0


class Study:
    """All arms on one set of rows, in one folder of records."""

    def __init__(self, teacher: str, data_dir: str, *, general: list[str], output_dir: Path, options: Options):
        self.options, self.output_dir = options, output_dir
        self.pretrained = load_model(teacher)
        data = load_glue(TASK, data_dir)
        capped = training_rows(data.train, options.max_train_samples)
        learned, held_out = with_held_out(capped)
        (dev,) = data.dev.values()
        self.rows = Rows(self._encoded(capped), self._encoded(dev))
        self.search_rows = Rows(self._encoded(learned), self._encoded(held_out))
        self.arms = self._arms([load_model(folder) for folder in general])
        self.data_facts = {
            "task": TASK,
            "sha256": data.sha256,
            "num_train_rows": len(capped),
            "num_search_rows": [len(learned), len(held_out)],
            "num_dev_rows": len(dev),
        }

    def _encoded(self, rows: Dataset) -> Dataset:
        return encode(rows, GLUE_TASKS[TASK], self.tokenizer, self.options.max_length)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The teacher's."""
        return self.pretrained.tokenizer

    def _arms(self, general: list[EvaluatedModel]) -> dict[str, Arm]:
        options = self.options
        arms = {
            "teacher": Arm(options.num_train_epochs, self._fine_tuner(self.pretrained)),
            "pruned_on_task": Arm(options.num_pruning_epochs, self._pruner(HomoDistilTrainer)),
            "one_shot_on_task": Arm(options.num_pruning_epochs, self._pruner(OneShotTrainer)),
            "pruned_on_task_no_labels": Arm(
                options.num_pruning_epochs, self._pruner(HomoDistilTrainer, task_weight=0.0), "pruned_on_task"
            ),
        }
        for student in general:
            tokens = general_tokens(student)
            name = f"general_{tokens / 1e6:.1f}M"
            epochs = options.num_train_epochs
            if f"{name}_fine_tuned" in arms:
                raise ValueError(f"--general has two students of {tokens:,} tokens; give each an --output_dir")
            arms[f"{name}_fine_tuned"] = Arm(epochs, self._fine_tuner(student), num_general_tokens=tokens)
            arms[f"{name}_distilled"] = Arm(epochs, self._distiller(student), num_general_tokens=tokens)
        return arms

    def run(self, arm: str, seed: int) -> dict[str, Any]:
        """The record of an arm and a seed, made if it is not there; the arm's search comes first."""
        name, num_epochs = f"{arm},seed={seed}", self.arms[arm].num_epochs
        rate = self.chosen_rate(self.arms[arm].rate_of or arm)
        teacher = self.output_dir / "teachers" / f"teacher,seed={seed}"
        if arm != "teacher":
            self.run("teacher", seed)
        return self._record(Run(arm, name, rate, seed, num_epochs, self.rows, teacher))

    def chosen_rate(self, arm: str) -> float:
        """The best of the learning rates on held-out training rows; of equals the first."""
        rates = self.options.learning_rates
        return rates[int(np.argmax([self._searched(arm, rate)["accuracy"] for rate in rates]))]

    def _searched(self, arm: str, rate: float) -> dict[str, Any]:
        folder = self.output_dir / "teachers"
        best = rate if arm == "teacher" else self.chosen_rate("teacher")
        teacher = folder / f"teacher,{SEARCH},learning_rate={best:g}"
        name, num_epochs = f"{arm},{SEARCH},learning_rate={rate:g}", self.options.num_search_epochs
        return self._record(Run(arm, name, rate, SEARCH_SEED, num_epochs, self.search_rows, teacher))

    def _record(self, run: Run) -> dict[str, Any]:
        file = self.output_dir / "records" / f"{run.name}.json"
        if file.is_file():
            record = read_json_object(file, file.name)
            if record["options"] != plain(self.options):
                raise ValueError(f"{file} has options={record['options']}; name another --output_dir for other ones")
            return record
        started = time.time()
        model, num_steps = self.arms[run.arm].make(run)
        if run.arm == "teacher":
            model.save_pretrained(run.teacher)
        record = self._measured(run, model) | {"num_steps": num_steps, "seconds": round(time.time() - started, 1)}
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(record, indent=1) + "\n")
        print(f"{run.name}: accuracy {record['accuracy']:.4f}, {record['seconds']:.0f} s", flush=True)
        return record

    def _measured(self, run: Run, model: PreTrainedModel) -> dict[str, Any]:
        logits, labels = (torch.from_numpy(part) for part in predict(model, run.rows.measured, self.tokenizer))
        costs = model_facts(model)
        is_search = run.rows is self.search_rows
        return {
            "arm": run.arm,
            "seed": run.seed,
            "is_search": is_search,
            "learning_rate": run.learning_rate,
            "accuracy": (logits.argmax(-1) == labels).double().mean().item(),
            **({} if is_search else self._beside_teacher(run, logits)),
            "num_rows_seen": run.num_epochs * len(run.rows.train),
            "num_task_tokens": run.num_epochs * sum(run.rows.train["length"][:]),
            "num_general_tokens": self.arms[run.arm].num_general_tokens,
            "num_encoder_parameters": costs["num_encoder_parameters"],
            "encoder_macs": costs["encoder_macs"],
            "options": plain(self.options),
        }

    def _beside_teacher(self, run: Run, logits_RC: torch.Tensor) -> dict[str, float]:
        teacher = AutoModelForSequenceClassification.from_pretrained(run.teacher)
        guide_RC = torch.from_numpy(predict(teacher, run.rows.measured, self.tokenizer)[0])
        agreement = (logits_RC.argmax(-1) == guide_RC.argmax(-1)).double().mean().item()
        return {"agreement": agreement, "kl": kl(guide_RC, logits_RC)}

    def _fine_tuner(self, model: EvaluatedModel) -> Callable[[Run], tuple[PreTrainedModel, int]]:
        def make(run: Run) -> tuple[PreTrainedModel, int]:
            classifier = fresh_classifier(model.model.base_model, 2, dropout=0.1, seed=run.seed)
            settings = GlueSettings(
                learning_rate=run.learning_rate,
                num_train_epochs=run.num_epochs,
                batch_size=self.options.batch_size,
                max_length=self.options.max_length,
            )
            trained = fine_tune(classifier, run.rows.train, self.tokenizer, settings=settings, seed=run.seed)
            return trained.model, trained.num_steps

        return make

    def _pruner(
        self, trainer_class: type[HomoDistilTrainer], **weights: float
    ) -> Callable[[Run], tuple[PreTrainedModel, int]]:
        def make(run: Run) -> tuple[PreTrainedModel, int]:
            return self._distil(run, trainer_class, str(run.teacher), student=self.options.student, **weights)

        return make

    def _distiller(self, model: EvaluatedModel) -> Callable[[Run], tuple[PreTrainedModel, int]]:
        def make(run: Run) -> tuple[PreTrainedModel, int]:
            classifier = fresh_classifier(model.model.base_model, 2, dropout=0.1, seed=run.seed)
            return self._distil(run, HomoDistilTrainer, classifier, student="macs=1", **PREDICTION_TERMS)

        return make

    def _distil(
        self, run: Run, trainer_class: type[HomoDistilTrainer], start: str | PreTrainedModel, **settings: Any
    ) -> tuple[PreTrainedModel, int]:
        """Train what `start` is on the task with the task's teacher, and load what is exported with stock classes."""
        folder = self.output_dir / "runs" / run.name
        shutil.rmtree(folder, ignore_errors=True)
        trainer = trainer_class(
            start,
            HomoDistilTrainingArguments(
                output_dir=str(folder),
                num_train_epochs=1,  # the rows come once for each epoch
                train_sampling_strategy="sequential",
                pruning_end_fraction=0.5,  # as in the study that is recorded
                per_device_train_batch_size=self.options.batch_size,
                learning_rate=run.learning_rate,
                bf16=training_dtype("auto") == "bfloat16",
                seed=run.seed,
                save_strategy="no",
                logging_steps=20,
                report_to="none",
                disable_tqdm=True,
                **settings,
            ),
            teacher=str(run.teacher),
            train_dataset=in_order(run.rows.train, run.num_epochs, self.options.batch_size, run.seed),
            processing_class=self.tokenizer,
            data_collator=DataCollatorWithPadding(self.tokenizer, pad_to_multiple_of=8),
        )
        trainer.train()
        exported = trainer.export(folder / "student")
        return AutoModelForSequenceClassification.from_pretrained(exported), trainer.state.global_step


def in_order(rows: Dataset, num_epochs: int, batch_size: int, seed: int) -> Dataset:
    """All epochs' rows one after the other, shuffled so that rows of like length follow each other."""
    generator = torch.Generator().manual_seed(seed)
    lengths = rows["length"][:]
    order = [
        index
        for _ in range(num_epochs)
        for index in get_length_grouped_indices(lengths, batch_size, generator=generator)
    ]
    return rows.select(order).remove_columns("length")


def kl(teacher_RC: torch.Tensor, student_RC: torch.Tensor) -> float:
    """KL(teacher ‖ student) of two models' logits, nats a row."""
    teacher_RC, student_RC = teacher_RC.double().log_softmax(-1), student_RC.double().log_softmax(-1)
    return (teacher_RC.exp() * (teacher_RC - student_RC)).sum(-1).mean().item()


def general_tokens(student: EvaluatedModel) -> int:
    """Tokens that a student was distilled with before any task, from its export's facts and its run's settings."""
    if student.export is None:
        raise ValueError(f"{student.source!r} is no export; expected the student/ of a finished run")
    facts = read_json_object(student.export / FACTS_FILE, FACTS_FILE)
    settings, num_steps = facts["settings"], facts["training"]["num_steps"]
    num_blocks = num_steps * settings["per_device_train_batch_size"] * settings["gradient_accumulation_steps"]
    return num_blocks * _block_length(student.export.parent)


def _block_length(run_folder: Path) -> int:
    """Tokens a block, as the run's command or the sweep that it belongs to wrote them down."""
    for name in (CELL_FILE, SETTINGS_FILE):
        if (run_folder / name).is_file():
            written = read_json_object(run_folder / name, name)
            return int(written.get("settings", written)["max_seq_length"])
    raise ValueError(f"folder={str(run_folder)!r} has no {CELL_FILE} or {SETTINGS_FILE}; expected a run's")


def plain(options: Options) -> dict[str, Any]:
    """Options as they are after a journey through JSON."""
    return json.loads(json.dumps(asdict(options)))


def collect(study: Study, results: Path, seeds: list[int]) -> None:
    """Write all records of its arms that are there, and which arms and seeds are meant, to one file."""
    files = sorted((study.output_dir / "records").glob("*.json"))
    records = [record for file in files if (record := read_json_object(file, file.name))["arm"] in study.arms]
    found: Mapping[str, Any] = {
        "options": plain(study.options),
        "data": study.data_facts,
        "arms": {name: {"rate_of": arm.rate_of or name} for name, arm in study.arms.items()},
        "seeds": seeds,
        "machine": machine_facts(),
        "records": [{name: value for name, value in record.items() if name != "options"} for record in records],
    }
    results.parent.mkdir(parents=True, exist_ok=True)
    write_text(results, json.dumps(found, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="../shared/data/teacher", help="masked-LM BERT")
    parser.add_argument("--data_dir", default="../shared/data", help="folder with glue/sst2/")
    parser.add_argument("--general", nargs="*", default=[], help="exports of students pruned on general text")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/task_model"))
    parser.add_argument("--results", type=Path, default=Path("docs/results/task_model.json"))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", help="arms to run now; default: all")
    for name, value in asdict(Options()).items():
        several = isinstance(value, tuple)
        parser.add_argument(
            f"--{name}",
            type=type(value[0]) if several else type(value),
            default=value,
            nargs="+" if several else None,
        )
    given = parser.parse_args()
    values = {name: getattr(given, name) for name in asdict(Options())}
    values["learning_rates"] = tuple(values["learning_rates"])
    study = Study(
        given.teacher,
        given.data_dir,
        general=given.general,
        output_dir=given.output_dir,
        options=Options(**values),
    )
    for seed in given.seeds:
        for arm in given.only or study.arms:
            study.run(arm, seed)
            collect(study, given.results, given.seeds)


if __name__ == "__main__":
    main()
