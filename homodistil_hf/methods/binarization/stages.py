"""A chain of binarizations on a task's rows: the float model, then fewer and fewer bits, each the next one's teacher.

The folder shows which stages are done, so a run that was killed at any moment goes on in its stage. Rows are read by
the model's head; rows, steps and metrics are those of fine-tuning. `trainer.py` trains one stage.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from ...evaluation.evaluated_model import load_model
from ...evaluation.fine_tuning import (
    OwnTaskSettings,
    check_start,
    encoded_rows,
    own_rows,
    task_metrics,
    training_arguments,
)
from ...evaluation.task_runs import training_rows, with_length
from ...export.facts import CHANGED, DATA, run_facts
from ...export.hub import teacher_card
from ...files.caches import keep_datasets_here
from ...files.checkpoints import is_model_done, last_checkpoint, model_written, sorted_checkpoints
from ...files.folders import remove_folder
from ...files.messages import Log, short_repr
from ...files.provenance import public_name, version_facts
from ...files.run_names import MODEL_FOLDER, RESULTS_FILE, SETTINGS_FILE
from ...files.settings import differing, setting
from ...files.strict_json import write_json
from ...files.tensors import WEIGHTS_FILE
from ...models.architectures.modeling_binarybert import ACTIVATION_BITS
from ...models.heads import collator_of
from ...training.ranks import refuse_ranks
from ...training.run_folder import existing_files, folder_claimed
from .binarizing import to_binary
from .folder import BITS, export_packed
from .trainer import BinarizationArguments, BinarizationTrainer

_SAVE_STEPS = 200
_HEADS = ("ForSequenceClassification", "ForQuestionAnswering")


@dataclass(frozen=True)
class BinarizationSettings(OwnTaskSettings):
    """Settings of [`binarize_chain`]; `model` is fine-tuned for the task.

    Raises:
        ValueError: a value is missing or out of range.
    """

    method: str = setting(BinarizationTrainer.method, f"{BinarizationTrainer.method}: binarization.")
    stages: tuple[int, ...] = setting((1,), "Bits of activations, one stage each; weights have one bit in all.")
    two_sets: bool = setting(True, "Inputs that are never negative take values of {0, …}.")
    elastic: bool = setting(True, "Scales and thresholds of activations learn.")

    # Fine-tuning's with other defaults
    learning_rate: float = setting(1e-3, "Peak learning rate of each stage, > 0.", range="(0, inf)")
    dropout_fraction: float = setting(0.0, "Dropout of the student, in [0, 1).", range="[0, 1)")

    def check_together(self) -> None:
        """Also refuse stages that are no numbers of bits."""
        if self.learning_rates:
            raise ValueError(
                f"learning_rates={short_repr(self.learning_rates)}: a chain searches no rates; set the one "
                "learning_rate"
            )
        super().check_together()
        if not self.stages or any(type(bits) is not int or bits not in ACTIVATION_BITS for bits in self.stages):
            raise ValueError(
                f"stages={short_repr(self.stages)} are no numbers of bits; expected of 1, 2, 4 and 8, e.g. 2 1"
            )
        if self.teacher is not None:
            raise ValueError("teacher is the model itself here, and then each stage before; leave it out")


def binarize_chain(settings: BinarizationSettings, log: Log) -> dict[str, Any]:
    """Binarize a fine-tuned model stage by stage, and export the last one with one bit a weight.

    Args:
        settings: [`BinarizationSettings`].
        log: takes lines for the user.

    Returns:
        `dict`: what was written to `results.json`: of the float model and each stage the metrics (`accuracy` and
            `macro_f1`, `pearson`, or `f1` and `exact_match` in percent); sizes.

    Raises:
        ValueError: unreadable rows, a model of another task or architecture, or a folder that is not free.
        FloatingPointError: training diverged.
    """
    refuse_ranks()
    folder = Path(settings.output_dir)
    record = folder / SETTINGS_FILE
    with folder_claimed(settings.output_dir, is_main=True):
        if existing_files(str(folder)) and not (settings.resume and record.is_file()):
            remedy = "set resume" if record.is_file() else "it holds no chain"
            raise ValueError(f"output_dir={settings.output_dir!r} is not empty; {remedy}, or name another folder")
        start = time.perf_counter()
        keep_datasets_here()
        evaluated = load_model(settings.model)
        settings = with_length(settings, evaluated)
        recorded = check_start(record, settings)
        teacher, tokenizer, max_length = evaluated.model, evaluated.tokenizer, settings.row_length
        if not type(teacher).__name__.endswith(_HEADS):
            raise ValueError(
                f"model={type(teacher).__name__} is for no task that is measured here; expected …"
                f"{' or …'.join(_HEADS)}"
            )
        task, train, dev = own_rows(settings, tokenizer, log, teacher)
        encoded = encoded_rows(task, training_rows(train, settings.max_train_samples), tokenizer, max_length)
        measure = partial(task_metrics, rows=dev, task=task, tokenizer=tokenizer, max_length=max_length)
        to_binary(teacher, activation_bits=settings.stages[0])  # what can't be binarized is refused here
        write_json(record, recorded)  # now that nothing was refused
        results: dict[str, Any] = {"float": measure(teacher)}
        log(f"float: {results['float']}")
        for number, bits in enumerate(settings.stages, start=1):
            student = _stage(folder / f"stage-{number}", teacher, bits, encoded, tokenizer, settings)
            results[f"stage-{number}"] = {BITS: bits, **measure(student)}
            log(f"stage {number}, {bits} bits of activations: {results[f'stage-{number}']}")
            # each stage teaches the next one, and is what it starts from
            teacher = student
        facts = _facts(settings, results, evaluated.model, num_train_rows=len(encoded))
        export = export_packed(teacher, folder / MODEL_FOLDER, tokenizer=tokenizer, facts=facts, overwrite=True)
        results |= {"size_bytes": (export / WEIGHTS_FILE).stat().st_size, "settings": asdict(settings)}
        results |= {"time_s": round(time.perf_counter() - start, 1), "versions": version_facts()}
        write_json(folder / RESULTS_FILE, results)
        return results


def _facts(
    settings: BinarizationSettings, results: Mapping[str, Any], teacher: PreTrainedModel, *, num_train_rows: int
) -> dict[str, Any]:
    # results are in the order of the stages, so the last one is of the model that is exported
    last = {name: value for name, value in list(results.values())[-1].items() if name != BITS}
    data = {
        "train": [public_name(settings.train_data)],
        "held_out": [public_name(settings.eval_data or settings.train_data)],
    }
    lengths = {"num_train_rows": num_train_rows, "max_tokens": settings.row_length}
    num_parameters = sum(parameter.numel() for parameter in teacher.parameters())
    costs = {"num_parameters": num_parameters, "size_bytes": 4 * num_parameters}
    run = run_facts(
        {
            "settings": asdict(settings),
            CHANGED: differing(asdict(settings), BinarizationSettings),
            "training": {"stages": list(settings.stages)},
            DATA: data | lengths,
            "evaluation": last,
            "teacher_evaluation": results["float"],
        }
    )
    name = {"name": public_name(settings.model), **teacher_card(settings.model)}
    return {"teacher": name | costs, "metrics": dict(results), **run}


def _stage(
    folder: Path,
    teacher: PreTrainedModel,
    bits: int,
    rows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    settings: BinarizationSettings,
) -> PreTrainedModel:
    """Train a stage unless it is done; its folder then has `model/`, with the float weights behind the bits."""
    set_seed(settings.seed)
    student = to_binary(
        teacher,
        activation_bits=bits,
        two_sets=settings.two_sets,
        elastic=settings.elastic,
        dropout=settings.dropout_fraction,
    )
    # a finished stage is loaded, as the next one starts from it
    done = folder / MODEL_FOLDER
    if is_model_done(done):
        return type(student).from_pretrained(done, dtype="float32")
    collate = collator_of(tokenizer, student)
    arguments: BinarizationArguments = training_arguments(
        str(folder),
        settings,
        settings.seed,
        num_rows=len(rows),
        save_steps=_SAVE_STEPS,
        arguments_class=BinarizationArguments,
        overwrite_output_dir=True,  # without a whole checkpoint nothing in it is of use
    )
    trainer = BinarizationTrainer(student, arguments, teacher_model=teacher, train_dataset=rows, data_collator=collate)
    trainer.run_folder.how_to_resume = "resume=true"
    trainer.train(last_checkpoint(folder))
    trainer.check_finite()
    # the model before its checkpoints are removed: a run that is killed between the two has both
    with model_written(done, remedy="Make room, then go on with resume=true") as aside:
        trainer.accelerator.unwrap_model(student).save_pretrained(aside)
    for finished in sorted_checkpoints(folder):
        remove_folder(finished)
    return student.eval()
