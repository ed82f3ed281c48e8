"""Further pre-training on a small corpus, regularised by self-distillation (arXiv 2210.02871, ICLR 2023).

Round 0 trains the initial weights θ₀ on the corpus with the masked objective. Each later round starts again from θ₀
and trains on the same rows, the model of the round before its teacher:

L = masked loss(masked x) + w · ‖h_student(x) − stopgrad h_teacher(x)‖²

with h the last layer's first state on unmasked input, and w = 1. Here is one such round; `experiments/rounds.py`
chains them. Nothing is pruned. The masked loss and the states are computed in `distillation/masked_models.py`.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from datasets import IterableDataset
from torch import nn
from transformers import (
    PreTrainedConfig,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    ViTMAEConfig,
    set_seed,
)
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ...data.masking import SeededMasks, masking_collator
from ...files.messages import short_repr
from ...files.strict_json import is_int, is_number, read_json_object, write_json
from ...models.saved_student import first_nonfinite_tensor
from ...training.checks import check_data, pin_data_order, warn_of_other_settings
from ...training.evaluation_loop import gathered
from ...training.ranks import check_launch
from ...training.run_folder import Requested, RunFolder, check_moments, check_resumable
from ...training.step_log import StepLog
from .image_masking import MaskedImageCollator
from .masked_models import MaskedPatches, modality_of, state_error

SELF_DISTILLATION = "self_distillation"
"""Name by which configs choose it."""
LOGS_FILE = "step_log.json"
_SETTINGS_THAT_MATTER = (
    *("distillation_weight", "compared_states", "mlm_probability", "seed", "data_seed", "bf16", "fp16"),
    *("learning_rate", "warmup_steps", "lr_scheduler_type", "max_steps", "num_train_epochs", "optim", "weight_decay"),
    *("adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "gradient_accumulation_steps", "train_batch_size"),
)
_REMEDIES = {
    "auto_find_batch_size": "set per_device_train_batch_size and gradient_accumulation_steps yourself",
    "label_smoothing_factor": "the masked loss has its own labels; leave it out",
    "fsdp": "use DDP (torchrun or accelerate launch)",
    "deepspeed": "use DDP (torchrun or accelerate launch)",
    "torch_compile": "leave it off: half of each step is outside what would be compiled",
    "ignore_data_skip": "a resumed run would see other data than the uninterrupted one; leave it out",
    "push_to_hub": "leave it out, and push OUTPUT_DIR/student with `hf upload`",
    "use_liger_kernel": "its fused losses would replace the masked loss; leave it out",
}


@dataclass
class SelfDistillationArguments(TrainingArguments):
    """Settings of further pre-training with self-distillation, on top of all that `TrainingArguments` has.

    Raises:
        ValueError: a value out of range or a setting that can't work here; the message names argument, value and
            remedy.

    Example:
    ```python
    >>> args = SelfDistillationArguments(output_dir="out", max_steps=100, report_to="none")
    >>> args.num_rounds, args.distillation_weight, args.compared_states
    (1, 1.0, 'first')

    ```
    """

    num_rounds: int = field(
        default=1,
        metadata={
            "help": "Rounds of self-distillation after round 0, ≥ 1, each from the initial weights; the paper's."
        },
    )
    distillation_weight: float = field(
        default=1.0, metadata={"help": "Factor ≥ 0 of the squared distance to the teacher's states; the paper's."}
    )
    compared_states: Literal["first", "all"] = field(
        default="first",
        metadata={"help": "first: of [CLS], as in the paper; all: the mean over a row's tokens, a variant of ours."},
    )
    mlm_probability: float = field(
        default=0.15, metadata={"help": "Share in (0, 1) of a text's tokens to predict; believed, as BERT's."}
    )
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Train into a folder that is not empty, without resuming."}
    )

    # TrainingArguments with other defaults
    learning_rate: float = field(
        default=1.5e-4, metadata={"help": "Peak learning rate; the paper's for images, only believed for text."}
    )
    adam_beta2: float = field(
        default=0.95, metadata={"help": "Adam's β2; the paper's for images, only believed for text."}
    )
    weight_decay: float = field(
        default=0.01, metadata={"help": "AdamW's; the paper's for images, only believed for text."}
    )
    per_device_train_batch_size: int = field(
        default=64,
        metadata={"help": "Rows of a micro-batch on each device; the paper's batch for images, 128 for text."},
    )
    num_train_epochs: float = field(
        default=100.0, metadata={"help": "Passes of each round; the paper's for text (images: max_steps=20000)."}
    )
    dataloader_drop_last: bool = field(default=True, metadata={"help": "Trainer's; every batch is a whole one."})
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Trainer's; the collators choose their columns themselves."}
    )
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "DDP's search for unused parameters; every parameter is used here."}
    )
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Trainer's filter; it synchronises every micro-step and isn't needed here."}
    )

    def __post_init__(self) -> None:
        if not is_int(self.num_rounds) or self.num_rounds < 1:
            raise ValueError(
                f"num_rounds={short_repr(self.num_rounds)} is not a whole number of at least 1; for further "
                "pre-training "
                "alone use SelfDistillTrainer without a teacher"
            )
        weight, share = self.distillation_weight, self.mlm_probability
        if not is_number(weight) or not 0 <= weight < math.inf:
            raise ValueError(f"distillation_weight={short_repr(weight)} is outside [0, inf); the default is 1.0")
        if not is_number(share) or not 0 < share < 1:
            raise ValueError(f"mlm_probability={short_repr(share)} is outside (0, 1); the default is 0.15")
        if self.compared_states not in ("first", "all"):
            raise ValueError(f"compared_states={short_repr(self.compared_states)} is not one of first, all")
        for name, remedy in _REMEDIES.items():
            if value := getattr(self, name, None):
                raise ValueError(f"{name}={short_repr(value)} is not supported by SelfDistillTrainer; {remedy}")
        if self.bf16 and not torch.accelerator.is_available():
            self.use_cpu = True  # TrainingArguments refuses bf16 on a CPU that was not asked for
        super().__post_init__()


class SelfDistillTrainer(Trainer):
    """One round: masked training of a model, beside a teacher if there is one; else `transformers.Trainer`.

    Masks and the order of rows depend on nothing but the settings, so a resumed round is the uninterrupted one, to
    the last bit. Evaluations measure the masked loss alone, always with the same masks.

    Args:
        model: what is trained: a masked-LM model of a known architecture, or a `ViTMAEForPreTraining`.
        args: the settings; `num_rounds` is not used here.
        teacher: who it learns from, of the same class; taken over, frozen. None: plain further pre-training.
        processing_class: tokenizer (which masking text needs) or image processor; saved with checkpoints.
        data_collator: default: [`MaskedLMCollator`] or [`MaskedImageCollator`].
        kwargs: as in `transformers.Trainer` (`train_dataset`, `eval_dataset`, `callbacks`, …). Rows have `input_ids`
            or `pixel_values`, and may have an `example_id` that their masks are drawn from.

    Raises:
        ValueError: another kind of model, a teacher that can't be compared with it, empty or foreign data.
    """

    args: SelfDistillationArguments
    data_collator: Any

    def __init__(
        self,
        model: PreTrainedModel,
        args: SelfDistillationArguments,
        *,
        teacher: PreTrainedModel | None = None,
        processing_class: Any = None,
        data_collator: Any = None,
        **kwargs: Any,
    ):
        check_launch(args)
        pin_data_order(args)
        self.modality = modality_of(model)
        check_corpus(kwargs, processing_class, model.config, args)
        if data_collator is None:
            data_collator = _collator(self.modality, processing_class, args)
        self.teacher = None
        if teacher is not None and args.distillation_weight > 0:  # else it would be asked for nothing
            _check_pair(teacher, model)
            self.teacher = teacher.eval().requires_grad_(False).to(args.device)
        self.run_folder = RunFolder(args)
        self.step_log = StepLog()
        self.resumed_from: str | None = None
        self.epoch_number = 0
        super().__init__(model, args, processing_class=processing_class, data_collator=data_collator, **kwargs)
        self.loss_is_scaled_for_ga = self.model_accepts_loss_kwargs = True
        self.add_callback(_Moments(self))

    # One step

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list, Any]:
        """As Trainer's; counts predictions and rows over all micro-batches and ranks."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        counts = torch.zeros(2, dtype=torch.int64, device=device)
        for batch in batches:
            counts += self._counts(batch).to(device)
        return batches, self.accelerator.reduce(counts)

    def _counts(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Predictions and rows of a batch, int64 `(2,)`."""
        num_predictions = self.modality.num_predictions(inputs)
        return torch.stack([num_predictions, torch.full_like(num_predictions, _num_rows(inputs))])

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """This micro-batch's share of the loss of its step; in evaluation the masked loss alone.

        Args:
            model: as it is wrapped for training.
            inputs: a masked batch.
            return_outputs: not supported, as nothing asks for outputs.
            num_items_in_batch: predictions and rows of the step, int64 `(2,)`; None: those of this batch.
        """
        counts = self._counts(inputs) if num_items_in_batch is None else num_items_in_batch
        num_predictions, num_rows = counts.to(self.args.device).clamp(min=1).float().unbind()
        with self.accelerator.autocast():
            terms = {"masked": self.modality.loss_sum(model, self.model, inputs) / num_predictions}
            if not model.training:
                return terms["masked"]
            if self.teacher is not None:
                terms["state"] = self._state_error(inputs) / num_rows
        loss = terms["masked"]
        if "state" in terms:
            loss = loss + self.args.distillation_weight * terms["state"]
        self.step_log.take_in({"loss": loss} | {f"loss_{name}": term for name, term in terms.items()})
        return loss * self.accelerator.num_processes  # DDP averages gradients

    def _state_error(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        with torch.no_grad():
            teacher_BTH = self.modality.last_states(self.teacher, inputs)
        student_BTH = self.modality.last_states(self.model, inputs)
        is_first = self.args.compared_states == "first"
        return state_error(student_BTH, teacher_BTH, inputs.get("attention_mask"), first_only=is_first)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """As Trainer's; after the last micro-batch of a step its terms are noted for the logs."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.accelerator.sync_gradients:
            self.step_log.close_step()
        return loss

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> Any:
        """The masked loss of one batch, whatever is asked for: nothing is predicted but what is masked."""
        with torch.no_grad():
            return self.compute_loss(model, self._prepare_inputs(inputs)), None, None

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """As Trainer's, with all rows and the masks of the first pass."""
        collator, drops = self.data_collator, self.args.dataloader_drop_last
        if isinstance(collator, SeededMasks):
            self.data_collator = _first_masks(collator)
        self.args.dataloader_drop_last = False
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.data_collator, self.args.dataloader_drop_last = collator, drops

    # A round from its first step to its last

    def train(self, resume_from_checkpoint: Requested = None, *args: Any, **kwargs: Any) -> Any:
        """Train, or go on where a checkpoint stopped.

        Args:
            resume_from_checkpoint: a folder; True or `"last"` for the newest one in `output_dir`; None to start anew.
            args: as in `Trainer.train`.
            kwargs: as in `Trainer.train`.

        Raises:
            ValueError: no checkpoint or a damaged one, or a new run in a folder that holds files.
            FloatingPointError: weights are not finite any more.
        """
        self.resumed_from = self.run_folder.resolve(resume_from_checkpoint)
        if self.resumed_from is None:
            self.run_folder.claim()
        else:
            check_resumable(self.resumed_from, (OPTIMIZER_NAME, SCHEDULER_NAME))
        set_seed(self.args.seed)  # whatever was drawn since this trainer was made
        return super().train(self.resumed_from, *args, **kwargs)

    def begin_training(self) -> None:
        """The optimizer is there and Trainer has reset its averages: go on with those of a checkpoint."""
        self.step_log, self.epoch_number = StepLog(), int(self.state.epoch or 0)
        if self.resumed_from is None:
            return
        check_moments(self.optimizer, self.resumed_from)
        path = Path(self.resumed_from) / LOGS_FILE
        saved = read_json_object(path, str(path))
        warn_of_other_settings(self._settings(), saved["settings"])
        place = {"rank": self.args.process_index, "num_ranks": self.args.world_size}
        self.step_log.load_state_dict(saved["logs"], **place, device=self.args.device)

    def begin_epoch(self) -> None:
        """A pass over the data begins: it gets masks of its own."""
        if isinstance(self.data_collator, SeededMasks):
            self.data_collator.set_epoch(self.epoch_number)
        self.epoch_number += 1

    def _settings(self) -> dict[str, Any]:
        values = self.args.to_dict() | {"train_batch_size": self.args.train_batch_size}
        return {name: values[name] for name in _SETTINGS_THAT_MATTER}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log every term of the loss beside Trainer's own logs; its running loss would not survive a resume."""
        if "loss" in logs and "learning_rate" in logs:
            logs |= self.step_log.averages(self.accelerator.reduce)
        if "train_loss" in logs:
            logs["train_loss"] = self.step_log.mean_loss(self.accelerator.reduce)
        super().log(logs, start_time)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        # Trainer writes straight into checkpoint-N and rotates before all of it is there.
        self.check_finite()
        run_dir = Path(super()._get_output_dir(trial))
        checkpoint = run_dir / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        logs = self.step_log.state_dict(partial(gathered, self.accelerator))
        with self.run_folder.staging(checkpoint, wait=self.accelerator.wait_for_everyone) as staged:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.state.best_model_checkpoint == str(staged):
                self.state.best_model_checkpoint = str(checkpoint)
            if self.args.should_save:
                self.state.save_to_json(str(staged / TRAINER_STATE_NAME))
                write_json(staged / LOGS_FILE, {"settings": self._settings(), "logs": logs})
        self.run_folder.rotate(run_dir, keep=[checkpoint, self.state.best_model_checkpoint])
        self.accelerator.wait_for_everyone()

    def _get_output_dir(self, trial: Any) -> str:
        # Where Trainer writes a checkpoint is the folder in which it is staged.
        return self.run_folder.staged_in or super()._get_output_dir(trial)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        # Trainer only warns of weights that it doesn't find, and ViTMAE's are saved under other names than it has.
        saved = type(self.model).from_pretrained(resume_from_checkpoint, dtype="float32")
        self.model.load_state_dict(saved.state_dict())

    def _load_best_model(self) -> None:
        # For the same reason.
        self._load_from_checkpoint(str(self.state.best_model_checkpoint))

    def check_finite(self) -> None:
        """Refuse, by a FloatingPointError, weights of which nothing more can come."""
        if name := first_nonfinite_tensor(self.model, None, {}):
            raise FloatingPointError(
                f"{name} is not finite at the end of step {self.state.global_step}; lower learning_rate="
                f"{self.args.learning_rate}"
            )


class _Moments(TrainerCallback):
    """The moments of a round that Trainer offers as callbacks only."""

    def __init__(self, trainer: SelfDistillTrainer):
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.begin_training()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.begin_epoch()


# What is refused


def check_corpus(data: Mapping[str, Any], processor: Any, config: PreTrainedConfig, args: TrainingArguments) -> None:
    """Refuse, by a ValueError, data that can't be trained on: empty, streamed, of another modality or size.

    Args:
        data: with `train_dataset` and `eval_dataset`, both optional.
        processor: tokenizer or image processor.
        config: of the model.
        args: say how large a batch is.
    """
    rows = {name: data.get(name) for name in ("train_dataset", "eval_dataset")}
    if isinstance(rows["train_dataset"], torch.utils.data.IterableDataset | IterableDataset):
        raise ValueError(
            f"train_dataset is a stream ({type(rows['train_dataset']).__name__}); the corpus is read many times: give "
            "a data set with a length"
        )
    if config.model_type == ViTMAEConfig.model_type:
        for name, images in rows.items():
            _check_images(name, images, config)
    else:
        check_data(rows, processor, config)
    smallest = args.train_batch_size * args.world_size
    if rows["train_dataset"] is not None and len(rows["train_dataset"]) < smallest:
        raise ValueError(
            f"train_dataset has {len(rows['train_dataset'])} rows, fewer than the {smallest} of a batch "
            "(per_device_train_batch_size × ranks); give more rows or a smaller batch"
        )


def _check_images(name: str, images: Any, config: Any) -> None:
    if images is None:
        return
    if len(images) == 0:
        raise ValueError(f"{name} is empty (0 rows); check its filters, split and path")
    first = images[0]
    if "pixel_values" not in first:
        raise ValueError(
            f"{name} has rows of {', '.join(map(str, first))}, but no pixel_values; make them with the model's image "
            "processor"
        )
    size = config.image_size
    expected = (config.num_channels, *((size, size) if isinstance(size, int) else size))
    if (shape := tuple(torch.as_tensor(first["pixel_values"]).shape)) != expected:
        raise ValueError(f"{name} has pixel_values of shape {shape}, the model takes {expected}; resize the images")


def _check_pair(teacher: PreTrainedModel, model: PreTrainedModel) -> None:
    for name, given, expected in (
        ("class", type(teacher).__name__, type(model).__name__),
        ("hidden_size", teacher.config.hidden_size, model.config.hidden_size),
        ("vocab_size", getattr(teacher.config, "vocab_size", None), getattr(model.config, "vocab_size", None)),
    ):
        if given != expected:
            raise ValueError(f"teacher has {name}={given}, model {expected}; both must agree, choose another teacher")


def _collator(modality: Any, processor: Any, args: SelfDistillationArguments) -> SeededMasks:
    if isinstance(modality, MaskedPatches):
        return MaskedImageCollator(modality.num_patches, seed=args.seed)
    return masking_collator(processor, mlm_probability=args.mlm_probability, seed=args.seed)


def _first_masks(collator: SeededMasks) -> SeededMasks:
    first = copy.deepcopy(collator)
    first.set_epoch(0)
    return first


def _num_rows(inputs: Mapping[str, torch.Tensor]) -> int:
    return len(inputs["pixel_values"] if "pixel_values" in inputs else inputs["input_ids"])
