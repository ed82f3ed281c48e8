"""Further pre-training on a small corpus, regularised by self-distillation (arXiv 2210.02871, ICLR 2023).

Round 0 trains the initial weights θ₀ on the corpus with the masked objective. Each later round restarts from θ₀ on the
same rows, with the previous round's model as teacher:

L = masked loss(masked x) + w · ‖h_student(x) − stopgrad h_teacher(x)‖²

with h the last layer's first state on unmasked input, and w = 1. This file trains one round; `rounds.py` chains them,
and `masked_models.py` computes the masked loss and the states. Nothing is pruned.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from datasets import IterableDataset
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel, TrainingArguments, ViTMAEConfig

from ...data.masking import MaskedLMCollator, masking_collator
from ...files.messages import first_of, short_repr
from ...files.settings import refuse_without_part, setting
from ...training.exact_trainer import ExactTrainer
from ...training.ranks import check_launch
from ...training.row_checks import check_data
from ...training.run_folder import RunFolder
from ...training_args import ExactArguments, own_arguments
from .masked_models import MaskedImageCollator, MaskedPatches, modality_of, state_error

_NO_COMPILING = "leave it off: half of each step is outside what would be compiled"
_REMEDIES = {
    "torch_compile": _NO_COMPILING,
    "torch_compile_backend": _NO_COMPILING,  # either of these would set it
    "torch_compile_mode": _NO_COMPILING,
    "push_to_hub": "leave it out, and push OUTPUT_DIR/student with `hf upload`",
}


@dataclass
class SelfDistillationArguments(ExactArguments):
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

    without_later_effect: ClassVar = ExactArguments.without_later_effect | {"num_rounds", "remove_unused_columns"}

    num_rounds: int = setting(
        1, "Rounds of self-distillation after round 0, ≥ 1, each from the initial weights; the paper's.", least=1
    )
    distillation_weight: float = setting(
        1.0, "Factor ≥ 0 of the squared distance to the teacher's states; the paper's.", range="[0, inf)"
    )
    compared_states: Literal["first", "all"] = setting(
        "first", "first: of [CLS], as in the paper; all: the mean over a row's tokens, a variant of ours."
    )
    mlm_probability: float = setting(
        0.15, "Share in (0, 1) of a text's tokens to predict; believed, as BERT's.", range="(0, 1)"
    )

    # TrainingArguments with other defaults
    learning_rate: float = setting(
        1.5e-4, "Peak learning rate; the paper's for images, only believed for text.", range="[0, inf)"
    )
    adam_beta2: float = setting(0.95, "Adam's β2; the paper's for images, only believed for text.", range="[0, 1)")
    weight_decay: float = setting(0.01, "AdamW's; the paper's for images, only believed for text.")
    per_device_train_batch_size: int = setting(
        64, "Rows of a micro-batch on each device; the paper's batch for images, 128 for text.", least=1
    )
    num_train_epochs: float = setting(100.0, "Passes of each round; the paper's for text (images: max_steps=20000).")
    remove_unused_columns: bool = setting(False, "Trainer's; the collators choose their columns themselves.")

    def __post_init__(self) -> None:
        # before Trainer's checks: there a mode or backend sets torch_compile, which the message would then name
        for name, remedy in _REMEDIES.items():
            if value := getattr(self, name, None):
                raise ValueError(f"{name}={short_repr(value)} is not supported by SelfDistillTrainer; {remedy}")
        super().__post_init__()
        if not self.distillation_weight:
            refuse_without_part(self, {"compared_states": "distillation_weight is 0; leave it out"})


class SelfDistillTrainer(ExactTrainer):
    """One round: masked training of a model, beside a teacher if there is one; else `transformers.Trainer`.

    Masks and the order of rows depend on nothing but the settings, so a resumed round equals the uninterrupted one to
    the last bit. Evaluations measure the masked loss alone, always with the same masks.

    Args:
        model: the model to train: a masked-LM model of a known architecture, or a `ViTMAEForPreTraining`.
        args: the settings, which are copied; `num_rounds` is not used here.
        teacher_model: the model that it learns from, of the same class; taken over, frozen. Default: plain further
            pre-training.
        train_dataset: rows with `input_ids` or `pixel_values`; masks are drawn from an `example_id` if rows have it.
        eval_dataset: rows held out.
        processing_class: tokenizer (which masking text needs) or image processor; saved with checkpoints.
        data_collator: default: [`MaskedLMCollator`] or [`MaskedImageCollator`].
        kwargs: as in `transformers.Trainer`.

    Raises:
        ValueError: another kind of model, a teacher that can't be compared with it, empty or foreign data.
    """

    method = "self_distillation"
    """Name by which configs choose it."""
    arguments_class = SelfDistillationArguments
    args: SelfDistillationArguments

    def __init__(
        self,
        model: PreTrainedModel,
        args: SelfDistillationArguments,
        *,
        teacher_model: PreTrainedModel | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        data_collator: Any = None,
        **kwargs: Any,
    ):
        args = own_arguments(args, SelfDistillationArguments)
        check_launch(args)
        args.pin_data_order()
        self.modality = modality_of(model)
        data = {"train_dataset": train_dataset, "eval_dataset": eval_dataset}
        check_corpus(data, processing_class, model.config, args)
        if data_collator is None and isinstance(self.modality, MaskedPatches):
            data_collator = MaskedImageCollator(self.modality.num_patches, seed=args.seed)
        elif data_collator is None:
            masks: Any = {"mlm_probability": args.mlm_probability, "seed": args.seed}
            data_collator = masking_collator(MaskedLMCollator, processing_class, **masks)
        self.teacher = None
        if teacher_model is not None and args.distillation_weight > 0:  # else it would be asked for nothing
            _check_pair(teacher_model, model)
            self.teacher = teacher_model.eval().requires_grad_(False).to(args.device)
        self.run_folder = RunFolder(args)
        super().__init__(model, args, processing_class=processing_class, data_collator=data_collator, **data, **kwargs)

    def count(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Predictions and rows of a batch, int64 `(2,)`."""
        num_predictions = self.modality.num_predictions(inputs)
        rows = inputs["pixel_values"] if "pixel_values" in inputs else inputs["input_ids"]
        return torch.stack([num_predictions, torch.full_like(num_predictions, len(rows))])

    def smallest_inputs(self) -> dict[str, torch.Tensor]:
        """One token, or one image."""
        if not isinstance(self.modality, MaskedPatches):
            return super().smallest_inputs()
        return {"pixel_values": torch.zeros(1, *_image_shape(self.model.config), device=self.args.device)}

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
        # divided by the counts of the whole step, shares of micro-batches and ranks add up to its average
        counts = self.count(inputs) if num_items_in_batch is None else num_items_in_batch
        num_predictions, num_rows = counts.to(self.args.device).clamp(min=1).float().unbind()
        # around the states, too: they come from the bare encoder, whose forward accelerate has not wrapped
        with self.accelerator.autocast():
            terms = {"masked": self.modality.loss_sum(model, self.model, inputs) / num_predictions}
            if not model.training:
                return terms["masked"]
            if self.teacher is not None:
                # h of unmasked x, the teacher's without a gradient: a pass of each beside that of the masked loss
                with torch.no_grad():
                    teacher_BTH = self.modality.last_states(self.teacher, inputs)
                student_BTH = self.modality.last_states(self.model, inputs)
                is_first = self.args.compared_states == "first"
                error = state_error(student_BTH, teacher_BTH, inputs.get("attention_mask"), first_only=is_first)
                terms["state"] = error / num_rows
        loss = terms["masked"]
        if "state" in terms:
            loss = loss + self.args.distillation_weight * terms["state"]
        return self.scale_and_log(loss, terms, model)

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> Any:
        """The masked loss of one batch; no logits are returned."""
        with torch.no_grad():
            return self.compute_loss(model, self.prepare_batch(self._prepare_inputs(inputs))), None, None


# What is refused


def check_corpus(data: Mapping[str, Any], processor: Any, config: PreTrainedConfig, args: TrainingArguments) -> None:
    """Refuse, by a ValueError, data that can't be trained on: empty, streamed, of another modality or size.

    Args:
        data: with `train_dataset` and `eval_dataset`, both optional.
        processor: tokenizer or image processor.
        config: of the model.
        args: settings with the size of a batch.
    """
    rows = {name: data.get(name) for name in ("train_dataset", "eval_dataset")}
    if isinstance(rows["train_dataset"], torch.utils.data.IterableDataset | IterableDataset):
        raise ValueError(
            f"train_dataset is a stream ({type(rows['train_dataset']).__name__}); the corpus is read many times: give "
            "a data set with a length"
        )
    if config.model_type == ViTMAEConfig.model_type:
        expected = _image_shape(config)
        for name, images in rows.items():
            if images is None:
                continue
            if len(images) == 0:
                raise ValueError(f"{name} is empty (0 rows); check its filters, split and path")
            first = images[0]
            if "pixel_values" not in first:
                raise ValueError(
                    f"{name} has rows of {first_of(map(str, first))}, but no pixel_values; make them with the "
                    "model's image processor"
                )
            if (shape := tuple(torch.as_tensor(first["pixel_values"]).shape)) != expected:
                raise ValueError(
                    f"{name} has pixel_values of shape {shape}, the model takes {expected}; resize the images"
                )
    else:
        check_data(rows, processor, config)
    smallest = args.train_batch_size * args.world_size
    if rows["train_dataset"] is not None and len(rows["train_dataset"]) < smallest:
        raise ValueError(
            f"train_dataset has {len(rows['train_dataset'])} rows, fewer than the {smallest} of a batch "
            "(per_device_train_batch_size × ranks); give more rows or a smaller batch"
        )


def _image_shape(config: Any) -> tuple[int, ...]:
    size = config.image_size
    return (config.num_channels, *((size, size) if isinstance(size, int) else size))


def _check_pair(teacher: PreTrainedModel, model: PreTrainedModel) -> None:
    for name, of_teacher, of_model in (
        ("class", type(teacher).__name__, type(model).__name__),
        ("hidden_size", teacher.config.hidden_size, model.config.hidden_size),
        ("vocab_size", getattr(teacher.config, "vocab_size", None), getattr(model.config, "vocab_size", None)),
    ):
        if of_teacher != of_model:
            raise ValueError(
                f"teacher has {name}={of_teacher}, model {of_model}; both must agree, choose another teacher"
            )
