"""A chain of binarizations: the float model, then fewer and fewer bits, each the next one's teacher.

Each stage learns soft targets and all layers' hidden states (BiT, NeurIPS 2022, arXiv 2205.13016):
L = KL(p_t ‖ p_s) + Σ_k MSE(H_t^k, H_s^k): the paper's soft cross-entropy, less its constant, and states of one width.
Of an embedding model ‖z_t − z_s‖² of a text's vectors stands for the KL.

The folder shows which stages are done, so a run that was killed at any moment goes on in its stage. Rows of a task are
read by the model's head; rows, steps and metrics are those of fine-tuning. Texts are read by `runs/bit_embeddings.py`.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, TypeAlias

import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from ...distillation.losses import hidden_error, prediction_terms, vector_error
from ...distillation.tasks import sequence_task
from ...evaluation.evaluated_model import load_model, model_in
from ...evaluation.fine_tuning import (
    OwnTaskSettings,
    as_rows_need,
    check_start,
    encoded_rows,
    own_rows,
    task_metrics,
    training_arguments,
    training_rows,
    with_length,
)
from ...export.facts import CHANGED, DATA, run_facts
from ...export.hub import teacher_card
from ...files.caches import keep_datasets_here
from ...files.checkpoints import is_model_done, last_checkpoint, model_written, sorted_checkpoints
from ...files.folders import check_writable, remove_folder
from ...files.messages import Log, short_repr
from ...files.provenance import public_name, version_facts
from ...files.run_names import MODEL_FOLDER, RESULTS_FILE, SETTINGS_FILE
from ...files.settings import differing, setting
from ...files.strict_json import write_json
from ...files.tensors import WEIGHTS_FILE
from ...models.architectures.modeling_binarybert import ACTIVATION_BITS, BinaryBertModel, ElasticQuantizer
from ...models.heads import collator_of, fastest_device
from ...tables import figures_line
from ...tasks.columns import ReadRows
from ...tasks.kinds import IS_CONSTANT
from ...training.exact_trainer import ExactTrainer
from ...training.pair import check_alike
from ...training.ranks import check_launch, refuse_ranks
from ...training.run_folder import existing_files, folder_claimed
from ...training_args import ExactArguments, own_arguments
from .binarizing import calibrate, to_binary
from .folder import BITS, export_packed

_SAVE_STEPS = 200
VectorsOf: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Last states `(B, T, H)` and mask `(B, T)` → what vectors are compared by, `(B, D)`."""
_OUT_OF_REACH = -1e4  # a logit whose probability is 0 in any type
_LOGITS = ("logits", "start_logits", "end_logits")
_LABELS = ("labels", "start_positions", "end_positions")
_HEADS = ("ForSequenceClassification", "ForQuestionAnswering")
PAPER: Mapping[str, Any] = MappingProxyType(
    {
        **{"stages": (2, 1), "two_sets": True, "elastic": True},
        **{"num_train_epochs": 100.0, "max_train_steps": 120_000, "batch_size": 16},
        **{"learning_rate": 2e-4, "warmup_fraction": 0.1, "weight_decay": 0.0, "dropout_fraction": 0.0},
    }
)
"""BiT's settings. Stated by the paper are the stages, each the next one's teacher, two sets and learned scales.

A hundred passes are those of its small tasks; of large ones the cap on a stage's steps leaves fewer. Passes, batch,
rate, warm-up, decay and dropout are believed, not checked against the text.
"""


@dataclass(frozen=True)
class BinarizationSettings(OwnTaskSettings):
    """Settings of [`binarize_chain`]; `model` is fine-tuned for the task, or an embedding model.

    Raises:
        ValueError: a value is missing or out of range.
    """

    model: str = setting("", "Float BERT of a task or of embeddings: export, run, folder or Hub name.", text="a name")
    train_data: str = setting(
        "", "Rows of the task, or texts; no labels needed: a file, folder, glob or Hub data set.", text="a name"
    )
    eval_data: str | None = setting(
        None, "Labelled rows, or texts, to measure on; default: a part of train_data, kept aside.", text="a name"
    )
    method: str = setting("bit", "bit: binarization.")
    recipe: str | None = setting(
        None, "paper: start from the settings of BiT's paper; settings that are given override them."
    )
    stages: tuple[int, ...] = setting(
        (4,), "Bits of activations, a stage each: 1, 2, 4, 8, or 32, float; weights have one bit in all."
    )
    two_sets: bool = setting(True, "Inputs that are never negative take values of {0, …}.")
    elastic: bool = setting(True, "Scales and thresholds of activations learn.")

    # Fine-tuning's with other defaults
    least_steps: ClassVar[int] = 3000
    num_train_epochs: float | None = setting(
        None, f"Passes over the rows, a stage (default: 3, but {least_steps:,} steps at least).", range="(0, inf)"
    )
    learning_rate: float = setting(1e-3, "Peak learning rate of each stage, > 0.", range="(0, inf)")
    max_length: int | None = setting(
        None,
        "Tokens a row, longer ones are cut; 8 … the positions (default: 99 of 100 rows fit; of vectors 128).",
        least=8,
    )
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
                f"stages={short_repr(self.stages)} are no numbers of bits; expected of 1, 2, 4, 8 and 32, e.g. 2 1"
            )
        if self.teacher is not None:
            raise ValueError("teacher is the model itself here, and then each stage before; leave it out")


@dataclass(frozen=True)
class ChainInputs:
    """What a chain is made from: the float model, rows, and what depends on its kind.

    Args:
        settings: those that were given, with the length of a row.
        model: the float model.
        tokenizer: pads rows.
        rows: to train on, tokenized, with `length`.
        measure: model → its metrics on held-out rows.
        export: last stage, folder, results and the sections of the run → writes the model of bits.
        num_held_out: rows that are measured on.
        vectors_of: of an encoder without a head.
    """

    settings: BinarizationSettings
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    rows: Dataset
    measure: Callable[[PreTrainedModel], dict[str, float]]
    export: Callable[[PreTrainedModel, Path, Mapping[str, Any], Mapping[str, Any]], Path]
    num_held_out: int
    vectors_of: VectorsOf | None = None


def task_inputs(settings: BinarizationSettings, log: Log) -> ChainInputs:
    """Read a model with a head and rows of its task.

    Raises:
        ValueError: unreadable rows, or a model of another task or architecture.
    """
    evaluated, place = load_model(settings.model), model_in(settings.model)
    source = settings.model if place is None else str(place.folder)
    if has_length := settings.max_length is not None:
        settings = with_length(settings, evaluated)
    model, tokenizer = evaluated.model, evaluated.tokenizer
    if not type(model).__name__.endswith(_HEADS):
        raise ValueError(
            f"model={type(model).__name__} is for no task that is measured here; expected …{' or …'.join(_HEADS)}"
        )
    if model.config.problem_type == "multi_label_classification":
        raise ValueError(f"model={settings.model!r} gives several labels a row, which has no loss here")
    to_binary(model, activation_bits=settings.stages[0])  # what can't be binarized is refused before rows are read
    task, train, dev = own_rows(settings, tokenizer, log, model)
    if not has_length:
        settings = as_rows_need(settings, ReadRows(train, task.columns), evaluated, log)
    max_length = settings.row_length
    # labels have no part in the loss, and rows to train on may have none
    without_labels = replace(task, columns=replace(task.columns, labels=()))
    rows = encoded_rows(without_labels, training_rows(train, settings.max_train_samples), tokenizer, max_length)

    def export(last: PreTrainedModel, folder: Path, results: Mapping[str, Any], run: Mapping[str, Any]) -> Path:
        num_parameters = sum(parameter.numel() for parameter in model.parameters())
        costs = {"num_parameters": num_parameters, "size_bytes": 4 * num_parameters}
        facts = {"teacher": teacher_card(source) | costs, "metrics": results, **run}
        return export_packed(last, folder, tokenizer=tokenizer, facts=facts, overwrite=True)

    how: dict[str, Any] = {"rows": dev, "task": task, "tokenizer": tokenizer, "max_length": max_length}
    measure = partial(task_metrics, **how, tells_constant=True)
    return ChainInputs(settings, model, tokenizer, rows, measure, export, len(dev))


def binarize_chain(
    settings: BinarizationSettings,
    log: Log,
    read: Callable[[BinarizationSettings, Log], ChainInputs] = task_inputs,
) -> dict[str, Any]:
    """Binarize a float model stage by stage, and export the last one with one bit a weight.

    Args:
        settings: [`BinarizationSettings`].
        log: takes lines for the user.
        read: reads model and rows; default: of a task. `runs/bit_embeddings.py` has that of texts.

    Returns:
        `dict`: what was written to `results.json`: of the float model and each stage the metrics (`accuracy` and
            `macro_f1`, `pearson`, `f1` and `exact_match` in percent, or `cosine` and `neighbours`); sizes.

    Raises:
        ValueError: unreadable rows, a model of another task or architecture, or a folder that is not free.
        FloatingPointError: training diverged.
    """
    refuse_ranks()
    folder = Path(settings.output_dir)
    record = folder / SETTINGS_FILE
    check_writable(folder, f"output_dir={settings.output_dir!r}")
    with folder_claimed(settings.output_dir, is_main=True):
        if existing_files(str(folder)) and not (settings.resume and record.is_file()):
            remedy = "set resume" if record.is_file() else "it holds no chain"
            raise ValueError(f"output_dir={settings.output_dir!r} is not empty; {remedy}, or name another folder")
        start = time.perf_counter()
        keep_datasets_here()
        inputs = read(settings, log)
        settings, teacher = inputs.settings, inputs.model
        recorded = check_start(record, settings, model=teacher, rows=inputs.rows)
        write_json(record, recorded)  # now that nothing was refused
        results: dict[str, Any] = {"float": inputs.measure(teacher)}
        log(f"float: {_figures(results['float'])}")
        for number, bits in enumerate(settings.stages, start=1):
            student = _stage(folder / f"stage-{number}", teacher, bits, inputs)
            metrics = inputs.measure(student)
            results[f"stage-{number}"] = {BITS: bits, **metrics}
            log(f"stage {number}, {bits} bits of activations: {_figures(metrics)}")
            # each stage teaches the next one, and is what it starts from
            teacher = student
        numbers = {"num_train_rows": len(inputs.rows), "num_held_out_rows": inputs.num_held_out}
        run = _run_facts(settings, results, numbers)
        export = inputs.export(teacher, folder / MODEL_FOLDER, results, run)
        size_bytes = sum(file.stat().st_size for file in export.rglob(WEIGHTS_FILE))
        results |= {"size_bytes": size_bytes, "settings": asdict(settings)}
        results |= {"time_s": round(time.perf_counter() - start, 1), "versions": version_facts()}
        write_json(folder / RESULTS_FILE, results)
        return results


def _figures(metrics: Mapping[str, float]) -> str:
    return figures_line({name: value for name, value in metrics.items() if name != IS_CONSTANT})


def _run_facts(
    settings: BinarizationSettings, results: Mapping[str, Any], numbers: Mapping[str, int]
) -> dict[str, Any]:
    # results are in the order of the stages, so the last one is of the model that is exported
    last = {name: value for name, value in list(results.values())[-1].items() if name != BITS}
    data = {
        "train": [public_name(settings.train_data)],
        "held_out": [public_name(settings.eval_data or settings.train_data)],
    }
    lengths = {**numbers, "max_tokens": settings.row_length}
    return run_facts(
        {
            "settings": asdict(settings),
            CHANGED: differing(asdict(settings), BinarizationSettings),
            "training": {"stages": list(settings.stages)},
            DATA: data | lengths,
            "evaluation": last,
            "teacher_evaluation": results["float"],
        }
    )


def _stage(folder: Path, teacher: PreTrainedModel, bits: int, inputs: ChainInputs) -> PreTrainedModel:
    """Train a stage unless it is done; its folder then has `model/`, with the float weights behind the bits."""
    student, done = stage_student(teacher, bits, inputs.settings), folder / MODEL_FOLDER
    if not is_model_done(done):
        trainer = stage_trainer(folder, student, teacher, inputs)
        trainer.train(last_checkpoint(folder))
        trainer.check_finite()
        # the model before its checkpoints are removed: a run that is killed between the two has both
        with model_written(done, remedy="Make room, then go on with resume=true") as aside:
            trainer.accelerator.unwrap_model(student).save_pretrained(aside)
        for finished in sorted_checkpoints(folder):
            remove_folder(finished)
    # loaded in either case: a model that was trained just now may have autocast around its forward
    return type(student).from_pretrained(done, dtype="float32").to(fastest_device())


def stage_student(teacher: PreTrainedModel, bits: int, settings: BinarizationSettings) -> PreTrainedModel:
    """What a stage trains: a copy of the model before it with fewer bits; its seed is set."""
    set_seed(settings.seed)
    return to_binary(
        teacher,
        activation_bits=bits,
        two_sets=settings.two_sets,
        elastic=settings.elastic,
        dropout=settings.dropout_fraction,
    )


def stage_trainer(
    folder: Path, student: PreTrainedModel, teacher: PreTrainedModel, inputs: ChainInputs
) -> "BinarizationTrainer":
    """The trainer of a stage in a folder, which has its checkpoints."""
    settings, tokenizer = inputs.settings, inputs.tokenizer
    arguments: BinarizationArguments = training_arguments(
        str(folder),
        settings,
        settings.seed,
        num_rows=len(inputs.rows),
        save_steps=_SAVE_STEPS,
        arguments_class=BinarizationArguments,
        overwrite_output_dir=True,  # without a whole checkpoint nothing in it is of use
    )
    trainer = BinarizationTrainer(
        student,
        arguments,
        teacher_model=teacher,
        vectors_of=inputs.vectors_of,
        train_dataset=inputs.rows,
        data_collator=collator_of(tokenizer, student),
    )
    trainer.run_folder.how_to_resume = "resume=true"
    return trainer


# One stage


@dataclass
class BinarizationArguments(ExactArguments):
    """Settings of a stage of binarization: those of any run that resumes bit for bit."""

    recipes: ClassVar = {"paper": PAPER}
    dataloader_drop_last: bool = setting(False, "Trainer's; few rows are all used, the last batch is smaller.")


class BinarizationTrainer(ExactTrainer):
    """Trains a model of bits beside the model that it was made from; else `transformers.Trainer`, resumed bit for bit.

    Args:
        model: what is trained, made by [`to_binary`].
        args: the settings, which are copied.
        teacher_model: what `model` was made from: same head, layers and hidden size; float, or of more bits.
        vectors_of: of an encoder without a head: last states `(B, T, H)` and mask `(B, T)` → vectors `(B, D)`, in
            place of logits.
        kwargs: as in `transformers.Trainer`; labels of `train_dataset` are not used.

    Raises:
        ValueError: a teacher of other layers, hidden size or labels, or of several labels a row; or an encoder without
            `vectors_of`.
    """

    method = "bit"
    """Name by which configs choose it."""
    arguments_class = BinarizationArguments
    args: BinarizationArguments
    quantizers_rate = 10.0
    """Of scales and thresholds of activations, in learning rates of the weights."""

    def __init__(
        self,
        model: PreTrainedModel,
        args: BinarizationArguments,
        *,
        teacher_model: PreTrainedModel,
        vectors_of: VectorsOf | None = None,
        **kwargs: Any,
    ):
        if isinstance(model, BinaryBertModel) is not (vectors_of is not None):
            raise ValueError(
                f"vectors_of={vectors_of!r} with model={type(model).__name__}: an encoder without a head is compared "
                "by its vectors, and needs it; a model with a head is compared by its logits, so leave it out"
            )
        args = own_arguments(args, BinarizationArguments)
        check_launch(args)
        super().__init__(model, args, **kwargs)
        self.vectors_of = vectors_of
        self.teacher = teacher_model.to(self.args.device).eval().requires_grad_(False)
        check_alike(teacher_model, model, ("num_hidden_layers", "hidden_size", "num_labels"))
        if teacher_model.config.problem_type == "multi_label_classification":
            raise ValueError("teacher has problem_type='multi_label_classification', which has no loss here")

    @property
    def frozen_teacher(self) -> nn.Module:
        """The model before."""
        return self.teacher

    def start_student(self) -> None:
        """Take the scales of activations from the first batch."""
        first = self.prepare_batch(self._prepare_inputs(next(iter(self.get_train_dataloader()))))
        calibrate(self.model, {name: tensor for name, tensor in first.items() if name not in _LABELS})

    def count(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Rows and tokens of a batch, int64 `(2,)`; padding doesn't count."""
        num_tokens = _mask_of(inputs).sum(dtype=torch.int64)
        return torch.stack([torch.full_like(num_tokens, len(inputs["input_ids"])), num_tokens])

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """As Trainer's; scales and thresholds of activations do not decay and have a rate of their own."""
        optimizer = super().create_optimizer(*args, **kwargs)
        quantizers = [module for module in self.model.modules() if isinstance(module, ElasticQuantizer)]
        own = [one for module in quantizers for one in module.parameters() if one.requires_grad]
        last = optimizer.param_groups[-1]["params"]
        if own and [*map(id, last)] != [*map(id, own)]:  # they are there in a second call of `train`
            # out of the groups that Trainer has made, into one of their own
            moved = set(map(id, own))
            for group in optimizer.param_groups:
                group["params"] = [one for one in group["params"] if id(one) not in moved]
            rate = self.quantizers_rate * self.args.learning_rate
            optimizer.add_param_group({"params": own, "lr": rate, "weight_decay": 0.0})
        return optimizer

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """This micro-batch's share of the loss of its step, or in evaluation the loss of the batch.

        Labels are not used.

        Args:
            model: as it is wrapped for training.
            inputs: a batch.
            return_outputs: also return the logits, if there are any.
            num_items_in_batch: rows and tokens of the whole step, int64 `(2,)`; not used in evaluation.
        """
        read = {name: tensor for name, tensor in inputs.items() if name not in _LABELS}
        mask_BT = read["attention_mask"] = _mask_of(inputs)
        # in training those of the whole step, so that shares add up to its average
        counts = num_items_in_batch if model.training and num_items_in_batch is not None else self.count(inputs)
        num_rows, num_tokens = counts.unbind()
        with torch.no_grad(), self.accelerator.autocast():
            taught = self.teacher(**read, output_hidden_states=True)
        outputs = model(**read, output_hidden_states=True)
        if self.vectors_of is None:
            # KL(p_t ‖ p_s), of an answer's start and end
            kl = sum(self._kl(outputs[name], taught[name], mask_BT, name) for name in _LOGITS if name in outputs)
            # logits (B, T, C) predict once a token, all others once a row
            num_predictions = num_tokens if "logits" in outputs and outputs["logits"].dim() == 3 else num_rows
            terms = {"kl": kl / num_predictions}
        else:
            with torch.autocast(mask_BT.device.type, enabled=False):  # near vectors differ by less than others round
                own, guide = (self.vectors_of(one["last_hidden_state"], mask_BT) for one in (outputs, taught))
                terms = {"vector": vector_error(own, guide) / num_rows}
        # Σ_k MSE(H_t^k, H_s^k), the embeddings among the states
        states = zip(taught["hidden_states"], outputs["hidden_states"], strict=True)
        terms["hidden"] = sum(hidden_error(guide, state, mask_BT) for guide, state in states) / num_tokens
        loss: Any = sum(terms.values())
        if model.training:
            loss = self.scale_and_log(loss, terms, model)
        return (loss, {name: outputs[name] for name in _LOGITS if name in outputs}) if return_outputs else loss

    def _kl(self, own: torch.Tensor, guide: torch.Tensor, mask_BT: torch.Tensor, name: str) -> torch.Tensor:
        # regression: ½ (z_t − z_s)²
        if own.dim() == 2 and name == "logits" and not (task := sequence_task(self.teacher.config)).has_classes:
            return task.terms(own, guide, guide)[1]
        if own.dim() == 3:  # a token each
            own, guide = own[mask_BT.bool()], guide[mask_BT.bool()]
        elif name != "logits":  # tokens are classes
            own, guide = (logits_BT.masked_fill(mask_BT == 0, _OUT_OF_REACH) for logits_BT in (own, guide))
        # labels have a part in the cross-entropy alone, which is not used
        nothing = own.new_zeros(len(own), dtype=torch.long)
        return prediction_terms(own, guide, nothing)[1]


def _mask_of(inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    mask_BT = inputs.get("attention_mask")
    return torch.ones_like(inputs["input_ids"]) if mask_BT is None else mask_BT
